"""Journals for tests: each has a file of its own, which closes with it."""

from pathlib import Path

from gateway_queue.keeper.sqlite import Journals, SQLiteJournal
from gateway_queue.queue.journal import Journal, Start

BOT = "1234567890123456789"


class Alone(SQLiteJournal):
    """The journal of a bot that has a file for itself."""

    def __init__(self, file: Journals) -> None:
        super().__init__(file, BOT)
        self.close = file.close


def journal_at(path: Path) -> Alone:
    """As a server opens it at its start."""
    return Alone(Journals.at(path, heir=BOT))


def journal_in_memory() -> Alone:
    return Alone(Journals.in_memory())


def record(journal: Journal, shard: int | None, bucket: int, *, confirm: bool = False) -> int:
    """Record one grant; returns its number."""
    [number] = journal.record([Start(shard, bucket, confirm)])
    return number
