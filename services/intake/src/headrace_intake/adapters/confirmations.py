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
        self._expected: dict[tuple[str, int], tuple[E, asyncio.Future[None]]] = {}
        self._number = 0

    def changed(self, key: str, event: E | None) -> None:
        """The table now holds `event` under `key`."""
        for (expected_key, _), (expected, future) in self._expected.items():
            if expected_key == key and expected == event and not future.done():
                future.set_result(None)

    @contextmanager
    def expecting(self, key: str, event: E) -> Iterator[Expected]:
        """Enter before writing, so that the change cannot be missed."""
        self._number += 1
        mark = (key, self._number)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected[mark] = (event, future)
        try:
            yield Expected(future, self._timeout)
        finally:
            del self._expected[mark]


class Expected:
    """One awaited change."""

    def __init__(self, future: asyncio.Future[None], timeout_seconds: float) -> None:
        self._future = future
        self._timeout = timeout_seconds

    async def seen(self) -> None:
        """Return once the table has the change, or at the timeout: the record is in Kafka, only the table lags."""
        await asyncio.wait((self._future,), timeout=self._timeout)
