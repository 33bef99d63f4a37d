"""A terminal for commands that show something that moves."""

import errno
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
from background import background
from patience import PATIENCE

HEIGHT = 24
CTRL_C = b"\x03"

# What a program may tell a terminal to do, as far as ours do; colours change no place.
SEQUENCE = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|[^\x1b]|\x1b(?=[^\[])")


@dataclass
class Screen:
    """What a terminal of this width shows. It does not scroll: it is long enough."""

    width: int
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    shows_cursor: bool = True
    redrawn: int = 0  # how often the cursor went up, or back to the beginning of a line
    overflowed: list[str] = field(default_factory=list)  # lines that ran into the next

    def feed(self, text: str) -> None:
        for match in SEQUENCE.finditer(text):
            sign, (number, command) = match[0], match.groups()
            if command is None:
                self._put(sign)
            elif command == "A":
                self.row -= int(number or 1)
                self.redrawn += 1
            elif command == "K":
                self.lines[self.row] = "" if number == "2" else self.lines[self.row][: self.column]
            elif command in "hl" and number == "?25":
                self.shows_cursor = command == "h"
            else:
                assert command == "m", match[0]

    def _put(self, sign: str) -> None:
        if sign == "\r":
            self.column = 0
        elif sign == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        else:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + sign + line[self.column + 1 :]
            self.column += 1
            if self.column > self.width:
                self.overflowed.append(self.lines[self.row])

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


@dataclass(eq=False)
class Terminal:
    """A program in a terminal."""

    screen: Screen
    process: trio.Process
    _master: int
    _said_more: trio.Event = field(default_factory=trio.Event)
    _is_over: bool = False

    async def until(self, holds: Callable[[Screen], bool], what: str) -> None:
        """Wait until this holds of what is seen."""
        with trio.move_on_after(PATIENCE):
            while not holds(self.screen):
                assert not self._is_over, f"ended without {what}: {self.screen.text}"
                await self._said_more.wait()
            return
        raise AssertionError(f"no {what}: {self.screen.text}")

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def ended(self) -> int:
        """The exit code, once all that it said has been seen."""
        with trio.fail_after(PATIENCE):
            while not self._is_over:
                await self._said_more.wait()
            return await self.process.wait()

    async def watch(self) -> None:
        decoder = getincrementaldecoder("utf-8")()
        while data := await self._receive():
            text = decoder.decode(data)
            sys.stdout.write(f"{text!r}\n")
            self.screen.feed(text)
            self._news()
        self._is_over = True
        self._news()

    async def _receive(self) -> bytes:
        await trio.lowlevel.wait_readable(self._master)
        try:
            return os.read(self._master, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:  # nobody has the other end open any more
                raise
            return b""

    def _news(self) -> None:
        self._said_more.set()
        self._said_more = trio.Event()


@asynccontextmanager
async def terminal(
    *command: str, width: int, environment: dict[str, str]
) -> AsyncIterator[Terminal]:
    """Run this program in a terminal of this width while the block lasts."""
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, width, 0, 0))
        async with background() as nursery:
            run = partial(
                trio.run_process,
                ("setsid", "--ctty", *command),  # so that Ctrl-C is a signal
                env=environment | {"TERM": "xterm-256color"},
                stdin=slave,
                stdout=slave,
                stderr=subprocess.STDOUT,
                check=False,
            )
            process = await nursery.start(run)
            os.close(slave)
            shown = Terminal(Screen(width), process, master)
            nursery.start_soon(shown.watch)
            try:
                yield shown
            finally:
                with trio.CancelScope(shield=True):
                    if process.returncode is None:
                        process.kill()
                    await shown.ended()
    finally:
        os.close(master)
