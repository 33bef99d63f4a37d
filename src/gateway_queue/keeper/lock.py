"""Locks the journal for one process, for as long as that process lives.

The kernel holds these locks and frees them when their process dies. There are three, because
each can be bypassed: the lock file can be deleted, and so can the journal itself. An abstract
socket cannot, but it is only visible within its network namespace. If even that is not enough
(two containers and a deleted directory), the first process finds its files gone before it
grants again.
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

# The byte before the ones that SQLite locks in its file, which begin with PENDING_BYTE:
# https://www.sqlite.org/src/file?name=src/os.h
OUR_BYTE = 0x40000000 - 1


class JournalHeldError(JournalError):
    """Another process holds the journal; the message names it."""


class Lock:
    """An exclusive lock on a journal, from its creation until ``release``.

    Raises JournalHeldError while another process holds it, OSError if the path is unusable.
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
        """Raise BlockingIOError if another process holds any of the locks."""
        _take_address(self._file, held)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lock = _open(self._lock_file, held)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Kept open for as long as SQLite has the file open: closing it would release all locks
        # that SQLite holds on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
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
            f"the journal {self._file} is in use by {holder or 'another process'}; two servers"
            " sharing a journal would grant twice. Stop that server, or use another journal"
        )

    def watch(self) -> None:
        """Remember which files are the journal's; call this once SQLite has created them."""
        files = [self._file, *(Path(f"{self._file}{end}") for end in ("-wal", "-shm"))]
        if not self._journal_is_locked:
            files.append(self._lock_file)
        self._known = {file: file.stat() for file in files if file.exists()}
        self._known[self._file] = os.fstat(self._journal)  # the file that is locked

    def check(self) -> None:
        """Raise JournalLostError if the files were deleted, replaced or truncated.

        Takes microseconds, because every grant waits for it.
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
        """Release the journal; call this after SQLite has closed it."""
        self._release.close()


def _open(file: Path, held: ExitStack) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    held.callback(os.close, descriptor)
    return descriptor


def _take_address(file: Path, held: ExitStack) -> None:
    """Bind the abstract socket named after a path, if the system has abstract sockets.

    The name includes the root directory: containers may share a network but not their files.
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
    """Lock a byte of the journal for this descriptor; False if the system lacks such locks.

    Unlike SQLite's locks, it ends only with its descriptor (fcntl(2), "Open file description
    locks").
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
