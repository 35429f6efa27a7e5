"""What operators have switched off, as a worker heeds it: attempts that wait here were sent before it was."""

from __future__ import annotations

from collections.abc import Callable

from headrace_contracts.codec import Codec
from headrace_contracts.events import AttemptRequested, Failure, Place, SwitchedOff
from headrace_contracts.switches import SWITCHED_OFF, Switches
from headrace_contracts.topics import SWITCHES
from headrace_streams.ports import Log
from headrace_streams.tables import Table


class KillSwitches:
    """The table of `switches`, asked before each call.

    Attributes:
        table: To be started before attempts are.

    Args:
        place: Where this worker's models run.
        clock_ms: Milliseconds since the epoch.
        on_change: Called after each change.
    """

    def __init__(
        self, log: Log, codec: Codec, place: Place, clock_ms: Callable[[], int], on_change: Callable[[], object]
    ) -> None:
        self.table: Table[SwitchedOff] = Table(log, codec, SWITCHES, self._take, clock_ms=clock_ms)
        self._place = place
        self._clock_ms = clock_ms
        self._on_change = on_change
        self._switches = Switches()

    def against(self, request: AttemptRequested) -> Failure | None:
        """Why no call is to be made for an attempt now; None if it may be."""
        if not self._switches.off:
            return None
        now = self._clock_ms()
        if (off := self._switches.against_tenant(request.tenant, now)) is not None:
            return off
        words = self._switches.against(request.provider, request.model, self._place, now)
        return None if words is None else Failure(code=SWITCHED_OFF, message=words)

    def _take(self, key: str, off: SwitchedOff | None) -> None:
        self._switches = self._switches.with_record(key, off)
        self._on_change()
