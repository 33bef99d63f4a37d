"""The settings: from the environment, from flags and from secret files.

The fields below are the single source for them: the command's flags, its help and the
documentation's tables follow from it.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import secrets
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import httpx
import platformdirs
import pydantic_settings
from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway_queue.queue.rules.allowance import MOST_BUCKETS, Reserve
from gateway_queue.queue.rules.crash_loop import CrashLoop
from gateway_queue.redis_url import RedisURL

# Where Docker and Kubernetes put secrets.
SECRETS = Path("/run/secrets")

PREFIX = "GATEWAY_QUEUE_"

# More session starts a day than any bot has.
MOST_STARTS = 1_000_000

# The name of the bot that paths without a bot refer to.
DEFAULT = "default"

# The keys of a server or a bot. A bot in a directory has its own, or none.
KEYS = ("api_key", "operator_key")


class SettingsError(Exception):
    """A setting is wrong. The message names the setting, its value and what is allowed."""


def _setting(
    name: str, default: Any, meaning: str, allowed: str, *, secret: bool = False, **rules: Any
) -> Any:
    return Field(
        default,
        validation_alias=name,
        description=meaning,
        json_schema_extra={"allowed": allowed, "secret": secret},
        **rules,
    )


def _unquoted(text: object) -> str:
    """Strip white space and quotes around ``text``: `docker run --env-file` keeps quotes."""
    if not isinstance(text, str):
        raise ValueError("no text")  # noqa: TRY004 - pydantic wants a ValueError
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].strip()
    if text.startswith(("'", '"')) or text.endswith(("'", '"')):
        raise ValueError("a quote at one end only")
    return text


def _token(text: object) -> str:
    token = re.sub(r"^Bot(\s+|$)", "", _unquoted(text))
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("white space, or characters that tokens do not have")
    return token


def _api_key(text: object) -> str:
    key = _unquoted(text)
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("white space, or characters that an HTTP header cannot have")
    return key


def _api(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    try:
        url.host.encode("idna")
    except UnicodeError:
        raise ValueError("not a valid host name") from None
    extra = url.userinfo or url.query or url.fragment or re.search(r"\s", text)
    if url.scheme not in {"http", "https"} or not url.host or extra:
        raise ValueError("not a URL of that kind")
    if url.port is not None and not 0 < url.port < 65_536:
        raise ValueError("not a valid port")
    return text.rstrip("/")


def _journal(text: str) -> Path | Literal["sqlite", "memory"]:
    if text in {"sqlite", "memory"}:
        return cast("Literal['sqlite', 'memory']", text)
    kind, _, path = text.partition(":")
    if kind != "sqlite" or path.strip() in {"", ":memory:"}:
        raise ValueError("none of these")
    return _path(path)


def _redis(text: object) -> SecretStr:
    url = _unquoted(text)
    parsed = RedisURL.parse(url)
    for certificate in (parsed.ca, parsed.certificate):
        if certificate is not None:
            _certificate(str(certificate))
    if parsed.key is not None:
        _file(str(parsed.key))
    return SecretStr(url)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _file(text: str) -> Path:
    if "-----BEGIN" in text:
        raise ValueError("this is the file's content, not its path")
    path = _path(text)
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(error.strerror) from None
    return path


def _certificate(text: str) -> Path:
    path = _file(text)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError("the file contains no certificate") from None
    return path


def _directory(text: str) -> Path:
    path = _path(text)
    try:
        os.scandir(path).close()
    except OSError as error:
        raise ValueError(error.strerror) from None
    return path


def _reserve(value: object) -> Reserve:
    return value if isinstance(value, Reserve) else Reserve.parse(str(value))


def _crash_loop(value: object) -> CrashLoop | None:
    return value if isinstance(value, CrashLoop | None) else CrashLoop.parse(str(value))


# The types of the settings that each bot may have for itself.
Token = Annotated[SecretStr, BeforeValidator(_token)]
APIKey = Annotated[SecretStr, BeforeValidator(_api_key)]
Interval = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
MaxConcurrency = Annotated[int, Field(ge=1, le=MOST_BUCKETS)]
DailyStarts = Annotated[int, Field(ge=1, le=MOST_STARTS)]
ReserveSetting = Annotated[Reserve, PlainValidator(_reserve)]
SeatTTL = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
CrashLoopSetting = Annotated[CrashLoop | None, PlainValidator(_crash_loop)]


class Settings(BaseSettings):
    """The settings of one server."""

    model_config = SettingsConfigDict(
        enable_decoding=False,  # no setting is JSON
        env_ignore_empty=True,  # empty variables, common in compose files, count as unset
        extra="ignore",
        frozen=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    host: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = _setting(
        "HOST", "127.0.0.1", "address to listen on", "an address or a host name"
    )
    port: int = _setting(
        "PORT",
        8000,
        "port to listen on; 0 picks a free one and logs it",
        "a whole number from 0 to 65535",
        ge=0,
        le=65535,
    )
    token: Token | None = _setting(
        "DISCORD_TOKEN",
        None,
        "the bot's token, used to read the limits from Discord",
        "a bot token on one line, with or without the 'Bot ' prefix",
        secret=True,
    )
    api: Annotated[str, BeforeValidator(_api)] = _setting(
        "GATEWAY_QUEUE_DISCORD_API",
        "https://discord.com/api/v10",
        "Discord's API, or a REST proxy for it",
        "an http or https URL without user, password or query",
    )
    interval: Interval = _setting(
        "GATEWAY_QUEUE_INTERVAL",
        5.5,
        "seconds between two grants of a bucket; Discord requires 5 between IDENTIFYs",
        "a number of seconds above 0, at most 3600",
    )
    max_concurrency: MaxConcurrency | None = _setting(
        "GATEWAY_QUEUE_MAX_CONCURRENCY",
        None,
        "without a token, the number of buckets (1 if unset); with one, the most buckets to use",
        f"a whole number from 1 to {MOST_BUCKETS}",
    )
    daily_starts: DailyStarts = _setting(
        "GATEWAY_QUEUE_DAILY_STARTS",
        1000,
        "without a token: session starts in any 24 hours",
        f"a whole number from 1 to {MOST_STARTS}",
    )
    reserve: ReserveSetting = _setting(
        "GATEWAY_QUEUE_RESERVE",
        Reserve(5, is_percentage=True),
        "session starts held in reserve, which are never granted",
        "a whole number, or a percentage from 0% to 100%",
    )
    refresh: float = _setting(
        "GATEWAY_QUEUE_REFRESH",
        300.0,
        "seconds between readings of the limits",
        "a number of seconds from 15 to 86400",
        ge=15,
        le=86_400,
        allow_inf_nan=False,
    )
    seat_ttl: SeatTTL = _setting(
        "GATEWAY_QUEUE_SEAT_TTL",
        60.0,
        "seconds to keep the seat of a client that disconnected",
        "a number of seconds from 0 to 86400",
    )
    crash_loop: CrashLoopSetting = _setting(
        "GATEWAY_QUEUE_CRASH_LOOP",
        CrashLoop(6, 600),
        "a shard granted more often than this is in a crash loop and is slowed down",
        "GRANTS/SECONDS, for example 6/600, or off",
    )
    bots: Annotated[Path, PlainValidator(_directory)] | None = _setting(
        "GATEWAY_QUEUE_BOTS",
        None,
        "a directory with one file for each of several bots; none: there is one bot",
        "the path of a readable directory",
    )
    api_key: APIKey | None = _setting(
        "GATEWAY_QUEUE_API_KEY",
        None,
        "the key clients must send as 'Authorization: Bearer KEY'; none: anyone may ask",
        "ASCII letters, digits and punctuation, without white space",
        secret=True,
    )
    operator_key: APIKey | None = _setting(
        "GATEWAY_QUEUE_OPERATOR_KEY",
        None,
        "the key for /operator, sent as 'Authorization: Bearer KEY'; none: nobody can steer",
        "ASCII letters, digits and punctuation, without white space",
        secret=True,
    )
    certfile: Annotated[Path, PlainValidator(_certificate)] | None = _setting(
        "GATEWAY_QUEUE_CERTFILE",
        None,
        "the certificate for HTTPS, followed by those of its issuers; none: no TLS",
        "the path of a PEM file",
    )
    keyfile: Annotated[Path, PlainValidator(_file)] | None = _setting(
        "GATEWAY_QUEUE_KEYFILE",
        None,
        "the private key of the certificate",
        "the path of a PEM file, without a password",
    )
    journal: Annotated[Path | Literal["sqlite", "memory"], PlainValidator(_journal)] = _setting(
        "GATEWAY_QUEUE_JOURNAL",
        "sqlite",
        "where grants are recorded; 'sqlite' is a file in the user's state directory",
        "sqlite, sqlite:PATH or memory",
    )
    redis: Annotated[SecretStr, PlainValidator(_redis)] | None = _setting(
        "GATEWAY_QUEUE_REDIS",
        None,
        "the Redis or Valkey that several replicas share; none: there is one process",
        "a redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel:// URL",
        secret=True,
    )
    redis_prefix: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]{1,64}$")] = _setting(
        "GATEWAY_QUEUE_REDIS_PREFIX",
        "gateway-queue",
        "what the names of all keys in Redis begin with",
        "1 to 64 letters, digits, dots, dashes and underscores",
    )
    replica: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]{1,64}$")] | None = _setting(
        "GATEWAY_QUEUE_REPLICA",
        None,
        "what this replica is called in logs and in /status; none: the host's name",
        "1 to 64 letters, digits, dots, dashes and underscores",
    )
    shutdown_grace: float = _setting(
        "GATEWAY_QUEUE_SHUTDOWN_GRACE",
        5.0,
        "seconds to go on serving waiting requests after SIGTERM",
        "a number of seconds from 0 to 3600",
        ge=0,
        le=3600,
        allow_inf_nan=False,
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "GATEWAY_QUEUE_LOG_LEVEL",
        "info",
        "the least severe level to log",
        "debug, info, warning or error",
    )
    log_format: Literal["console", "json"] = _setting(
        "GATEWAY_QUEUE_LOG_FORMAT",
        "console",
        "lines for people, or JSON objects for machines",
        "console or json",
    )

    @property
    def journal_path(self) -> Path | None:
        """The journal's file; None if it is kept in memory."""
        if self.journal == "memory":
            return None
        if isinstance(self.journal, Path):
            return self.journal
        state = platformdirs.user_state_path("gateway-queue", appauthor=False)
        return state / ("bots.sqlite" if self.bots else f"{bot_of(self.token)}.sqlite")

    @property
    def replica_name(self) -> str:
        """The name of this replica, another at each start."""
        return f"{self.replica or socket.gethostname()}-{secrets.token_hex(4)}"


def about(settings: Settings) -> str:
    """The settings that all replicas must have in common, as JSON."""
    names = (
        "interval",
        "max_concurrency",
        "daily_starts",
        "reserve",
        "seat_ttl",
        "crash_loop",
    )
    fields = Settings.model_fields
    values = {str(fields[name].validation_alias): getattr(settings, name) for name in names}
    values["DISCORD_TOKEN"] = bot_of(settings.token)
    return json.dumps(values, default=str, sort_keys=True)


def load(**flags: str) -> Settings:
    """Read the settings; ``flags``, by the settings' names, override the environment.

    Raises SettingsError for the first wrong setting.
    """
    flags = {**_secrets_from_files(flags), **flags}
    try:
        settings = Settings(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    except UnicodeDecodeError:
        raise SettingsError(f"a file in {SECRETS} is not UTF-8 text") from None
    except (OSError, pydantic_settings.SettingsError) as error:
        why = error.__cause__ or error
        raise SettingsError(f"a file in {SECRETS} cannot be read: {why}") from None
    if leaves_nothing(settings):
        of = "" if settings.token else f" of GATEWAY_QUEUE_DAILY_STARTS={settings.daily_starts}"
        raise SettingsError(
            f"GATEWAY_QUEUE_RESERVE={settings.reserve} leaves nothing{of} that could ever be"
            " granted; allowed: less than that"
        )
    if settings.redis is not None and find_spec("coredis") is None:
        raise SettingsError(
            "GATEWAY_QUEUE_REDIS needs what is not installed here:"
            " pip install 'gateway-queue[server,redis]'"
        )
    _check_key(settings)
    return settings


def _environment() -> dict[str, str]:
    """The variables as pydantic-settings sees them: case does not matter, empty means unset."""
    return {name.upper(): value for name, value in os.environ.items() if value}


def _secrets_from_files(flags: Mapping[str, str]) -> dict[str, str]:
    """Read secrets from the files named by NAME_FILE variables, as Docker's official images do."""
    environment = _environment()
    secrets = {}
    for setting in describe():
        if not setting.is_secret or not (path := environment.get(setting.file_variable)):
            continue
        if setting.name in flags or setting.name in environment:
            raise SettingsError(
                f"{setting.name} and {setting.file_variable} are both set; allowed: one of them"
            )
        # A value that is not an absolute path may be the secret itself, by mistake.
        named = f"={path}" if path.startswith("/") else ""
        try:
            secrets[setting.name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(
                f"the file named by {setting.file_variable}{named} cannot be read: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise SettingsError(
                f"the file named by {setting.file_variable}{named} is not UTF-8 text"
            ) from None
    return secrets


def unknown_variables() -> dict[str, str | None]:
    """Variables that look like settings but are not, each with the most similar setting."""
    known = {"GATEWAY_QUEUE_URL"}  # used by the commands and the examples
    for setting in describe():
        known |= {setting.name, setting.file_variable} if setting.is_secret else {setting.name}
    by_ending = {name.removeprefix(PREFIX): name for name in known}
    unknown: dict[str, str | None] = {}
    for name in sorted(_environment().keys() - known):
        # Kubernetes sets such variables for a service named gateway-queue.
        if name.startswith(PREFIX) and not re.search("_PORT|_SERVICE_", name):
            nearest = get_close_matches(name.removeprefix(PREFIX), by_ending, n=1, cutoff=0.5)
            unknown[name] = by_ending[nearest[0]] if nearest else None
    return unknown


def leaves_nothing(settings: Settings) -> bool:
    """Whether the reserve takes all session starts, so that no shard could ever start."""
    if settings.reserve == Reserve(100, is_percentage=True):
        return True
    starts = settings.daily_starts
    return settings.token is None and settings.reserve.of(starts) >= starts


def _check_key(settings: Settings) -> None:
    """Raise SettingsError unless there is a certificate with its key, or neither of them."""
    certfile, keyfile = settings.certfile, settings.keyfile
    names = "GATEWAY_QUEUE_CERTFILE and GATEWAY_QUEUE_KEYFILE"
    if certfile is None and keyfile is None:
        return
    if certfile is None or keyfile is None:
        raise SettingsError(f"only one of {names} is set; allowed: both or neither")
    if why := _why_not_a_pair(certfile, keyfile):
        raise SettingsError(
            f"the values of {names} are not allowed ({why});"
            " allowed: a certificate, and its key without a password"
        )


class _EncryptedError(Exception):
    """A private key needs a password."""


def _why_not_a_pair(certfile: Path, keyfile: Path) -> str | None:
    def password() -> NoReturn:  # otherwise OpenSSL asks for it in the terminal
        raise _EncryptedError

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password)
    except _EncryptedError:
        return "the key is encrypted"
    except ssl.SSLError as error:
        if error.reason is None:
            return "the file contains no private key"
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key belongs to another certificate"
        return error.reason.lower().replace("_", " ")
    return None


def bot_of(token: SecretStr | None, name: str = DEFAULT) -> str:
    """The name of a bot's rows in the journal: the application id at the start of its token.

    https://discord.com/developers/docs/reference#authentication
    """
    if token is None:
        return "no-token" if name == DEFAULT else f"no-token-{name}"
    secret = token.get_secret_value()
    head = secret.partition(".")[0]
    try:
        application_id = base64.b64decode(head + "=" * (-len(head) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        application_id = ""
    if re.fullmatch("[0-9]{1,20}", application_id):
        return application_id
    # Not one of Discord's tokens (a REST proxy may have its own): name it by a digest.
    return "token-" + hashlib.sha256(secret.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything about one setting that the help, the errors and the documentation show."""

    name: str
    default: str
    meaning: str
    allowed: str
    is_secret: bool

    @property
    def flag(self) -> str:
        return "--" + self.name.removeprefix(PREFIX).lower().replace("_", "-")

    @property
    def file_variable(self) -> str:
        """The variable that may name a file with the value, for secrets."""
        return f"{self.name}_FILE"


def describe() -> list[Setting]:
    """All settings, in the order in which they are shown."""
    described = []
    for field in Settings.model_fields.values():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)  # noqa: S101 - `_setting` made it
        described.append(
            Setting(
                name=str(field.validation_alias),
                default="none" if field.default is None else str(field.default).removesuffix(".0"),
                meaning=field.description or "",
                allowed=str(extra["allowed"]),
                is_secret=bool(extra["secret"]),
            )
        )
    return described


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    setting = next(setting for setting in describe() if setting.name == name)
    given = f"{name}={first['input']}"
    # A URL may contain a password, and a path may be the private key itself, by mistake.
    may_tell = name.endswith("FILE") or (name.endswith("_API") and re.search("[@?]", given))
    if setting.is_secret or may_tell:
        given = f"the value of {name}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{given} is not allowed ({reason}); allowed: {setting.allowed}"
