"""A directory says which bots there are; what is wrong with one file concerns that bot only."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gateway_queue.queue.rules.allowance import Reserve
from gateway_queue.queue.rules.crash_loop import CrashLoop
from gateway_queue.roster import LARGEST, Directory, Roster
from gateway_queue.settings import Settings


def token_of(application: int) -> str:
    head = base64.b64encode(str(application).encode()).decode().rstrip("=")
    return f"{head}.GhIjKl.s3cret_s3cret"


TOKEN = token_of(1234567890123456789)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GATEWAY_QUEUE_", "DISCORD_TOKEN")):
            monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bots"
    folder.mkdir()
    return folder


def base(**given: Any) -> Settings:
    return Settings().model_copy(update=given)


def read(folder: Path, **given: Any) -> Roster:
    return Directory(folder, base(**given)).read()


def token(settings: Settings) -> str | None:
    return settings.token.get_secret_value() if settings.token else None


@pytest.mark.parametrize(
    "content", [TOKEN, f"{TOKEN}\n", f"  Bot {TOKEN}\r\n", f'"{TOKEN}"', f"\ufeff{TOKEN}"]
)
def test_a_file_is_a_bare_token(folder: Path, content: str) -> None:
    (folder / "main").write_text(content)

    roster = read(folder, interval=7.0, api_key=SecretStr("global"))

    assert token(roster.bots["main"]) == TOKEN
    assert roster.bots["main"].interval == 7
    assert roster.bots["main"].api_key is None  # the server's own opens this bot as it is
    assert (roster.wrong, roster.ignored) == ({}, frozenset())


def test_a_toml_file_has_its_own_settings_and_the_rest_from_the_server(folder: Path) -> None:
    (folder / "beta.toml").write_text(f"""
token = "{TOKEN}"
interval = 6
max_concurrency = 16
daily_starts = 500
reserve = "10%"
crash_loop = "off"
seat_ttl = 30.5
api_key = "tenant"
""")
    (folder / "plain.toml").write_text("reserve = 7")

    bots = read(folder, interval=7.0, token=SecretStr("of-the-default-bot")).bots

    beta, plain = bots["beta"], bots["plain"]
    assert token(beta) == TOKEN
    assert (beta.interval, beta.max_concurrency, beta.daily_starts) == (6, 16, 500)
    assert (beta.reserve, beta.crash_loop, beta.seat_ttl) == (Reserve.parse("10%"), None, 30.5)
    assert beta.api_key == SecretStr("tenant")
    assert (plain.token, plain.api_key, plain.interval) == (None, None, 7)
    assert (plain.reserve, plain.crash_loop) == (Reserve(7), CrashLoop(6, 600))


@pytest.mark.parametrize("name", ["elsewhere", "../elsewhere", ".hidden"])
def test_a_token_may_be_in_a_file_of_its_own(folder: Path, tmp_path: Path, name: str) -> None:
    path = folder / name if name != "elsewhere" else tmp_path / name
    path.write_text(f"{TOKEN}\n")
    given = path if name == "elsewhere" else name
    (folder / "main.toml").write_text(f"token_file = '{given}'")

    assert token(read(folder).bots["main"]) == TOKEN


def test_files_of_editors_and_kubernetes_are_ignored(folder: Path) -> None:
    (folder / "..2026_11_29").mkdir()
    (folder / "..2026_11_29" / "main").write_text(TOKEN)
    (folder / "..data").symlink_to("..2026_11_29")
    (folder / "main").symlink_to("..data/main")
    for name in (".main.swp", "main.swp", "main~", ".hidden", "#main#"):
        (folder / name).write_text("nonsense")
    (folder / "lost+found").mkdir()

    roster = read(folder)

    assert list(roster.bots) == ["main"]
    assert (roster.wrong, roster.ignored) == ({}, frozenset({"lost+found"}))


def test_an_empty_directory_has_no_bots(folder: Path) -> None:
    assert read(folder) == Roster({}, {}, frozenset())


def test_a_directory_that_is_gone_is_an_error(folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        read(folder)


WRONG = {
    "Main": (TOKEN, "'Main' is not a valid name for a bot; allowed: 1 to 63 lower"),
    "ma_in": (TOKEN, "'ma_in' is not a valid name"),
    "-main": (TOKEN, "'-main' is not a valid name"),
    "a" * 64: (TOKEN, "is not a valid name"),
    "main.json": ("{}", "'main.json' is not a valid name"),
    "empty": (" \n", "there is no token in it; allowed: a bot token on one line"),
    "two-lines": (f"{TOKEN}\n{TOKEN}\n", "its token is not allowed (white space, or char"),
    "quote": (f'"{TOKEN}', "its token is not allowed (a quote at one end"),
    "large": (TOKEN * 1000, f"it is larger than {LARGEST} bytes"),
    "binary": (b"\xff\xfe\x00", "it is not UTF-8 text"),
    "bare.toml": (TOKEN, "it is not TOML (at end of document"),
    "yaml.toml": (f"token: {TOKEN}", "it is not TOML (at line 1"),
    "digits.toml": ("interval = " + 5000 * "9", "it is not TOML ("),
    "brackets.toml": ("interval = " + 8000 * "[", "it is not TOML ("),
    "float.toml": ("interval = 1e999", "interval = inf is not allowed"),
    "table.toml": ("[interval]\nx = 1", "interval = {'x': 1} is not allowed"),
    "key.toml": ("intervall = 5", "'intervall' is not a setting of a bot; did you mean interval?"),
    "port.toml": ("xyz = 1", "'xyz' is not a setting of a bot; allowed: token, token_file"),
    "list.toml": (f"token = ['{TOKEN}']", "its token is not allowed (no text); allowed: a bot"),
    "number.toml": ("token = 5", "its token is not allowed (no text)"),
    "text.toml": ("interval = 'fast'", "interval = 'fast' is not allowed (Input should be a val"),
    "bool.toml": ("max_concurrency = true", "max_concurrency = True is not allowed"),
    "zero.toml": ("interval = 0", "allowed: a number of seconds above 0, at most 3600"),
    "nan.toml": ("interval = nan", "interval = nan is not allowed"),
    "loop.toml": ("crash_loop = false", "crash_loop = False is not allowed (not of the form 6/600"),
    "all.toml": ("reserve = '100%'", "a reserve of 100% leaves nothing that could ever"),
    "more.toml": ("daily_starts = 5\nreserve = 5", "a reserve of 5 leaves nothing"),
    "both.toml": (f"token = '{TOKEN}'\ntoken_file = '/x'", "token and token_file are both set"),
    "none.toml": ("token_file = '/no/such'", "its token_file /no/such cannot be read: No such"),
    "itself.toml": (f"token_file = '{TOKEN}'", "its token_file cannot be read: No such file"),
    "folder.toml": ("token_file = '/'", "its token_file / is not a regular file"),
    "null.toml": (r'token_file = "\u0000"', "its token_file cannot be read: "),
    "header.toml": (f"[{TOKEN}]", "is not a setting of a bot"),
    "key-with-space.toml": ("api_key = 'tenant s3cret_s3cret'", "its api_key is not allowed (whi"),
}


@pytest.mark.parametrize(("name", "case"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_file_says_why_and_never_the_token(
    folder: Path, name: str, case: tuple[str | bytes, str]
) -> None:
    content, why = case
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "good").write_text(TOKEN)

    roster = read(folder)

    assert list(roster.bots) == ["good"]
    assert roster.names == {"good", name.removesuffix(".toml")}
    assert why in roster.wrong[name]
    assert "s3cret" not in str(roster.wrong)


def test_what_cannot_be_opened_is_told(folder: Path) -> None:
    (folder / "dangling").symlink_to("nowhere")
    (folder / "far").symlink_to(300 * "x")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")

    assert read(folder).wrong == {
        "dangling": "it cannot be read: No such file or directory",
        "far": "it cannot be read: File name too long",
        "loop": "it cannot be read: Too many levels of symbolic links",
        "pipe": "it is not a regular file",
    }


def test_one_name_in_two_files_is_nobody(folder: Path) -> None:
    (folder / "main").write_text(TOKEN)
    (folder / "main.toml").write_text(f"token = '{TOKEN}'")

    roster = read(folder)

    assert (roster.bots, roster.names) == ({}, {"main"})
    assert roster.wrong == {"main": "the bot main also has main.toml; allowed: one of the two"}


def test_the_default_bot_is_named_once(folder: Path) -> None:
    (folder / "default").write_text(TOKEN)

    assert list(read(folder).bots) == ["default"]
    assert "DISCORD_TOKEN" in read(folder, token=SecretStr("x")).wrong["default"]


def test_changes_are_seen(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (folder / "main.toml").write_text(f"token_file = '{tmp_path / 'token'}'")
    directory = Directory(folder, base())
    first = directory.read()
    assert directory.read() == first

    other = token_of(2)
    (tmp_path / "token").write_text(other)
    assert token(directory.read().bots["main"]) == other
    (folder / "main.toml").write_text("interval = 'x'")
    assert directory.read().wrong
    (folder / "main.toml").rename(folder / "renamed.toml")
    (folder / "renamed.toml").write_text("interval = 6")
    roster = directory.read()
    assert (list(roster.bots), roster.wrong) == (["renamed"], {})


def test_files_are_read_again_only_if_they_have_changed(folder: Path) -> None:
    for number in range(200):
        (folder / f"bot-{number}").write_text(token_of(number))
    directory = Directory(folder, base())
    first = directory.read()
    again = directory.read()

    assert all(again.bots[name] is settings for name, settings in first.bots.items())


def test_a_name_that_is_no_text_does_no_harm(folder: Path) -> None:
    try:
        (folder / os.fsdecode(b"b\xfft")).write_text(TOKEN)
    except OSError:
        pytest.skip("no file here can have such a name")

    [why] = read(folder).wrong.values()
    assert why.startswith("'b\\udcfft' is not a valid name for a bot")
