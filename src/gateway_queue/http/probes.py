"""Probes: requests held like a turn but never granted, to test how long a connection lasts.

A client may name its probe, and ask by that name what the server saw of it, for example
whether the server noticed that the client left. The latest few are kept in memory.
"""

from typing import TYPE_CHECKING, Any, Literal

import structlog
import trio

if TYPE_CHECKING:
    from gateway_queue.http.stack import Context

log = structlog.get_logger()

# A person needs two at a time; more would be a flood.
MOST_HELD = 16

# How many named probes are remembered.
MOST_NAMED = 64

# "left": the client hung up before it was answered.
State = Literal["held", "answered", "left"]


class FullError(Exception):
    """The maximum number of probes is being held."""


class Probes:
    """The probes of a server, whichever bot they name."""

    def __init__(self) -> None:
        self._held = 0
        self._named: dict[str, _Probe] = {}

    async def hold(self, seconds: float, name: str | None, server: "Context", peer: str) -> bool:
        """Hold a probe for ``seconds``; False if the server ends earlier. Raises FullError.

        The caller is cancelled if the client leaves.
        """
        if self._held >= MOST_HELD:
            raise FullError
        probe = _Probe()
        if name is not None:
            self._remember(name, probe)
        self._held += 1
        log.debug("probe_held", hold=seconds, peer=peer)
        try:
            with server.idling(seconds):
                await trio.sleep_forever()
            probe.end("answered")
        finally:
            self._held -= 1
            if probe.state == "held":
                probe.end("left")
            left = probe.state == "left"
            log.info("probe_ended", held=probe.held, hold=seconds, left=left, peer=peer)
        return not server.is_ending

    def state_of(self, name: str) -> dict[str, Any] | None:
        """The state of the probe with this name, and the seconds it was held; None if unknown."""
        probe = self._named.get(name)
        return None if probe is None else {"state": probe.state, "held": probe.held}

    def _remember(self, name: str, probe: "_Probe") -> None:
        self._named.pop(name, None)
        self._named[name] = probe
        if len(self._named) > MOST_NAMED:
            del self._named[next(iter(self._named))]


class _Probe:
    def __init__(self) -> None:
        self.state: State = "held"
        self._began_at = trio.current_time()
        self._ended_at: float | None = None

    @property
    def held(self) -> float:
        ended_at = trio.current_time() if self._ended_at is None else self._ended_at
        return round(ended_at - self._began_at, 3)

    def end(self, state: State) -> None:
        self.state, self._ended_at = state, trio.current_time()
