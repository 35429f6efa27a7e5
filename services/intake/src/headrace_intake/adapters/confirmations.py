"""Read-your-writes: waits until an in-memory table holds a record just written to its topic."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)


class TableView(Protocol[E_co]):
    """What intake reads of a compacted topic."""

    def get(self, key: str, /) -> E_co | None: ...

    def items(self) -> Mapping[str, E_co]: ...


class Confirmations(Generic[E]):
    """Receives every change of a table (`changed` is its `on_change`) and wakes the writer that waits for it."""

    def __init__(self, timeout_seconds: float = 2.0) -> None:
        self._timeout = timeout_seconds
        self._expected: dict[tuple[str, int], Expected[E]] = {}
        self._number = 0

    def changed(self, key: str, event: E | None) -> None:
        """The table now holds `event` under `key`."""
        for (expected_key, _), expected in self._expected.items():
            if expected_key == key:
                expected.take(event)

    @contextmanager
    def expecting(self, key: str, event: E | None) -> Iterator[Expected[E]]:
        """Enter before writing, so that the change cannot be missed; None for a tombstone."""
        self._number += 1
        mark = (key, self._number)
        expected = self._expected[mark] = Expected(event, self._timeout)
        try:
            yield expected
        finally:
            del self._expected[mark]


class Expected(Generic[E]):
    """One awaited change.

    Attributes:
        overtaken_by: The last change of the same key that came before it; None if there was none.
    """

    def __init__(self, event: E | None, timeout_seconds: float) -> None:
        self.overtaken_by: E | None = None
        self._event = event
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timeout = timeout_seconds

    def take(self, event: E | None) -> None:
        """The table has changed under the key."""
        if self._future.done():
            return
        if event == self._event:
            self._future.set_result(None)
        else:
            self.overtaken_by = event

    async def seen(self) -> bool:
        """Return once the table has the change, or at the timeout: the record is in Kafka, only the table lags. Says
        whether the table has it."""
        await asyncio.wait((self._future,), timeout=self._timeout)
        return self._future.done()
