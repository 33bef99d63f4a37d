"""Whose journal it is: one process's, for as long as that process lives.

The kernel holds these locks and frees them when their process dies. There are three,
because each can be got around: a lock file can be deleted, and so can the journal itself.
An abstract socket cannot, but it is only seen within its network namespace. Where even
that is not enough (two containers and a deleted directory), the first process finds its
files gone before it grants again.
"""

import errno
import fcntl
import hashlib
import os
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

from gateway_queue.queue.journal import JournalError, JournalLostError

# The byte before those that SQLite locks in its file, which begin with PENDING_BYTE:
# https://www.sqlite.org/src/file?name=src/os.h
OUR_BYTE = 0x40000000 - 1


class JournalHeldError(JournalError):
    """Another process has the journal; the message names it."""


class Lock:
    """The sole right to a journal, from when this is made until ``release``.

    Raises JournalHeldError while another process has it, OSError where the place is of no use.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock_file = file.with_name(file.name + ".lock")
        self._known: dict[Path, os.stat_result] = {}
        self._size = 0
        with ExitStack() as held:
            try:
                self._take(held)
            except BlockingIOError:
                raise self._held() from None
            self._release = held.pop_all()

    def _take(self, held: ExitStack) -> None:
        """Raise BlockingIOError if somebody else has any of it."""
        _take_address(self._file, held)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lock = _open(self._lock_file, held)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Open for as long as SQLite has the file: to close a file frees all the locks that
        # SQLite has on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
        self._journal = _open(self._file, held)
        self._journal_is_locked = _take_byte(self._journal)
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _held(self) -> JournalHeldError:
        try:
            holder = self._lock_file.read_text(errors="replace").strip()
        except OSError:
            holder = ""
        return JournalHeldError(
            f"the journal {self._file} is in use by {holder or 'another process'}; two servers on"
            " one journal would grant twice. Stop that one, or give this one another journal"
        )

    def watch(self) -> None:
        """From now on these are the journal's files: to be called when SQLite has made them."""
        files = [self._file, *(Path(f"{self._file}{end}") for end in ("-wal", "-shm"))]
        if not self._journal_is_locked:
            files.append(self._lock_file)
        self._known = {file: file.stat() for file in files if file.exists()}
        self._known[self._file] = os.fstat(self._journal)  # the one that is locked

    def check(self) -> None:
        """Raise JournalLostError if somebody took the files away, or a part of them.

        It costs microseconds, as each grant waits for it.
        """
        for file, known in self._known.items():
            try:
                found = file.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise JournalLostError(f"{file.name} was deleted or moved") from None
            if not os.path.samestat(known, found):
                raise JournalLostError(f"{file.name} was replaced by another file")
        size = os.fstat(self._journal).st_size
        if size < self._size:  # SQLite never shortens it
            raise JournalLostError(f"{self._file.name} was truncated")
        self._size = size

    def release(self) -> None:
        """Give the journal up; to be called when SQLite has closed it."""
        self._release.close()


def _open(file: Path, held: ExitStack) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    held.callback(os.close, descriptor)
    return descriptor


def _take_address(file: Path, held: ExitStack) -> None:
    """Bind the abstract socket of a path, if the system has such sockets.

    Containers may share the network, but not the files: they differ in their root.
    """
    root = Path("/").stat()
    place = os.fsencode(f"{root.st_dev} {root.st_ino} {file}")
    try:
        address = held.enter_context(socket.socket(socket.AF_UNIX))
        address.bind(b"\0gateway-queue " + hashlib.sha256(place).hexdigest().encode())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BlockingIOError from error


def _take_byte(journal: int) -> bool:
    """Lock a byte of the journal for this descriptor; False if the system has no such locks.

    Unlike SQLite's, such a lock ends only with its descriptor (fcntl(2), "Open file
    description locks").
    """
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return False
    try:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, OUR_BYTE, 1, 0)
        fcntl.fcntl(journal, fcntl.F_OFD_SETLK, lock)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
