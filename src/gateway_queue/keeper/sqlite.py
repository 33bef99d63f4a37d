"""The durable record of grants: counts session starts across restarts.

One SQLite file per bot, written inline before each answer. Times are wall clock here,
because they outlive the process; everywhere else they are seconds on the trio clock.
The journal knows nothing of buckets' timing: every start is an unknown past, so spacing
never depends on a file.
"""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from gateway_queue.keeper.lock import Lock
from gateway_queue.queue.journal import JournalError, JournalLostError, Past
from gateway_queue.queue.rules.allowance import DAY

# SQLite's header field that tells whose file this is ("GwyQ"), and the layout of ours.
APPLICATION_ID = 0x47777951
SCHEMA_VERSION = 1

# How long a start waits for somebody who is just writing to the file, in seconds.
PATIENCE = 5.0

# What is older than a day is of no use; how often it is removed, in seconds.
PRUNE_INTERVAL = 3600.0

WRITTEN_BY_ANOTHER = "another process wrote to it"

SCHEMA = """
CREATE TABLE grants (
    number INTEGER PRIMARY KEY,
    granted_at REAL NOT NULL,  -- Unix time, seconds
    shard INTEGER,             -- NULL: the request named none
    bucket INTEGER NOT NULL,
    confirm INTEGER NOT NULL   -- 1: the client was to say when it has identified
);
"""


class SQLiteJournal:
    """An open journal. Its owner is the only process that writes it.

    Where somebody damages it or takes it away, it is lost, and stays so until the next start:
    only that lets enough time pass for whatever another process may have granted meanwhile.
    """

    def __init__(self, database: sqlite3.Connection, lock: Lock | None, name: str) -> None:
        self._database = database
        self._lock = lock
        self._lost: str | None = None  # why it is
        self._pruned_at = -math.inf
        # With a row, what came before this file is long past: it was only recorded a hold
        # after the start that made the file. The rows' times prove nothing, as the clock may
        # have been set forward; but that none was to be confirmed, they prove.
        number, may_hold = database.execute(
            "SELECT ifnull(max(number), 0), ifnull(max(confirm), 1) FROM grants"
        ).fetchone()
        self.may_hold = bool(may_hold)
        self._number = self._prunable = int(number)  # the last one given
        self.name = name

    @classmethod
    def in_memory(cls) -> Self:
        """A journal that keeps nothing beyond this process."""
        database = sqlite3.connect(":memory:", isolation_level=None)
        database.executescript(SCHEMA)
        return cls(database, None, "memory")

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open or create the journal and take its lock, which the kernel frees at our death.

        Raises JournalHeldError while another process has it, JournalError where the file
        cannot be used. A file that is not a journal of ours is never changed.
        """
        with _explained(path):
            file = path.resolve()  # one lock, whatever the name it is called by
            if file.is_dir():
                raise IsADirectoryError(f"{file} is a directory, not a file")
            if file.parent.is_file():
                raise NotADirectoryError(f"{file.parent} is a file, not a directory")
            lock = Lock(file)
            try:
                database = _opened(file)
                lock.watch()
            except BaseException:
                lock.release()
                raise
        return cls(database, lock, str(path))

    def close(self) -> None:
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def record(self, shard: int | None, bucket: int, *, confirm: bool = False) -> int:
        """Write one grant, durably enough to survive ``kill -9``, and return its number.

        Raises JournalError when it cannot be written, and then nothing is.
        """
        self.check_owner()
        number = self._number + 1
        with self._explained():
            self._prune()
            written = self._database.execute(
                "INSERT INTO grants SELECT ?, ?, ?, ?, ?"
                " WHERE NOT EXISTS (SELECT 1 FROM grants WHERE number >= ?)",
                (number, time.time(), shard, bucket, confirm, number),
            )
            if not written.rowcount:
                raise JournalLostError(WRITTEN_BY_ANOTHER)
        self._number = number
        return number

    def _prune(self) -> None:
        """Remove what is older than a day by the clock, and than the last time for certain.

        The clock may just have been set forward; the next start has to know of the last rows.
        """
        now = time.monotonic()
        if now - self._pruned_at > PRUNE_INTERVAL:
            self._database.execute(
                "DELETE FROM grants WHERE granted_at < ? AND number <= ?",
                (time.time() - DAY, self._prunable),
            )
            self._pruned_at, self._prunable = now, self._number

    def check(self) -> None:
        """Raise JournalError unless it is ours and was just written to."""
        self.check_owner()
        with self._explained():
            _write_nothing(self._database)
            if self._database.execute(
                "SELECT 1 FROM grants WHERE number > ?", (self._number,)
            ).fetchone():
                raise JournalLostError(WRITTEN_BY_ANOTHER)

    def check_owner(self) -> None:
        """Raise JournalLostError if it is not ours any more; takes microseconds."""
        if self._lost is not None:
            raise JournalLostError(self._lost)
        if self._lock is not None:
            with self._explained():
                self._lock.check()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain errors, and remember what no second try can mend."""
        try:
            with _explained(self.name):
                yield
        except JournalLostError as error:
            self._lost = str(error)
            raise

    def last_day(self) -> list[Past]:
        """The grants of the last 24 hours, the oldest first.

        A grant that seems to lie in the future (the clock was set back) counts as new.
        """
        now = time.time()
        with _explained(self.name):
            rows = self._database.execute(
                "SELECT number, granted_at, shard, confirm FROM grants"
                " WHERE granted_at >= ? ORDER BY granted_at",
                (now - DAY,),
            ).fetchall()
        return [
            Past(number, max(0.0, now - granted_at), shard, bool(confirm))
            for number, granted_at, shard, confirm in rows
        ]


def _opened(path: Path) -> sqlite3.Connection:
    is_new = _is_new(path)
    database = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE)
    try:
        if is_new:
            database.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION}; {SCHEMA} COMMIT;"
            )
        _examine(database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        _write_nothing(database)
        # From now on writes are inline, and wait for nobody.
        database.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        database.close()
        raise
    return database


def _examine(database: sqlite3.Connection) -> None:
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict.splitlines()[-1])


def _write_nothing(database: sqlite3.Connection) -> None:
    """Write to the file as a grant does, and leave nothing behind."""
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("INSERT INTO grants VALUES (-1, 0, NULL, 0, 0)")
        database.execute("DELETE FROM grants WHERE number = -1")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _is_new(path: Path) -> bool:
    """Whether there is no journal yet; reads the header of SQLite's file and touches nothing.

    https://www.sqlite.org/fileformat.html#the_database_header
    """
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise sqlite3.DatabaseError("it is not an SQLite file")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise JournalError(f"{path} is an SQLite file of another program; it was left as it is")
    version = int.from_bytes(header[60:64], "big")
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"{path} was written by another version of gateway-queue (journal version {version},"
            f" this one reads {SCHEMA_VERSION}); it was left as it is"
        )
    return False


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    try:
        yield
    except JournalLostError as error:
        raise JournalLostError(
            f"the journal {path} is not this server's any more: {error}. Nothing is granted until"
            " this server is restarted"
        ) from None
    except (OSError, sqlite3.OperationalError) as error:
        raise JournalError(f"cannot use the journal {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise JournalLostError(
            f"the journal {path} is damaged ({error}); it was left as it is. Move it away and"
            " restart to begin a new one: the session starts it counted are then forgotten"
        ) from error
