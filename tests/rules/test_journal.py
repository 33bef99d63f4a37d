"""The journal outlives the process, the clock's steps and a bad disk, and harms no file."""

import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import BOT, Alone, journal_at, journal_in_memory, record

from gateway_queue.keeper.lock import JournalHeldError as Held
from gateway_queue.keeper.sqlite import APPLICATION_ID, SCHEMA_VERSION, Journals
from gateway_queue.queue.journal import Journal, JournalError, JournalLostError, Order, Start
from gateway_queue.queue.rules.allowance import DAY

NOW = 1_800_000_000.0
HOUR = 3600.0


class WallClock:
    """What `time.time` says; set ``now`` to step it."""

    now = NOW
    uptime = 0.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.uptime

    def go_on(self, seconds: float) -> None:
        """Let so much time pass, on both clocks."""
        self.now += seconds
        self.uptime += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Alone]:
    with closing(journal_at(path)) as journal:
        yield journal


def shards(journal: Journal) -> list[int | None]:
    return [past.shard for past in journal.last_day()]


def ages(journal: Journal) -> list[float]:
    return [past.age for past in journal.last_day()]


def rows(path: Path) -> int:
    """How many grants the file holds, whatever their age."""
    with closing(sqlite3.connect(path)) as database:
        (count,) = database.execute("SELECT count(*) FROM grants").fetchone()
    return int(count)


def make_sqlite_file(path: Path, *, application_id: int = 0, version: int = 0) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA application_id = {application_id}")
        database.execute(f"PRAGMA user_version = {version}")
        database.execute("CREATE TABLE letters (a, b)")


class TestRecord:
    def test_it_can_be_read_back(self, journal: Alone, clock: WallClock) -> None:
        number = record(journal, 7, bucket=3, confirm=True)
        clock.now += 2
        record(journal, None, bucket=0)
        clock.now += 10
        first, second = journal.last_day()
        assert (first.number, first.shard, first.confirm, first.age) == (number, 7, True, 12)
        assert (second.shard, second.confirm, second.age) == (None, False, 10)

    def test_it_survives_reopening(self, path: Path) -> None:
        with closing(journal_at(path)) as journal:
            numbers = [record(journal, shard, 0) for shard in (1, 2**32 - 1)]
        with closing(journal_at(path)) as journal:
            assert shards(journal) == [1, 2**32 - 1]
            assert record(journal, 3, 0) not in numbers

    def test_a_file_without_orders_gets_room_for_them(self, path: Path) -> None:
        with closing(journal_at(path)) as journal:
            record(journal, 7, 0)
        with closing(sqlite3.connect(path)) as database:  # as the version before left it
            database.executescript(
                "DROP TABLE orders; DROP TABLE forgiven; PRAGMA user_version = 2;"
            )
        with closing(journal_at(path)) as journal:
            assert shards(journal) == [7]
            journal.order("pause", Order("upgrade", left=60))
            journal.forgive(7)
        with closing(journal_at(path)) as journal:
            assert journal.orders()["pause"].value == "upgrade"
            assert [*journal.forgiven()] == [7]

    def test_several_at_once_are_all_written_or_none(self, path: Path) -> None:
        grants = [Start(7, 3, confirm=True), Start(None, 0), Start(2**32 - 1, 15)]
        with closing(journal_at(path)) as journal:
            record(journal, 1, 0)
            assert [*journal.record(grants)] == [2, 3, 4]
            with sqlite3.connect(path) as another:
                another.execute("DELETE FROM grants WHERE number = 4")
                another.execute("INSERT INTO grants VALUES (?, 6, 0, 0, 0, 0)", (BOT,))
            another.close()
            with pytest.raises(JournalLostError):
                journal.record(grants)
        assert rows(path) == 4
        with closing(journal_at(path)) as journal:
            assert [(past.number, past.shard, past.confirm) for past in journal.last_day()] == [
                (1, 1, False),
                (2, 7, True),
                (3, None, False),
            ]

    def test_it_survives_kill_9_which_also_frees_the_journal(self, path: Path) -> None:
        victim = f"""
import os, pathlib, signal
from gateway_queue.keeper.sqlite import Journals
from gateway_queue.queue.journal import Start
journal = Journals.at(pathlib.Path({str(path)!r}), heir={BOT!r}).of({BOT!r})
for shard in range(3):
    journal.record([Start(shard, 0)])
os.kill(os.getpid(), signal.SIGKILL)
"""
        killed = subprocess.run([sys.executable, "-c", victim], check=False)
        assert killed.returncode < 0
        with closing(journal_at(path)) as journal:
            assert shards(journal) == [0, 1, 2]

    def test_a_day_later_it_no_longer_counts_and_is_soon_removed(
        self, journal: Alone, path: Path, clock: WallClock
    ) -> None:
        record(journal, 1, 0)
        clock.go_on(DAY - 1)
        record(journal, 2, 0)
        assert shards(journal) == [1, 2]
        clock.go_on(2)
        assert shards(journal) == [2]
        clock.go_on(2 * HOUR)
        record(journal, 3, 0)
        assert rows(path) == 2

    def test_each_turn_of_the_day_counts(self, journal: Alone, clock: WallClock) -> None:
        record(journal, 9, 0)
        clock.now += DAY + 1
        for shard in (1, 2, 2, None):
            record(journal, shard, 0)
        assert shards(journal) == [1, 2, 2, None]

    def test_it_needs_no_file_where_nothing_is_to_be_kept(self) -> None:
        with closing(journal_in_memory()) as journal:
            record(journal, 1, 0)
            journal.check()
            assert shards(journal) == [1]
            assert journal.name == "memory"

    def test_it_holds_nothing_but_grants_and_orders(self, journal: Alone, path: Path) -> None:
        record(journal, 1, 0)
        with closing(sqlite3.connect(path)) as database:
            columns = database.execute("SELECT name FROM pragma_table_info('grants')").fetchall()
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            assert {name for (name,) in tables} == {"grants", "orders", "forgiven"}
        assert {name for (name,) in columns} == {
            "bot",
            "number",
            "granted_at",
            "shard",
            "bucket",
            "confirm",
        }


class TestWallClock:
    def test_a_grant_in_the_future_counts_as_new(self, journal: Alone, clock: WallClock) -> None:
        record(journal, 1, 0)
        clock.now -= HOUR
        assert ages(journal) == [0.0]

    def test_a_grant_is_older_after_a_step_forward(self, journal: Alone, clock: WallClock) -> None:
        record(journal, 1, 0)
        clock.now += HOUR
        assert ages(journal) == [HOUR]

    def test_a_clock_that_was_far_behind_for_a_while_loses_no_grant(
        self, path: Path, clock: WallClock
    ) -> None:
        with closing(journal_at(path)) as journal:
            record(journal, 1, 0)
        clock.now = NOW - 3 * DAY
        with closing(journal_at(path)) as journal:
            assert ages(journal) == [0.0]
        clock.now = NOW + 1
        with closing(journal_at(path)) as journal:
            assert ages(journal) == [1.0]

    @settings(max_examples=50)
    @given(st.lists(st.floats(-2 * HOUR, 2 * HOUR), max_size=10))
    def test_whatever_the_steps_no_grant_of_the_day_is_lost(self, steps: list[float]) -> None:
        clock = WallClock()
        with patch("time.time", clock), closing(journal_in_memory()) as journal:
            for shard, step in enumerate(steps):
                record(journal, shard, 0)
                clock.now += step
            past = journal.last_day()
            assert {grant.shard for grant in past} == set(range(len(steps)))
            assert all(0 <= grant.age <= DAY for grant in past)
            assert ages(journal) == sorted(ages(journal), reverse=True)

    @settings(max_examples=50)
    @given(st.lists(st.floats(-2 * DAY, 2 * DAY), max_size=10))
    def test_whatever_the_steps_no_number_comes_twice(self, steps: list[float]) -> None:
        clock = WallClock()
        numbers = []
        with patch("time.time", clock), closing(journal_in_memory()) as journal:
            for step in steps:
                numbers.append(record(journal, 1, 0))
                clock.now += step
        assert len(set(numbers)) == len(numbers)


def in_another_process(path: Path, *prefix: str, then: str = "") -> str:
    """What another process is told that wants the journal; empty if it gets it."""
    program = f"""
import os, pathlib, signal
from gateway_queue.keeper.lock import JournalHeldError
from gateway_queue.keeper.sqlite import Journals
try:
    journals = Journals.at(pathlib.Path({str(path)!r}), heir={BOT!r})
    {then or "journals.close()"}
except JournalHeldError as error:
    print(error)
"""
    ran = subprocess.run(
        [*prefix, sys.executable, "-c", program], capture_output=True, text=True, check=not then
    )
    return ran.stdout


# As in a container of its own, which has the same files but another network.
APART = ("unshare", "--map-root-user", "--net")


def may_part() -> bool:
    return not subprocess.run([*APART, "true"], capture_output=True, check=False).returncode


parting = pytest.mark.skipif(not may_part(), reason="no network namespaces here")


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def delete_lock(path: Path) -> None:
    path.with_name(path.name + ".lock").unlink()


def replace(path: Path) -> None:
    """By a journal that is valid, and not ours."""
    other = path.with_name("other.sqlite")
    with closing(journal_at(other)) as journal:
        record(journal, 99, 0)
    other.replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def delete_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def make_folder_anew(path: Path) -> None:
    delete_folder(path)
    path.parent.mkdir()
    path.touch()


def delete_log(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def delete_index(path: Path) -> None:
    path.with_name(path.name + "-shm").unlink()


def write(path: Path, number: int) -> None:
    """As a second server would."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO grants VALUES (?, ?, 0, 7, 0, 0)", (BOT, number))


def write_next(path: Path) -> None:
    write(path, 2)


def write_with_a_gap(path: Path) -> None:
    write(path, 50)


class TestLock:
    def test_a_second_server_learns_which_one_holds_the_journal(
        self, journal: Alone, path: Path
    ) -> None:
        with pytest.raises(Held, match=f"process {os.getpid()} on {socket.gethostname()}"):
            journal_at(path)
        record(journal, 1, 0)
        assert shards(journal) == [1]

    def test_a_second_one_takes_over_when_the_first_has_closed(self, path: Path) -> None:
        with closing(journal_at(path)) as first:
            record(first, 1, 0)
            with pytest.raises(Held):
                journal_at(path)
        with closing(journal_at(path)) as second:
            assert shards(second) == [1]

    def test_a_refused_file_is_not_held(self, path: Path) -> None:
        path.write_bytes(b"not a journal")
        with pytest.raises(JournalError):
            journal_at(path)
        path.unlink()
        journal_at(path).close()

    def test_another_name_of_the_file_does_not_help(
        self, journal: Alone, path: Path, tmp_path: Path
    ) -> None:
        record(journal, 1, 0)
        other_name = tmp_path / "link.sqlite"
        other_name.symlink_to(path)
        with pytest.raises(Held), closing(journal_at(other_name)):
            pass

    def test_readers_disturb_nobody(self, journal: Alone, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM grants").fetchall()
            record(journal, 1, 0)
        assert shards(journal) == [1]

    def test_another_writer_fails_a_record_at_once_and_for_that_time_only(
        self, journal: Alone, path: Path
    ) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            began_at = time.perf_counter()
            for use in (lambda: record(journal, 1, 0), journal.check):
                with pytest.raises(JournalError, match="locked"):
                    use()
            assert time.perf_counter() - began_at < 2
        record(journal, 2, 0)
        assert shards(journal) == [2]

    @pytest.mark.parametrize("lose", [delete_lock, delete, delete_folder, make_folder_anew])
    def test_whatever_is_deleted_no_second_one_gets_it_while_the_first_lives(
        self, lose: Callable[[Path], None], tmp_path: Path
    ) -> None:
        path = tmp_path / "folder" / "journal.sqlite"
        with closing(journal_at(path)):
            lose(path)
            assert "is in use by" in in_another_process(path)
            assert "is in use by" in in_another_process(path)  # nor by trying again
        assert not in_another_process(path)

    def test_without_the_lock_file_the_first_keeps_running(
        self, journal: Alone, path: Path
    ) -> None:
        delete_lock(path)
        record(journal, 1, 0)
        journal.check()

    @parting
    def test_the_journal_itself_is_locked_too(self, journal: Alone, path: Path) -> None:
        delete_lock(path)
        assert "is in use by" in in_another_process(path, *APART)
        record(journal, 1, 0)

    def test_where_it_cannot_be_the_lock_file_counts(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr("fcntl.F_OFD_SETLK")
        with closing(journal_at(path)) as journal:
            record(journal, 1, 0)
            delete_lock(path)
            with pytest.raises(JournalLostError, match=r"sqlite\.lock was deleted"):
                record(journal, 2, 0)

    @parting
    def test_a_lost_journal_does_not_damage_its_replacement(self, tmp_path: Path) -> None:
        path = tmp_path / "folder" / "journal.sqlite"
        with closing(journal_at(path)) as journal:
            record(journal, 1, 0)
            delete_folder(path)
            grant = "from gateway_queue.queue.journal import Start; {}.record([Start(2, 0)])"
            killed = (
                f"{grant.format(f'journals.of({BOT!r})')}; os.kill(os.getpid(), signal.SIGKILL)"
            )
            assert not in_another_process(path, *APART, then=killed)
            with pytest.raises(JournalLostError):
                record(journal, 3, 0)
        with closing(journal_at(path)) as journal:
            assert shards(journal) == [2]


LOSSES = {
    delete: "was deleted or moved",
    move: "was deleted or moved",
    replace: "was replaced by another file",
    truncate: "was truncated",
    cut: "was truncated",
    delete_folder: "was deleted or moved",
    make_folder_anew: "was replaced by another file",
    delete_log: "-wal was deleted or moved",
    delete_index: "-shm was deleted or moved",
    write_next: "another process wrote to it",
    write_with_a_gap: "another process wrote to it",
}


@pytest.mark.parametrize(("lose", "why"), LOSSES.items(), ids=[lose.__name__ for lose in LOSSES])
class TestLoss:
    def test_nothing_more_is_recorded_until_a_restart(
        self, lose: Callable[[Path], None], why: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "folder" / "journal.sqlite"
        with closing(journal_at(path)) as journal:
            record(journal, 1, 0)
            lose(path)
            for use in (journal.check, lambda: record(journal, 2, 0), journal.check_owner):
                with pytest.raises(JournalLostError, match=f"{why}.*until this server is restart"):
                    use()


class TestRefusedFile:
    """It stays as it is, byte for byte, and the message says why and what to do."""

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"not a database, and it never was one\n", "damaged.*Move it away"),
            (b"SQLite format 3\0" + b"\xff" * 4096, "another program's SQLite file"),
            (b"\0" * 8192, "damaged.*Move it away"),
            (b"too short", "damaged.*Move it away"),
        ],
    )
    def test_no_database(self, path: Path, content: bytes, why: str) -> None:
        path.write_bytes(content)
        with pytest.raises(JournalError, match=f"{path} is {why}"):
            journal_at(path)
        assert path.read_bytes() == content

    @pytest.mark.parametrize("damaged_at", [4096, 8192])
    def test_a_damaged_journal(self, path: Path, damaged_at: int) -> None:
        with closing(journal_at(path)) as journal:
            for shard in range(500):
                record(journal, shard, 0)
        content = bytearray(path.read_bytes())
        content[damaged_at : damaged_at + 500] = b"\xff" * 500
        path.write_bytes(content)
        with pytest.raises(JournalError, match=r"(?s)is damaged.*Move it away"):
            journal_at(path)
        assert path.read_bytes() == content

    def test_half_a_journal(self, path: Path) -> None:
        with closing(journal_at(path)) as journal:
            for shard in range(500):
                record(journal, shard, 0)
        os.truncate(path, path.stat().st_size // 2)
        content = path.read_bytes()
        with pytest.raises(JournalError, match="is damaged"):
            journal_at(path)
        assert path.read_bytes() == content

    def test_the_database_of_another_program(self, path: Path) -> None:
        make_sqlite_file(path, application_id=1, version=SCHEMA_VERSION)
        content = path.read_bytes()
        with pytest.raises(JournalError, match="program's SQLite file; it was left unchanged"):
            journal_at(path)
        assert path.read_bytes() == content

    def test_the_database_of_another_program_without_tables(self, path: Path) -> None:
        make_sqlite_file(path, application_id=1)
        with closing(sqlite3.connect(path)) as database:
            database.execute("DROP TABLE letters")
        with pytest.raises(JournalError, match="another program's SQLite file"):
            journal_at(path).close()

    def test_a_journal_of_a_newer_version(self, path: Path) -> None:
        make_sqlite_file(path, application_id=APPLICATION_ID, version=SCHEMA_VERSION + 1)
        content = path.read_bytes()
        with pytest.raises(JournalError, match=f"version {SCHEMA_VERSION + 1}.*left unchanged"):
            journal_at(path)
        assert path.read_bytes() == content


class TestUnusablePlace:
    def test_missing_folders_are_made(self, tmp_path: Path) -> None:
        journal_at(tmp_path / "some" / "folders" / "journal.sqlite").close()

    def test_a_folder_in_place_of_the_file(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(JournalError, match=f"cannot use the journal {path}"):
            journal_at(path)

    def test_a_file_in_place_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("I was here first")
        for path in (tmp_path / "file" / "journal", tmp_path / "file" / "folder" / "journal"):
            with pytest.raises(JournalError, match=f"cannot use the journal {path}"):
                journal_at(path)

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "..",
            "a" * 256,
        ],
    )
    def test_a_path_that_no_file_can_have(
        self, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(JournalError, match=f"cannot use the journal {path}"):
            journal_at(Path(path))


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can be written: root minds no permissions, but this."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestFullDisk:
    def test_a_grant_that_cannot_be_written_is_not_recorded(
        self, journal: Alone, path: Path
    ) -> None:
        record(journal, 1, 0)
        with full_disk():
            for _ in range(3):
                with pytest.raises(JournalError, match=f"cannot use the journal {path}"):
                    record(journal, 2, 0)
                with pytest.raises(JournalError):
                    journal.check()
            assert shards(journal) == [1]
        journal.check()
        record(journal, 3, 0)
        assert shards(journal) == [1, 3]
        journal.close()
        with closing(journal_at(path)) as again:
            assert shards(again) == [1, 3]

    def test_a_journal_that_cannot_be_made_is_not_held(self, path: Path) -> None:
        with full_disk(), pytest.raises(JournalError, match=f"cannot use the journal {path}"):
            journal_at(path)
        journal_at(path).close()


class TestSeveralBots:
    @pytest.fixture
    def journals(self, path: Path) -> Iterator[Journals]:
        with closing(Journals.at(path, heir=BOT)) as journals:
            yield journals

    def test_each_has_its_own_grants_and_numbers(self, journals: Journals) -> None:
        one, other = journals.of("1"), journals.of("2")
        numbers = [record(journal, shard, 0) for shard in (5, 6) for journal in (one, other)]
        assert numbers == [1, 1, 2, 2]
        assert shards(one) == shards(other) == [5, 6]
        assert shards(journals.of("3")) == []

    def test_only_its_own_past_tells_whether_a_turn_was_to_be_confirmed(
        self, journals: Journals
    ) -> None:
        record(journals.of("1"), 0, 0)
        record(journals.of("2"), 0, 0, confirm=True)
        assert [journals.of(bot).may_hold for bot in ("1", "2", "3")] == [False, True, True]

    def test_they_survive_reopening(self, path: Path) -> None:
        with closing(Journals.at(path, heir=BOT)) as journals:
            record(journals.of("1"), 7, 0)
            record(journals.of("2"), 8, 0)
        with closing(Journals.at(path, heir=BOT)) as journals:
            assert shards(journals.of("1")) == [7]
            assert record(journals.of("2"), 9, 0) == 2

    def test_one_of_them_forgets_only_its_own_old_grants(
        self, journals: Journals, clock: WallClock
    ) -> None:
        one, other = journals.of("1"), journals.of("2")
        record(other, 0, 0)
        record(one, 0, 0)
        for _ in range(3):
            clock.go_on(DAY + HOUR)
            record(one, 0, 0)
        assert len(one.last_day()) == 1
        assert record(journals.of("2"), 0, 0) == 2  # as before a start: it is not new

    def test_what_one_finds_lost_is_lost_for_all(self, journals: Journals, path: Path) -> None:
        one, other = journals.of("1"), journals.of("2")
        record(one, 0, 0)
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(JournalLostError):
            record(one, 0, 0)
        path.with_name("elsewhere").rename(path)
        with pytest.raises(JournalLostError):
            record(other, 0, 0)


class TestFileOfOneBot:
    """Up to 0.1.0 each bot had a file, which did not say whose it was."""

    @pytest.fixture
    def path(self, tmp_path: Path, clock: WallClock) -> Path:
        """A file that 0.1.0 wrote: five grants, one to be confirmed, from NOW on."""
        clock.now = NOW + 60
        return Path(shutil.copy(Path(__file__).with_name("journal-1.sqlite"), tmp_path))

    def test_its_grants_are_those_of_the_bot_that_opens_it(self, path: Path) -> None:
        with closing(Journals.at(path, heir=BOT)) as journals:
            past = journals.of(BOT).last_day()
            assert [grant.shard for grant in past] == [0, 1, None, 17, 2**32 - 1]
            assert [grant.age for grant in past] == [60, 50, 40, 30, 20]
            assert [grant.confirm for grant in past] == [False, False, False, True, False]
            assert journals.of(BOT).may_hold
            assert record(journals.of(BOT), 1, 0) == 6
            assert shards(journals.of("another")) == []

    def test_it_stays_theirs_whoever_opens_it_next(self, path: Path) -> None:
        Journals.at(path, heir=BOT).close()
        with closing(Journals.at(path, heir="another")) as journals:
            assert len(journals.of(BOT).last_day()) == 5
            assert shards(journals.of("another")) == []

    def test_kill_9_right_after_the_change_is_safe(self, path: Path) -> None:
        killed = "os.kill(os.getpid(), signal.SIGKILL)"
        assert not in_another_process(path, then=killed)
        with closing(Journals.at(path, heir="another")) as journals:
            assert len(journals.of(BOT).last_day()) == 5

    def test_what_cannot_be_changed_stays_as_it_is(self, path: Path) -> None:
        content = path.read_bytes()
        with full_disk(), pytest.raises(JournalError, match="cannot use the journal"):
            Journals.at(path, heir=BOT)
        assert path.read_bytes() == content
        Journals.at(path, heir=BOT).close()

    def test_a_damaged_one_stays_as_it_is(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[4096 : 4096 + 100] = b"\xff" * 100
        path.write_bytes(content)
        with pytest.raises(JournalError, match=r"(?s)is damaged.*Move it away"):
            Journals.at(path, heir=BOT)
        assert path.read_bytes() == content
