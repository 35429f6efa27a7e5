"""Windows of live spend: fixed lengths, consecutive, aligned to the epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

from headrace_contracts.events import SpendWindows, Usage, Window

LENGTHS: Final = (60, 3_600, 86_400)
"""Seconds: minute, hour, day (UTC)."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What was consumed; can be added."""

    executions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    searches: int = 0
    cost_nanodollars: int = 0
    # The last ones, since windows written before they existed end here.
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(mine + theirs for mine, theirs in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, ...]:
        """The numbers in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))


def add_once(held: list[int], partition: int, additions: Sequence[tuple[int, tuple[int, ...]]]) -> list[int]:
    """A window's value with what it lacks of these additions; `held` itself if it lacks none.

    A value is partition, offset of the last record in it, and the numbers of a Spend; a new window's is empty. An
    addition is the offset of a record of this partition, and the numbers of its Spend; they are in order. Those of
    records that the value includes already are left out: they are read again after a crash.
    """
    known = held[1] if held and held[0] == partition else -1
    missing = [numbers for offset, numbers in additions if offset > known]
    if not missing:
        return held
    # Windows written before cache writes were counted end earlier.
    sums = Spend(*held[2:]).values() if held else Spend().values()
    return [partition, additions[-1][0], *map(sum, zip(sums, *missing, strict=True))]


def window_start(time_ms: int, seconds: int) -> int:
    """Start of the window of this length that contains a time; both in milliseconds since the epoch."""
    return time_ms - time_ms % (seconds * 1000)


@dataclass(frozen=True, slots=True)
class Live:
    """A tenant's newest window of each length: start (milliseconds since the epoch) and what was consumed in it."""

    windows: Mapping[int, tuple[int, Spend]]

    def with_window(self, seconds: int, start: int, spend: Spend) -> Live:
        """With a newer state of a window; a window older than the one held is ignored."""
        held = self.windows.get(seconds)
        if held is not None and held[0] > start:
            return self
        return Live({**self.windows, seconds: (start, spend)})


def spend_windows(tenant: str, live: Live, now_ms: int) -> SpendWindows:
    """The event for a tenant's live windows."""
    return SpendWindows(
        tenant=tenant,
        windows=tuple(_window(seconds, start, spend) for seconds, (start, spend) in sorted(live.windows.items())),
        updated_at=now_ms,
    )


def current_windows(event: SpendWindows | None, now_ms: int) -> tuple[Window, ...]:
    """The current window of each length: from the event, or empty if it has begun since."""
    told: Iterable[Window] = () if event is None else event.windows
    known = {(window.seconds, window.start): window for window in told}
    starts = ((seconds, window_start(now_ms, seconds)) for seconds in LENGTHS)
    return tuple(known.get(key) or _window(*key, Spend()) for key in starts)


def _window(seconds: int, start: int, spend: Spend) -> Window:
    return Window(
        seconds=seconds,
        start=start,
        executions=spend.executions,
        usage=Usage(
            input_tokens=spend.input_tokens,
            output_tokens=spend.output_tokens,
            cached_input_tokens=spend.cached_input_tokens,
            searches=spend.searches,
            cache_write_5m_tokens=spend.cache_write_5m_tokens,
            cache_write_1h_tokens=spend.cache_write_1h_tokens,
        ),
        cost_nanodollars=spend.cost_nanodollars,
    )
