"""The directory of bots: which bots there are, and their settings.

There is one file per bot, named after it: a bare token, or ``NAME.toml``. This module only
reads files, and knows no tasks. An error in a file affects no other bot.
"""

import re
import stat
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from gateway_queue.settings import (
    DEFAULT,
    KEYS,
    APIKey,
    CrashLoopSetting,
    DailyStarts,
    Interval,
    MaxConcurrency,
    ReserveSetting,
    SeatTTL,
    Settings,
    Token,
    describe,
    leaves_nothing,
)

# A name is a part of a URL, and a label of metrics.
NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")
NAMES = "1 to 63 lower-case letters, digits and hyphens, not starting with a hyphen"

TOML = ".toml"

# Files that Kubernetes and editors put beside ours.
NOT_OURS = re.compile(r"\..*|.*~|.*\.swp|#.*#")

# No file of a bot is larger, in bytes.
LARGEST = 2**14

TOKENS = "a bot token on one line"

Fingerprint = tuple[int, ...]


class _Given(BaseModel):
    """The settings in a bot's file. Those it does not set are the server's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: Token | None = None
    token_file: str | None = None
    interval: Interval | None = None
    max_concurrency: MaxConcurrency | None = None
    daily_starts: DailyStarts | None = None
    reserve: ReserveSetting | None = None
    crash_loop: CrashLoopSetting = None
    seat_ttl: SeatTTL | None = None
    api_key: APIKey | None = None
    operator_key: APIKey | None = None


class _WrongError(Exception):
    """A file has an error. The message says what was given and what is allowed."""


@dataclass(frozen=True, slots=True)
class Roster:
    """The content of the directory. ``wrong``: errors by file name, never with a secret."""

    bots: dict[str, Settings]
    wrong: dict[str, str]
    ignored: frozenset[str]  # folders

    @property
    def names(self) -> set[str]:
        """The bots that have a file, valid or not."""
        return self.bots.keys() | {name_of(file) for file in self.wrong}


@dataclass(slots=True)
class _File:
    fingerprints: dict[Path, Fingerprint]
    settings: Settings | None = None
    error: str = ""

    @property
    def is_unchanged(self) -> bool:
        return all(_fingerprint(path) == was for path, was in self.fingerprints.items())


def name_of(file: str) -> str:
    """The name of the bot that a file describes."""
    return file.removesuffix(TOML)


@dataclass(slots=True)
class Directory:
    """The directory at ``path``; ``settings`` are the defaults for all bots."""

    path: Path
    settings: Settings
    _files: dict[str, _File] = field(default_factory=dict)

    def read(self) -> Roster:
        """Read the files that changed. Raises OSError if the directory cannot be read."""
        ignored = set()
        found: dict[str, _File] = {}
        for path in sorted(self.path.iterdir()):
            if NOT_OURS.fullmatch(path.name):
                continue
            if _is_folder(path):
                ignored.add(path.name)
            else:
                found[path.name] = self._file(path)
        self._files = found
        wrong = {name: file.error for name, file in found.items() if file.error}
        bots = {
            name_of(name): file.settings
            for name, file in found.items()
            if file.settings is not None and name + TOML not in found
        }
        for name in found:
            if name + TOML in found:
                bots.pop(name, None)
                wrong[name] = f"the bot {name} also has {name}{TOML}; allowed: one of the two"
        return Roster(bots, wrong, frozenset(ignored))

    def _file(self, path: Path) -> _File:
        known = self._files.get(path.name)
        if known and known.settings and known.is_unchanged:
            return known
        file = _File({path: _fingerprint(path)})
        try:
            file.settings = self._settings(path, file.fingerprints)
        except _WrongError as error:
            file.error = str(error)
        return file

    def _settings(self, path: Path, fingerprints: dict[Path, Fingerprint]) -> Settings:
        name = name_of(path.name)
        if not NAME.fullmatch(name):
            raise _WrongError(f"{name[:80]!r} is not a valid name for a bot; allowed: {NAMES}")
        if name == DEFAULT and self.settings.token is not None:
            raise _WrongError(f"{DEFAULT} is the bot of DISCORD_TOKEN; use another name")
        text = _read(path, "it")
        if path.suffix != TOML:
            own: dict[str, Any] = {"token": _bare(text)}
        else:
            own = _parsed(text)
        if (file := own.pop("token_file", None)) is not None:
            token_path = self.path / file
            fingerprints[token_path] = _fingerprint(token_path)
            # A value that is not an absolute path may be the token itself, by mistake.
            what = f"its token_file {file}" if file.startswith("/") else "its token_file"
            own["token"] = _bare(_read(token_path, what))
        not_shared = dict.fromkeys(("token", *KEYS))
        settings = self.settings.model_copy(update=not_shared | own)
        if leaves_nothing(settings):
            raise _WrongError(
                f"a reserve of {settings.reserve} leaves nothing that could ever be granted;"
                " allowed: less than all session starts"
            )
        return settings


def _is_folder(path: Path) -> bool:
    """Whether it is a folder; if that cannot be told, reading it will report the error."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _fingerprint(path: Path) -> Fingerprint:
    """A value that differs if the file was changed or replaced."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(path: Path, what: str) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _WrongError(f"{what} is not a regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise _WrongError(f"{what} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _WrongError(f"{what} cannot be read: {error}") from None
    if len(content) > LARGEST:
        raise _WrongError(f"{what} is larger than {LARGEST} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _WrongError(f"{what} is not UTF-8 text") from None


def _bare(text: str) -> SecretStr:
    if not text.strip():
        raise _WrongError(f"there is no token in it; allowed: {TOKENS}")
    try:
        return TypeAdapter(Token).validate_python(text)
    except ValidationError as error:
        raise _WrongError(
            f"its token is not allowed ({_reason(error)}); allowed: {TOKENS}"
        ) from None


def _parsed(text: str) -> dict[str, Any]:
    """The settings in a TOML file."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: endless brackets
        raise _WrongError(
            f"it is not TOML ({_without_text(error)}); allowed: lines such as token = 'TOKEN'"
            f" and interval = 5.5. A file that contains only the token must not be named {TOML}"
        ) from None
    try:
        given = _Given.model_validate(values)
    except ValidationError as error:
        raise _WrongError(_explain(error)) from None
    if given.token is not None and given.token_file is not None:
        raise _WrongError("token and token_file are both set; allowed: one of them")
    return {name: getattr(given, name) for name in given.model_fields_set}


def _without_text(error: Exception) -> str:
    """Where the error is, without the text there, which may be the token."""
    where = re.search(r"\(at [^()]*\)$", str(error))
    return where[0].strip("()") if where else type(error).__name__


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        nearest = get_close_matches(name, _Given.model_fields, n=1, cutoff=0.5)
        meant = f"; did you mean {nearest[0]}?" if nearest else ""
        known = ", ".join(_Given.model_fields)
        return f"{name[:40]!r} is not a setting of a bot{meant}; allowed: {known}"
    is_secret = name in {"token", "token_file", *KEYS}
    given = f"its {name}" if is_secret else f"{name} = {first['input']!r}"[:80]
    return f"{given} is not allowed ({_reason(error)}); allowed: {_allowed(name)}"


def _reason(error: ValidationError) -> str:
    return error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")


def _allowed(name: str) -> str:
    if name == "token_file":
        return "the path of a file with the token"
    variable = str(Settings.model_fields[name].validation_alias)
    return next(setting.allowed for setting in describe() if setting.name == variable)
