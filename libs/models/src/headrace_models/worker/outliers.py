"""Which endpoints of a model are left out for a while, since they stand far out from the others.

As Envoy's outlier detection (envoyproxy.io, "Outlier detection"): by the share of failed calls, compared with the
others; for longer each time; never more than a share of the endpoints, though one in any case, and never the last one.
Failures in a row are another matter (`avoidance`): an endpoint that fails every second time clears itself with every
answer. A slow endpoint gets only what it finishes first anyway; one so slow that it looks broken is left out all the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_KEPT_OF_OLDER: Final = 0.9
_FEWEST_CALLS: Final = 4.0
"""Of fewer calls (older ones count less) nothing follows."""
_MORE_FAILURES: Final = 0.3
"""A share of failed calls that is so much above the others' median stands out."""
_TIMES_SLOWER: Final = 50.0
"""As a multiple of the others' median time for the same call."""
_FIRST_SECONDS: Final = 30.0
_LONGEST_SECONDS: Final = 600.0
MOST_SHARE: Final = 1 / 3
"""Of a model's endpoints at once."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """How the calls of one model at one endpoint ended.

    Attributes:
        calls, failures: How many, of which older ones count less.
        ejections: How often in a row it was left out.
        ejected_until: Until when it is.
    """

    calls: float = 0.0
    failures: float = 0.0
    ejections: int = 0
    ejected_until: float = 0.0

    @property
    def failing(self) -> float:
        """Share of its calls that failed."""
        return self.failures / self.calls if self.calls > 0.0 else 0.0


CLEAN: Final = CallRecord()


def after_end(record: CallRecord, *, failed: bool) -> CallRecord:
    """After one more call has ended; failures are those that say something of the endpoint."""
    calls = record.calls * _KEPT_OF_OLDER + 1.0
    failures = record.failures * _KEPT_OF_OLDER + float(failed)
    # Once it has done well for long enough, the next time is a first time.
    ejections = 0 if calls >= _FEWEST_CALLS and failures / calls < _MORE_FAILURES / 10 else record.ejections
    return CallRecord(calls, failures, ejections, record.ejected_until)


def ejected(
    name: str, records: Mapping[str, CallRecord], seconds: Mapping[str, float], now: float
) -> CallRecord | None:
    """The record of an endpoint that is left out from now on; None if it is not.

    Args:
        records: Of all endpoints that serve the model now, itself included.
        seconds: For a usual call, of those that have made some.
    """
    mine = records[name]
    others = [other for other in records if other != name]
    out = sum(record.ejected_until > now for record in records.values())
    if mine.ejected_until > now or not others or out + 1 > max(1, int(len(records) * MOST_SHARE)):
        return None
    if out >= len(others) or mine.calls < _FEWEST_CALLS:
        return None
    failing = _median([records[other].failing for other in others])
    slow = name in seconds and (times := [seconds[other] for other in others if other in seconds])
    if mine.failing < failing + _MORE_FAILURES and not (slow and seconds[name] > _TIMES_SLOWER * _median(times) > 0.0):
        return None
    left_out = min(_FIRST_SECONDS * 2.0 ** min(mine.ejections, 20), _LONGEST_SECONDS)
    # What it did before is forgotten: it is judged anew by what it does then.
    return CallRecord(0.0, 0.0, mine.ejections + 1, now + left_out)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
