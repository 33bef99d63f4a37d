"""The grants of the last 24 hours, counted as they happen.

Pure: takes ``now`` in seconds. No clock, no tasks, no I/O.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gateway_queue.queue.rules.allowance import DAY


@dataclass(slots=True)
class Record:
    """The grants of one shard in the last 24 hours; there is at least one."""

    grants: int
    latest_at: float


class LastDay:
    """Counts grants and shards; grants must be passed in order of time."""

    def __init__(self) -> None:
        self._grants: deque[tuple[float, int | None]] = deque()
        self._records: dict[int | None, Record] = {}

    def grant(self, shard: int | None, now: float) -> None:
        self._forget(now)
        self._grants.append((now, shard))
        record = self._records.get(shard)
        if record is None:
            self._records[shard] = Record(1, now)
        else:
            record.grants += 1
            record.latest_at = now

    def granted(self, now: float) -> int:
        """How many grants there were."""
        self._forget(now)
        return len(self._grants)

    def shards(self, now: float) -> int:
        """How many shards were granted; requests that name no shard do not count."""
        self._forget(now)
        return len(self._records) - (None in self._records)

    def of(self, shard: int | None, now: float) -> Record | None:
        """The shard's grants; None if it had none."""
        self._forget(now)
        return self._records.get(shard)

    def all(self, now: float) -> list[int | None]:
        """The granted shards, in no particular order; None: requests that name no shard."""
        self._forget(now)
        return list(self._records)

    def since(self, instant: float) -> Iterator[int | None]:
        """The shard of each grant after this instant, latest first."""
        for at, shard in reversed(self._grants):
            if at <= instant:
                break
            yield shard

    def _forget(self, now: float) -> None:
        while self._grants and self._grants[0][0] <= now - DAY:
            _, shard = self._grants.popleft()
            record = self._records[shard]
            record.grants -= 1
            if not record.grants:
                del self._records[shard]
