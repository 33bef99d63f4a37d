"""Wall clocks of programs under test that can be set while these run, by libfaketime.

Other clocks are left alone: whoever measures a span of time by a monotonic one notices nothing.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


def libfaketime() -> Path | None:
    """The library that the package of this name brings; it has one for Linux on x86-64."""
    spec = find_spec("libfaketime")
    folders = spec.submodule_search_locations if spec else None
    found = Path(folders[0]).glob("**/libfaketime.so.1") if folders else ()
    return next(iter(found), None)


LIBRARY = libfaketime()


class Clock:
    """The clock of one program at a time, which is right at first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0.0)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program must have in its environment to go by this clock."""
        if LIBRARY is None:
            return {}
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "0",  # the file is read once a second
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """Set the clock to so many seconds after the true time, or before it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.replace(self._file)
