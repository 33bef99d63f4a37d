"""A wrong setting stops the start with words that help, and no secret ever shows."""

import base64
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway_queue.queue.rules.allowance import Reserve
from gateway_queue.queue.rules.crash_loop import CrashLoop
from gateway_queue.settings import (
    Setting,
    Settings,
    SettingsError,
    about,
    bot_of,
    describe,
    load,
    unknown_variables,
)

APPLICATION_ID = "1234567890123456789"
TOKEN = base64.b64encode(APPLICATION_ID.encode()).decode().rstrip("=") + ".GhIjKl.s3cret_s3cret"
API_KEY = "open-sesame"

DEFAULTS = {
    "HOST": "127.0.0.1",
    "PORT": "8000",
    "DISCORD_TOKEN": "none",
    "GATEWAY_QUEUE_DISCORD_API": "https://discord.com/api/v10",
    "GATEWAY_QUEUE_INTERVAL": "5.5",
    "GATEWAY_QUEUE_MAX_CONCURRENCY": "none",
    "GATEWAY_QUEUE_DAILY_STARTS": "1000",
    "GATEWAY_QUEUE_RESERVE": "5%",
    "GATEWAY_QUEUE_REFRESH": "300",
    "GATEWAY_QUEUE_SEAT_TTL": "60",
    "GATEWAY_QUEUE_CRASH_LOOP": "6/600",
    "GATEWAY_QUEUE_BOTS": "none",
    "GATEWAY_QUEUE_API_KEY": "none",
    "GATEWAY_QUEUE_OPERATOR_KEY": "none",
    "GATEWAY_QUEUE_CERTFILE": "none",
    "GATEWAY_QUEUE_KEYFILE": "none",
    "GATEWAY_QUEUE_JOURNAL": "sqlite",
    "GATEWAY_QUEUE_REDIS": "none",
    "GATEWAY_QUEUE_REDIS_PREFIX": "gateway-queue",
    "GATEWAY_QUEUE_REPLICA": "none",
    "GATEWAY_QUEUE_SHUTDOWN_GRACE": "5",
    "GATEWAY_QUEUE_LOG_LEVEL": "info",
    "GATEWAY_QUEUE_LOG_FORMAT": "console",
}
REDIS = "rediss://queue:open-sesame@valkey.test:6380/1"

# The secrets, each with a value that is allowed.
SECRETS = {
    "DISCORD_TOKEN": TOKEN,
    "GATEWAY_QUEUE_API_KEY": API_KEY,
    "GATEWAY_QUEUE_OPERATOR_KEY": API_KEY,
    "GATEWAY_QUEUE_REDIS": REDIS,
}

WRONG = [
    ("HOST", ""),
    ("HOST", " "),
    ("PORT", "http"),
    ("PORT", "-1"),
    ("PORT", "65536"),
    ("PORT", "80.5"),
    ("PORT", ""),
    ("GATEWAY_QUEUE_DISCORD_API", "discord.com"),
    ("GATEWAY_QUEUE_DISCORD_API", "ftp://discord.com"),
    ("GATEWAY_QUEUE_DISCORD_API", "https://"),
    ("GATEWAY_QUEUE_DISCORD_API", "https://discord.com/api#v10"),
    ("GATEWAY_QUEUE_DISCORD_API", "https://discord.com:port"),
    ("GATEWAY_QUEUE_DISCORD_API", "https://discord..com"),
    ("GATEWAY_QUEUE_INTERVAL", "0"),
    ("GATEWAY_QUEUE_INTERVAL", "-1"),
    ("GATEWAY_QUEUE_INTERVAL", "nan"),
    ("GATEWAY_QUEUE_INTERVAL", "inf"),
    ("GATEWAY_QUEUE_INTERVAL", "3600.1"),
    ("GATEWAY_QUEUE_INTERVAL", "5,5"),
    ("GATEWAY_QUEUE_MAX_CONCURRENCY", "0"),
    ("GATEWAY_QUEUE_MAX_CONCURRENCY", "10001"),
    ("GATEWAY_QUEUE_MAX_CONCURRENCY", "none"),
    ("GATEWAY_QUEUE_DAILY_STARTS", "0"),
    ("GATEWAY_QUEUE_DAILY_STARTS", "1000001"),
    ("GATEWAY_QUEUE_RESERVE", "200%"),
    ("GATEWAY_QUEUE_RESERVE", "-1"),
    ("GATEWAY_QUEUE_RESERVE", "5.5%"),
    ("GATEWAY_QUEUE_REFRESH", "14.9"),
    ("GATEWAY_QUEUE_REFRESH", "86401"),
    ("GATEWAY_QUEUE_REFRESH", "nan"),
    ("GATEWAY_QUEUE_SEAT_TTL", "-1"),
    ("GATEWAY_QUEUE_SEAT_TTL", "inf"),
    ("GATEWAY_QUEUE_CRASH_LOOP", "6"),
    ("GATEWAY_QUEUE_CRASH_LOOP", "0/600"),
    ("GATEWAY_QUEUE_CRASH_LOOP", "on"),
    ("GATEWAY_QUEUE_BOTS", "/no/such/directory"),
    ("GATEWAY_QUEUE_BOTS", "/etc/passwd"),
    ("GATEWAY_QUEUE_JOURNAL", "sqlite:"),
    ("GATEWAY_QUEUE_JOURNAL", "postgres:x"),
    ("GATEWAY_QUEUE_JOURNAL", "/var/lib/journal"),
    ("GATEWAY_QUEUE_JOURNAL", "sqlite::memory:"),
    ("GATEWAY_QUEUE_JOURNAL", "sqlite:~nobody-of-this-name/journal"),
    ("GATEWAY_QUEUE_REDIS_PREFIX", ""),
    ("GATEWAY_QUEUE_REDIS_PREFIX", "two words"),
    ("GATEWAY_QUEUE_REDIS_PREFIX", "queue:1"),
    ("GATEWAY_QUEUE_REDIS_PREFIX", "{queue}"),
    ("GATEWAY_QUEUE_REDIS_PREFIX", "q" * 65),
    ("GATEWAY_QUEUE_REPLICA", ""),
    ("GATEWAY_QUEUE_REPLICA", "köln"),
    ("GATEWAY_QUEUE_REPLICA", "q" * 65),
    ("GATEWAY_QUEUE_SHUTDOWN_GRACE", "-0.1"),
    ("GATEWAY_QUEUE_SHUTDOWN_GRACE", "3601"),
    ("GATEWAY_QUEUE_LOG_LEVEL", "loud"),
    ("GATEWAY_QUEUE_LOG_FORMAT", "xml"),
]


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without settings, and a folder in place of /run/secrets."""
    for name in list(os.environ):
        if name.upper() in DEFAULTS or name.upper().startswith(("GATEWAY_QUEUE_", "DISCORD_TOKEN")):
            monkeypatch.delenv(name)
    monkeypatch.setitem(Settings.model_config, "secrets_dir", tmp_path)
    return tmp_path


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, to whom no file is closed."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


def by_name(name: str) -> Setting:
    return next(setting for setting in describe() if setting.name == name)


class TestDescription:
    def test_it_has_every_setting_of_the_contract_with_its_default(self) -> None:
        assert {setting.name: setting.default for setting in describe()} == DEFAULTS
        assert len(describe()) == len(Settings.model_fields)

    def test_it_has_words_for_each(self) -> None:
        for setting in describe():
            assert setting.meaning
            assert setting.allowed

    def test_it_knows_the_secrets(self) -> None:
        assert {setting.name for setting in describe() if setting.is_secret} == SECRETS.keys()

    def test_flags_are_named_like_the_variables(self) -> None:
        assert by_name("PORT").flag == "--port"
        assert by_name("GATEWAY_QUEUE_SHUTDOWN_GRACE").flag == "--shutdown-grace"
        assert len({setting.flag for setting in describe()}) == len(DEFAULTS)

    @pytest.mark.parametrize(
        "name",
        [name for name, default in DEFAULTS.items() if default != "none"],
    )
    def test_each_default_may_be_given(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, DEFAULTS[name])
        assert load() == load(**{name: DEFAULTS[name]}) == Settings()


class TestWrongSetting:
    @pytest.mark.parametrize(("name", "given"), WRONG)
    def test_the_message_has_the_name_the_value_and_what_is_allowed(
        self, name: str, given: str
    ) -> None:
        with pytest.raises(SettingsError) as caught:
            load(**{name: given})
        words = str(caught.value)
        assert words.startswith(f"{name}={given} is not allowed")
        assert words.endswith(f"allowed: {by_name(name).allowed}")
        assert "\n" not in words

    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("PORT", "http"),
            ("GATEWAY_QUEUE_CRASH_LOOP", "6"),
            ("GATEWAY_QUEUE_RESERVE", "200%"),
            ("GATEWAY_QUEUE_RESERVE", "1e3"),
        ],
    )
    def test_it_is_the_same_wherever_it_comes_from(
        self, name: str, given: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SettingsError) as of_flag:
            load(**{name: given})
        (secrets / name).write_text(given + "\n")
        with pytest.raises(SettingsError) as of_file:
            load()
        (secrets / name).unlink()
        monkeypatch.setenv(name, given)
        with pytest.raises(SettingsError) as of_variable:
            load()
        assert str(of_flag.value) == str(of_variable.value) == str(of_file.value)

    @pytest.mark.parametrize(("reserve", "starts"), [("50", "50"), ("51", "50"), ("99%", "10")])
    def test_a_reserve_of_everything_could_start_no_shard(self, reserve: str, starts: str) -> None:
        given = {"GATEWAY_QUEUE_RESERVE": reserve, "GATEWAY_QUEUE_DAILY_STARTS": starts}
        with pytest.raises(SettingsError, match=f"RESERVE={reserve}.*DAILY_STARTS={starts}"):
            load(**given)
        # With a token Discord's number decides, which is not known yet.
        assert load(**given, DISCORD_TOKEN=TOKEN).reserve == Reserve.parse(reserve)

    def test_no_total_leaves_anything_beside_all_of_it(self) -> None:
        with pytest.raises(SettingsError, match="RESERVE=100%"):
            load(GATEWAY_QUEUE_RESERVE="100%", DISCORD_TOKEN=TOKEN)


class TestSource:
    def test_a_flag_wins_over_a_variable_and_that_over_a_file(
        self, secrets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (secrets / "PORT").write_text("1")
        assert load().port == 1
        monkeypatch.setenv("PORT", "2")
        assert load().port == 2
        assert load(PORT="3").port == 3

    def test_an_empty_variable_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in DEFAULTS:
            monkeypatch.setenv(name, "")
        assert load() == Settings()

    @pytest.mark.parametrize("name", sorted(SECRETS))
    def test_an_empty_secret_file_is_a_mistake(self, name: str, secrets: Path) -> None:
        (secrets / name).write_text("\n")
        with pytest.raises(SettingsError, match=name):
            load()

    @pytest.mark.parametrize("name", ["DISCORD_TOKEN", "discord_token"])
    def test_a_secret_may_come_from_a_file(self, name: str, secrets: Path) -> None:
        (secrets / name).write_text(f"Bot {TOKEN}\n")
        token = load().token
        assert token is not None
        assert token.get_secret_value() == TOKEN

    def test_a_file_that_cannot_be_read_is_a_mistake(self, secrets: Path) -> None:
        (secrets / "DISCORD_TOKEN").write_text(TOKEN)
        (secrets / "DISCORD_TOKEN").chmod(0)
        with as_nobody(), pytest.raises(SettingsError, match=r"cannot be read: .* denied"):
            load()

    @pytest.mark.parametrize("name", sorted(SECRETS))
    @pytest.mark.parametrize("spelled", [str.upper, str.lower])
    def test_a_variable_may_name_the_file_of_a_secret(
        self,
        name: str,
        spelled: Callable[[str], str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = tmp_path / "a file"
        path.write_text(f"\n {SECRETS[name]}\r\n")
        monkeypatch.setenv(spelled(f"{name}_FILE"), str(path))
        settings = load()
        monkeypatch.delenv(spelled(f"{name}_FILE"))
        assert settings == load(**{name: SECRETS[name]}) != load()

    @pytest.mark.parametrize("name", sorted(SECRETS))
    def test_a_secret_and_the_file_of_it_are_one_too_many(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a file"
        path.write_text(SECRETS[name])
        monkeypatch.setenv(name, "")
        monkeypatch.setenv(f"{name}_FILE", str(path))
        load()
        monkeypatch.setenv(name, SECRETS[name])
        with pytest.raises(SettingsError, match=f"^{name} and {name}_FILE are both set"):
            load()

    @pytest.mark.parametrize("name", sorted(SECRETS))
    def test_an_unusable_file_of_a_secret_is_named(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a file"
        monkeypatch.setenv(f"{name}_FILE", str(path))
        with pytest.raises(SettingsError, match=f"{name}_FILE={path} .* No such file"):
            load()
        path.write_bytes(b"\xff")
        with pytest.raises(SettingsError, match=f"{name}_FILE={path} .* UTF-8"):
            load()
        path.write_text("\n")
        with pytest.raises(SettingsError, match=f"the value of {name} is not allowed"):
            load()

    @pytest.mark.parametrize("name", sorted(SECRETS))
    def test_a_secret_in_place_of_its_file_is_not_shown(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"{name}_FILE", TOKEN)
        with pytest.raises(SettingsError, match=f"named by {name}_FILE cannot be read") as caught:
            load()
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("GATEWAY_QUEUE_INTERVALL", "GATEWAY_QUEUE_INTERVAL"),
            ("gateway_queue_apikey", "GATEWAY_QUEUE_API_KEY"),
            ("GATEWAY_QUEUE_DISCORD_TOKEN", "DISCORD_TOKEN"),
            ("GATEWAY_QUEUE_HOST", "HOST"),
            ("GATEWAY_QUEUE_CERT_FILE", "GATEWAY_QUEUE_CERTFILE"),
            ("GATEWAY_QUEUE_XYZZY", None),
        ],
    )
    def test_a_variable_like_a_setting_is_unknown(
        self, name: str, nearest: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "1")
        assert unknown_variables() == {name.upper(): nearest}

    def test_the_variables_of_settings_of_commands_and_of_kubernetes_are_known(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in (
            *DEFAULTS,
            *(f"{secret}_FILE" for secret in SECRETS),
            "GATEWAY_QUEUE_URL",
            "GATEWAY_QUEUE_PORT",
            "GATEWAY_QUEUE_PORT_8000_TCP_ADDR",
            "GATEWAY_QUEUE_SERVICE_HOST",
            "GATEWAY_QUEUE_METRICS_SERVICE_PORT_HTTP",
        ):
            monkeypatch.setenv(name, "1")
        assert unknown_variables() == {}

    def test_what_is_no_setting_is_no_matter(
        self, secrets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (secrets / "kubernetes.io").mkdir()
        (secrets / "other_secret").write_text("of another program")
        monkeypatch.setenv("GATEWAY_QUEUE_FUTURE", "1")
        assert load() == Settings()


class TestSecret:
    @pytest.mark.parametrize(
        "given",
        [
            TOKEN,
            f"Bot {TOKEN}",
            f" Bot  {TOKEN}\r\n",
            f"{TOKEN}\n",
            f'"{TOKEN}"',
            f" 'Bot {TOKEN} '\n",
        ],
    )
    def test_a_token_is_stripped_of_its_prefix_and_of_white_space(self, given: str) -> None:
        token = load(DISCORD_TOKEN=given).token
        assert token is not None
        assert token.get_secret_value() == TOKEN

    @pytest.mark.parametrize(
        "token",
        [
            " ",
            "two words",
            "two\nlines",
            "tökén",
            f"Bearer {TOKEN}",
            "Bot ",
        ],
    )
    def test_a_wrong_token_is_refused_without_showing_it(self, token: str) -> None:
        with pytest.raises(SettingsError, match="DISCORD_TOKEN") as caught:
            load(DISCORD_TOKEN=token)
        assert by_name("DISCORD_TOKEN").allowed in str(caught.value)
        assert token.strip() in {"", "Bot"} or token not in str(caught.value)

    def test_an_api_key_may_be_in_quotes(self) -> None:
        assert load(GATEWAY_QUEUE_API_KEY=f"'{API_KEY}'") == load(GATEWAY_QUEUE_API_KEY=API_KEY)

    @pytest.mark.parametrize("name", sorted(SECRETS))
    @pytest.mark.parametrize("given", ['"{}', "{}'", "\"{}'", '"', '""'])
    def test_quotes_that_do_not_match_are_refused(self, name: str, given: str) -> None:
        with pytest.raises(SettingsError, match=name) as caught:
            load(**{name: given.format(API_KEY)})
        assert API_KEY not in str(caught.value)

    @given(st.sampled_from(sorted(SECRETS)), st.text(st.characters(codec="utf-8"), min_size=1))
    def test_no_secret_shows_in_an_error_or_its_traceback(self, name: str, junk: str) -> None:
        secret = f"xyzzy-{junk}-plugh"
        try:
            shown = repr(load(**{name: secret}))
        except SettingsError as error:
            shown = "".join(traceback.format_exception(error))
        assert "xyzzy" not in shown
        assert "plugh" not in shown

    def test_no_secret_shows_in_the_settings(self) -> None:
        settings = load(DISCORD_TOKEN=TOKEN, GATEWAY_QUEUE_API_KEY=API_KEY)
        shown = f"{settings!r} {settings!s}"
        for secret in ("s3cret", "GhIjKl", API_KEY):
            assert secret not in shown

    def test_no_secret_shows_where_another_setting_is_wrong(self) -> None:
        with pytest.raises(SettingsError) as caught:
            load(DISCORD_TOKEN=TOKEN, GATEWAY_QUEUE_API_KEY=API_KEY, PORT="http")
        shown = "".join(traceback.format_exception(caught.value))
        assert "s3cret" not in shown
        assert API_KEY not in shown

    @pytest.mark.parametrize(
        "url",
        [
            "https://proxy:open-sesame@localhost/api/v10",
            "proxy:open-sesame@localhost",
            "https://localhost/api?key=open-sesame",
        ],
    )
    def test_a_password_in_a_url_is_refused_without_showing_it(self, url: str) -> None:
        with pytest.raises(SettingsError, match="without user, password") as caught:
            load(GATEWAY_QUEUE_DISCORD_API=url)
        assert "open-sesame" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("localhost:6379", "none of these kinds"),
            ("http://localhost", "none of these kinds"),
            ("redis+cluster://localhost", "none of these kinds"),
            ("unix+sentinel:///run/socket", "none of these kinds"),
            ("redis+sentinel://localhost", "the Sentinels"),
            ("redis+sentinel://localhost/two/names", "the Sentinels"),
            ("redis+sentinel:///main", "where the server is"),
            ("redis+sentinel://localhost,,other/main", "where the server is"),
            ("redis+sentinel://localhost:open-sesame/main", "no port"),
            ("redis://localhost?sentinel_password=open-sesame", "an option"),
            ("redis://", "where the server is"),
            ("redis://:open-sesame@", "where the server is"),
            ("redis://localhost:0", "where the server is"),
            ("redis://queue:open-sesame", "no port"),  # a password without a host behind it
            ("redis://localhost:65536", "no port"),
            ("redis://[::1", "not a URL"),
            ("unix://", "where the server is"),
            ("redis://open sesame@localhost", "white space"),
            ("redis://localhost redis://other", "white space"),
            ("'redis://localhost", "quote"),
            ("redis://localhost/queue", "number of a database"),
            ("redis://localhost?db=queue", "an option"),
            ("redis://localhost?stream_timeout=open-sesame", "an option"),
            ("rediss://localhost?ssl_ca_certs=/no/such/file", "No such file"),
            ("rediss://localhost?ssl_ca_certs=/etc/passwd", "no certificate"),
            ("rediss://localhost?ssl_keyfile=/no/such/file", "No such file"),
        ],
    )
    def test_a_wrong_url_of_redis_is_refused_without_showing_it(self, url: str, why: str) -> None:
        with pytest.raises(SettingsError, match=why) as caught:
            load(GATEWAY_QUEUE_REDIS=url)
        assert str(caught.value).startswith("the value of GATEWAY_QUEUE_REDIS is not allowed")
        assert str(caught.value).endswith(f"allowed: {by_name('GATEWAY_QUEUE_REDIS').allowed}")
        shown = "".join(traceback.format_exception(caught.value))
        assert "open-sesame" not in shown


class TestRedis:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://localhost",
            "redis://[::1]:6379/2",
            REDIS,
            "unix:///run/valkey/socket?db=1",
            "redis+sentinel://a,b:26380,[::1]/main?db=3&sentinel_password=open-sesame",
        ],
    )
    def test_it_is_a_url_and_may_be_in_quotes(self, url: str) -> None:
        for value in (url, f"'{url}'", f" {url}\n"):
            redis = load(GATEWAY_QUEUE_REDIS=value).redis
            assert redis is not None
            assert redis.get_secret_value() == url

    def test_it_says_what_to_install_for_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "coredis", None)
        with pytest.raises(SettingsError, match=r"'gateway-queue\[server,redis\]'"):
            load(GATEWAY_QUEUE_REDIS=REDIS)
        assert load().redis is None

    def test_a_replica_has_another_name_at_each_start(self) -> None:
        settings = load(GATEWAY_QUEUE_REPLICA="queue-1")
        names = {settings.replica_name for _ in range(2)}
        assert len(names) == 2
        assert all(name.startswith("queue-1-") for name in names)

    def test_replicas_need_the_same_bot_rules_and_may_differ_in_all_else(self) -> None:
        here = load(DISCORD_TOKEN=TOKEN)
        assert about(here) == about(load(DISCORD_TOKEN=TOKEN, PORT="1", GATEWAY_QUEUE_REPLICA="b"))
        for name, other in {
            "DISCORD_TOKEN": f"MTIzNDU2Nzg5.{TOKEN}",
            "GATEWAY_QUEUE_INTERVAL": "6",
            "GATEWAY_QUEUE_MAX_CONCURRENCY": "2",
            "GATEWAY_QUEUE_RESERVE": "7%",
            "GATEWAY_QUEUE_SEAT_TTL": "61",
            "GATEWAY_QUEUE_CRASH_LOOP": "off",
        }.items():
            assert about(here) != about(load(**{"DISCORD_TOKEN": TOKEN, name: other}))
        assert "s3cret" not in about(here)


class TestValue:
    def test_the_url_of_the_api_may_end_in_a_slash(self) -> None:
        assert load(GATEWAY_QUEUE_DISCORD_API="http://[::1]:80/api/").api == "http://[::1]:80/api"

    def test_a_crash_loop_may_be_off(self) -> None:
        assert load(GATEWAY_QUEUE_CRASH_LOOP="off").crash_loop is None
        assert load(GATEWAY_QUEUE_CRASH_LOOP="3/60").crash_loop == CrashLoop(3, 60.0)


ISSUER = trustme.CA()
ISSUED = ISSUER.issue_cert("queue.test")
CERTIFICATE = ISSUED.cert_chain_pems[0].bytes()
KEY = ISSUED.private_key_pem.bytes()
KEY_OF_ANOTHER = ISSUER.issue_cert("other.test").private_key_pem.bytes()
ENCRYPTED = load_pem_private_key(KEY, None).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open-sesame")
)


class TestCertificate:
    @pytest.fixture
    def certfile(self, tmp_path: Path) -> Path:
        path = tmp_path / "certificate.pem"
        path.write_bytes(CERTIFICATE)
        return path

    @pytest.fixture
    def keyfile(self, tmp_path: Path) -> Path:
        path = tmp_path / "key.pem"
        path.write_bytes(KEY)
        return path

    def test_a_certificate_and_its_key_are_two_files(self, certfile: Path, keyfile: Path) -> None:
        settings = load(GATEWAY_QUEUE_CERTFILE=str(certfile), GATEWAY_QUEUE_KEYFILE=str(keyfile))
        assert (settings.certfile, settings.keyfile) == (certfile, keyfile)

    def test_or_one(self, keyfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keyfile.write_bytes(KEY + CERTIFICATE)
        monkeypatch.setenv("HOME", str(keyfile.parent))
        both = f"~/{keyfile.name}"
        settings = load(GATEWAY_QUEUE_CERTFILE=both, GATEWAY_QUEUE_KEYFILE=both)
        assert settings.certfile == settings.keyfile == keyfile

    def test_one_without_the_other_is_a_mistake(self, certfile: Path, keyfile: Path) -> None:
        for one in (
            {"GATEWAY_QUEUE_CERTFILE": str(certfile)},
            {"GATEWAY_QUEUE_KEYFILE": str(keyfile)},
        ):
            with pytest.raises(SettingsError, match=r"CERTFILE and .*_KEYFILE.*both or neither"):
                load(**one)

    @pytest.mark.parametrize("name", ["GATEWAY_QUEUE_CERTFILE", "GATEWAY_QUEUE_KEYFILE"])
    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("", "Is a directory"),
            ("~nobody-of-this-name/key.pem", "home directory"),
            ("/nowhere/key.pem", "No such file or directory"),
            ("key.pem\0", "null byte"),
            (1000 * "k", "File name too long"),
        ],
    )
    def test_what_is_no_file_is_refused(self, name: str, path: str, why: str) -> None:
        with pytest.raises(SettingsError, match=f"^the value of {name} .*{why}") as caught:
            load(**{name: path})
        assert str(caught.value).endswith(f"allowed: {by_name(name).allowed}")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_what_cannot_be_read_is_refused(self, keyfile: Path) -> None:
        keyfile.chmod(0)
        with pytest.raises(SettingsError, match=r"KEYFILE .*Permission denied"):
            load(GATEWAY_QUEUE_KEYFILE=str(keyfile))

    @pytest.mark.parametrize("content", [b"", b"nonsense", KEY], ids=["empty", "nonsense", "a key"])
    def test_what_has_no_certificate_is_refused(
        self, content: bytes, certfile: Path, keyfile: Path
    ) -> None:
        certfile.write_bytes(content)
        with pytest.raises(SettingsError, match=r"CERTFILE is .*the file contains no certificate"):
            load(GATEWAY_QUEUE_CERTFILE=str(certfile), GATEWAY_QUEUE_KEYFILE=str(keyfile))

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "the file contains no private key"),
            (CERTIFICATE, "the file contains no private key"),
            (KEY[:100], "the file contains no private key"),
            (KEY_OF_ANOTHER, "the key belongs to another certificate"),
            (ENCRYPTED, "the key is encrypted"),
        ],
        ids=["empty", "a certificate", "cut off", "of another", "encrypted"],
    )
    def test_what_is_not_the_key_is_refused(
        self, content: bytes, why: str, certfile: Path, keyfile: Path
    ) -> None:
        keyfile.write_bytes(content)
        with pytest.raises(SettingsError, match=r"CERTFILE and .*_KEYFILE are not") as caught:
            load(GATEWAY_QUEUE_CERTFILE=str(certfile), GATEWAY_QUEUE_KEYFILE=str(keyfile))
        assert f"({why})" in str(caught.value)

    @pytest.mark.parametrize("name", ["GATEWAY_QUEUE_CERTFILE", "GATEWAY_QUEUE_KEYFILE"])
    def test_a_key_in_place_of_its_path_is_refused_without_showing_it(self, name: str) -> None:
        whole = KEY.decode()
        lines = whole.splitlines()[1:-1]
        for mistake in (whole, whole.replace("\n", "\\n"), "".join(lines), lines[0]):
            with pytest.raises(SettingsError, match=f"^the value of {name}") as caught:
                load(**{name: mistake})
            shown = "".join(traceback.format_exception(caught.value))
            assert not [line for line in lines if line in shown]


class TestJournalPath:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        return tmp_path

    def test_it_is_named_by_the_application_id_of_the_token(self, home: Path) -> None:
        path = load(DISCORD_TOKEN=TOKEN).journal_path
        assert path == home / "state" / "gateway-queue" / f"{APPLICATION_ID}.sqlite"

    def test_without_a_token_it_says_so(self) -> None:
        path = load().journal_path
        assert path is not None
        assert path.name == "no-token.sqlite"

    def test_it_may_be_anywhere(self, home: Path) -> None:
        assert load(GATEWAY_QUEUE_JOURNAL="sqlite:j").journal_path == Path.cwd() / "j"
        assert load(GATEWAY_QUEUE_JOURNAL="sqlite:/srv/j").journal_path == Path("/srv/j")
        assert load(GATEWAY_QUEUE_JOURNAL="sqlite:~/j").journal_path == home / "j"

    def test_memory_has_none(self) -> None:
        assert load(GATEWAY_QUEUE_JOURNAL="memory").journal_path is None

    @given(st.integers(1, 2**63).map(str), st.booleans())
    def test_any_application_id_is_read(self, application_id: str, padded: bool) -> None:  # noqa: FBT001
        head = base64.b64encode(application_id.encode()).decode()
        token = (head if padded else head.rstrip("=")) + ".rest.of_it"
        assert bot_of(SecretStr(token)) == application_id

    @given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
    def test_any_token_has_its_own_file_name_and_is_never_shown(self, text: str) -> None:
        secret = f"{text}.s3cret"
        name = bot_of(SecretStr(secret))
        assert name == bot_of(SecretStr(secret))
        assert Path(name).name == name
        assert "s3cret" not in name
        assert name != bot_of(None)

    def test_two_tokens_of_a_proxy_have_two_journals(self) -> None:
        assert bot_of(SecretStr("proxy-token-a")) != bot_of(SecretStr("proxy-token-b"))
        assert bot_of(SecretStr("proxy-token-a")).startswith("token-")
