"""The durable record of grants: counts session starts across restarts.

One SQLite file holds the journals of all bots of a server; it is written synchronously, before
each answer. Times are wall clock here, because they outlive the process; everywhere else they
are seconds on the trio clock. The journal knows nothing about the spacing of grants, which
never depends on a file: after every start, the past counts as unknown. An operator's orders
are stored beside the grants.
"""

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from gateway_queue.keeper.lock import Lock
from gateway_queue.queue.journal import (
    JournalError,
    JournalLostError,
    Order,
    OrderKind,
    Past,
    Start,
)
from gateway_queue.queue.ledger import Ledger
from gateway_queue.queue.rules.allowance import DAY

# The header field that says which program a SQLite file belongs to ("GwyQ"), and our layout.
APPLICATION_ID = 0x47777951
SCHEMA_VERSION = 3

# The layout of files with one bot, which they did not name. Layout 2 had no orders.
ONE_BOT = 1

# For how many seconds a start waits while another process is writing to the file.
PATIENCE = 5.0

# How often, in seconds, grants are removed that are over a day old.
PRUNE_INTERVAL = 3600.0

WRITTEN_BY_ANOTHER = "another process wrote to it"

GRANTS = """
CREATE TABLE grants (
    bot TEXT NOT NULL,         -- its application id
    number INTEGER NOT NULL,
    granted_at REAL NOT NULL,  -- Unix time, seconds
    shard INTEGER,             -- NULL: the request named none
    bucket INTEGER NOT NULL,
    confirm INTEGER NOT NULL,  -- 1: the client promised to say when it has identified
    PRIMARY KEY (bot, number)
) WITHOUT ROWID;
"""

ORDERS = """
CREATE TABLE orders (
    bot TEXT NOT NULL,
    kind TEXT NOT NULL,        -- pause or slower
    value TEXT NOT NULL,       -- the reason, or the interval in seconds
    given_at REAL NOT NULL,    -- Unix time, seconds
    until REAL,                -- NULL: until it is withdrawn
    PRIMARY KEY (bot, kind)
) WITHOUT ROWID;
"""

FORGIVEN = """
CREATE TABLE forgiven (
    bot TEXT NOT NULL,
    shard INTEGER NOT NULL,
    number INTEGER NOT NULL,   -- of the latest forgiven grant
    PRIMARY KEY (bot, shard)
) WITHOUT ROWID;
"""

SCHEMA = GRANTS + ORDERS + FORGIVEN


RECORD = """
INSERT INTO grants
SELECT :bot, :first + key, :now, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]')
FROM json_each(:starts) WHERE NOT EXISTS
    (SELECT 1 FROM grants WHERE bot = :bot AND number >= :first)
"""


class Journals:
    """The journals of all bots, in one open file, which only this process writes to.

    If the file is damaged, replaced or removed, it is lost, and remains so until the next
    start: another process may have granted meanwhile, and only a start waits for that to pass.
    """

    def __init__(self, database: sqlite3.Connection, lock: Lock | None, name: str) -> None:
        self.database = database
        self.name = name
        self.survives_restart = lock is not None
        self._lock = lock
        self._lost: str | None = None  # the reason, if it is lost

    @classmethod
    def in_memory(cls) -> Self:
        """Create journals that do not outlive this process."""
        database = sqlite3.connect(":memory:", isolation_level=None)
        database.executescript(SCHEMA)
        return cls(database, None, "memory")

    @classmethod
    def at(cls, path: Path, *, heir: str) -> Self:
        """Open or create the file and take its lock, which the kernel frees if we die.

        In a file of the layout with one bot, the grants become those of the bot ``heir``.

        Raises JournalHeldError while another process holds it, JournalError if the file cannot
        be used. A file that is not one of our journals is never changed.
        """
        with _explained(path):
            file = path.resolve()  # one lock, whatever path leads to it
            if file.is_dir():
                raise IsADirectoryError(f"{file} is a directory, not a file")
            if file.parent.is_file():
                raise NotADirectoryError(f"{file.parent} is a file, not a directory")
            lock = Lock(file)
            try:
                database = _opened(file, heir)
                lock.watch()
            except BaseException:
                lock.release()
                raise
        return cls(database, lock, str(path))

    def of(self, bot: str) -> "SQLiteJournal":
        """The journal of the bot with this application id."""
        with self.explained():
            return SQLiteJournal(self, bot)

    def close(self) -> None:
        self.database.close()
        if self._lock is not None:
            self._lock.release()

    def check_owner(self) -> None:
        """Raise JournalLostError if the file is no longer ours; takes microseconds."""
        if self._lost is not None:
            raise JournalLostError(self._lost)
        if self._lock is not None:
            with self.explained():
                self._lock.check()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors into JournalError, and remember those that a retry cannot fix."""
        try:
            with _explained(self.name):
                yield
        except JournalLostError as error:
            self._lost = str(error)
            raise


class SQLiteJournal:
    """The journal of one bot, in a file shared by all bots of the server."""

    ledger: Ledger | None = None

    def __init__(self, file: Journals, bot: str) -> None:
        self.name = file.name
        self.survives_restart = file.survives_restart
        self._file = file
        self._database = file.database
        self._bot = bot
        self._pruned_at = -math.inf
        # If there is a row, whatever happened before this file existed is long past, because
        # the first row was written a hold after the bot's first start with it. The times in
        # the rows prove nothing, since the clock may have been set forward; but they do tell
        # whether any grant was given with `confirm`.
        number, may_hold = self._database.execute(
            "SELECT ifnull(max(number), 0), ifnull(max(confirm), 1) FROM grants WHERE bot = ?",
            (bot,),
        ).fetchone()
        self.may_hold = bool(may_hold)
        self._number = self._prunable = int(number)  # the last one given

    def record(self, starts: Sequence[Start]) -> Sequence[int]:
        """Write grants, durably enough to survive ``kill -9``, and return their numbers.

        Raises JournalError if they cannot be written; then nothing is written.
        """
        self.check_owner()
        numbers = range(self._number + 1, self._number + 1 + len(starts))
        with self._file.explained():
            self._prune()
            # One statement, so that all are written or none, and the disk is asked once.
            written = self._database.execute(
                RECORD, _row(self._bot, numbers[0], time.time(), starts)
            )
            if not written.rowcount:
                raise JournalLostError(WRITTEN_BY_ANOTHER)
        self._number = numbers[-1]
        return numbers

    def _prune(self) -> None:
        """Remove grants over a day old by the clock, except those given since the last pruning.

        The clock may have just been set forward, and the next start needs the latest rows.
        """
        now = time.monotonic()
        if now - self._pruned_at > PRUNE_INTERVAL:
            self._database.execute(
                "DELETE FROM grants WHERE bot = ? AND granted_at < ? AND number <= ?",
                (self._bot, time.time() - DAY, self._prunable),
            )
            self._database.execute(
                "DELETE FROM forgiven WHERE bot = ? AND number <"
                " (SELECT ifnull(min(number), 0) FROM grants WHERE bot = ?)",
                (self._bot, self._bot),
            )
            self._pruned_at, self._prunable = now, self._number

    def check(self) -> None:
        """Raise JournalError unless it is ours and a test write succeeds."""
        self.check_owner()
        with self._file.explained():
            _write_nothing(self._database)
            if self._database.execute(
                "SELECT 1 FROM grants WHERE bot = ? AND number > ?", (self._bot, self._number)
            ).fetchone():
                raise JournalLostError(WRITTEN_BY_ANOTHER)

    def check_owner(self) -> None:
        """Raise JournalLostError if it is no longer ours; takes microseconds."""
        self._file.check_owner()

    def last_day(self) -> list[Past]:
        """The grants of the last 24 hours, oldest first.

        A grant that appears to be in the future (the clock was set back) counts as new.
        """
        now = time.time()
        with self._file.explained():
            rows = self._database.execute(
                "SELECT number, granted_at, shard, confirm FROM grants"
                " WHERE bot = ? AND granted_at >= ? ORDER BY granted_at",
                (self._bot, now - DAY),
            ).fetchall()
        return [
            Past(number, max(0.0, now - granted_at), shard, bool(confirm))
            for number, granted_at, shard, confirm in rows
        ]

    def order(self, kind: OrderKind, order: Order | None) -> None:
        """Store an order in place of the last one of its kind; None removes that."""
        self.check_owner()
        now = time.time()
        with self._file.explained():
            if order is None:
                self._database.execute(
                    "DELETE FROM orders WHERE bot = ? AND kind = ?", (self._bot, kind)
                )
                return
            until = None if order.left == math.inf else now + order.left
            self._database.execute(
                "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?)",
                (self._bot, kind, order.value, now - order.age, until),
            )

    def orders(self) -> dict[OrderKind, Order]:
        """The stored orders that have not expired.

        One that appears to be in the future (the clock was set back) counts as new.
        """
        now = time.time()
        with self._file.explained():
            rows = self._database.execute(
                "SELECT kind, value, given_at, ifnull(until, 9e999) FROM orders WHERE bot = ?",
                (self._bot,),
            ).fetchall()
        return {
            kind: Order(value, max(0.0, now - given_at), until - max(now, given_at))
            for kind, value, given_at, until in rows
            if until > now
        }

    def forgive(self, shard: int) -> None:
        """Record that all grants of a shard so far are forgiven."""
        self.check_owner()
        with self._file.explained():
            self._database.execute(
                "INSERT OR REPLACE INTO forgiven VALUES (?, ?, ?)",
                (self._bot, shard, self._number),
            )

    def forgiven(self) -> dict[int, int]:
        """For each forgiven shard, the number of its latest forgiven grant."""
        with self._file.explained():
            rows = self._database.execute(
                "SELECT shard, number FROM forgiven WHERE bot = ?", (self._bot,)
            ).fetchall()
        return dict(rows)


def _opened(path: Path, heir: str) -> sqlite3.Connection:
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
        _migrate(database, heir)
        _write_nothing(database)
        # From now on writes are synchronous, and must not wait for other processes.
        database.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        database.close()
        raise
    return database


def _migrate(database: sqlite3.Connection, heir: str) -> None:
    """Migrate a file from an earlier layout; grants without a bot become those of ``heir``."""
    # Not read from the header: committed changes may still be in the write-ahead log.
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    with _transaction(database):
        if version == ONE_BOT:
            database.execute("ALTER TABLE grants RENAME TO grants_of_one_bot")
            database.execute(GRANTS)
            database.execute(
                "INSERT INTO grants SELECT ?, number, granted_at, shard, bucket, confirm"
                " FROM grants_of_one_bot",
                (heir,),
            )
            database.execute("DROP TABLE grants_of_one_bot")
        database.execute(ORDERS)
        database.execute(FORGIVEN)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _examine(database: sqlite3.Connection) -> None:
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict.splitlines()[-1])


def _write_nothing(database: sqlite3.Connection) -> None:
    """Write to the file in the way a grant does, leaving nothing behind."""
    with _transaction(database):
        database.execute(RECORD, _row("", -1, 0.0, [Start(None, 0)]))
        database.execute("DELETE FROM grants WHERE bot = '' AND number = -1")


def _row(bot: str, first: int, now: float, starts: Sequence[Start]) -> dict[str, object]:
    """What `RECORD` is given."""
    return {"bot": bot, "first": first, "now": now, "starts": json.dumps(starts)}


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Either all of the body is written, or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _is_new(path: Path) -> bool:
    """Whether there is no journal yet; reads the header of the SQLite file, changes nothing.

    https://www.sqlite.org/fileformat.html#the_database_header
    """
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise sqlite3.DatabaseError("it is not a SQLite file")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise JournalError(f"{path} is another program's SQLite file; it was left unchanged")
    version = int.from_bytes(header[60:64], "big")
    if not ONE_BOT <= version <= SCHEMA_VERSION:
        raise JournalError(
            f"{path} was written by another version of gateway-queue (journal version {version},"
            f" this one reads {ONE_BOT} to {SCHEMA_VERSION}); it was left unchanged"
        )
    return False


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    try:
        yield
    except JournalLostError as error:
        raise JournalLostError(
            f"the journal {path} no longer belongs to this server: {error}. Nothing is granted"
            " until this server is restarted"
        ) from None
    except (OSError, sqlite3.OperationalError) as error:
        raise JournalError(f"cannot use the journal {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise JournalLostError(
            f"the journal {path} is damaged ({error}); it was left unchanged. Move it away and"
            " restart to begin a new one, which forgets the session starts counted so far"
        ) from error
