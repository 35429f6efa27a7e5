"""On which event loop a test runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Final

import pytest
from headrace_runtime.main import loop_factory

BOTH_LOOPS: Final = (
    "tests/unit/engine/",
    "tests/unit/streams/",
    "tests/unit/workers/",
    "tests/contract/streams/test_log_",
)
"""Tests of what works with timers and callbacks itself, in which loops differ: uvloop has other handles, a clock of
another resolution, and another order of what is due at the same time. The libraries run on either."""

ON_ASYNCIO: Final = (
    "tests/unit/devstack/",
    "tests/unit/demo/",
    "tests/unit/sdk/",
    "tests/integration/devstack/",
    "tests/integration/sdk/",
    "tests/e2e/",
    "tests/chaos/",
    "tests/k8s/",
)
"""Tests of programs that are no services: `headrace up`, the demo and the command line run on asyncio's own loop, as do
most programs of the SDK's users. (uvloop cannot start processes as another user.)"""

SHIPPED_LOOP: Final = "uvloop" if sys.platform == "linux" else "asyncio.unix_events"
"""Module of the event loop that services run on, as their first log line tells it."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_SHIPPED: Final = loop_factory() or asyncio.new_event_loop


def loop_factories(path: str) -> Mapping[str, LoopFactory]:
    """The loops for tests of the file, by name."""
    if path.startswith(ON_ASYNCIO):
        return {"asyncio": asyncio.new_event_loop}
    if path.startswith(BOTH_LOOPS) and _SHIPPED is not asyncio.new_event_loop:
        return {"shipped": _SHIPPED, "asyncio": asyncio.new_event_loop}
    return {"shipped": _SHIPPED}


def drop_repeated_kafka(items: list[pytest.Item]) -> None:
    """Leave out the contracts' second run on Kafka: a broker is slow, and the loops differ in nothing that it sees."""
    items[:] = [item for item in items if not _is_repeated_on_kafka(item)]


def _is_repeated_on_kafka(item: pytest.Item) -> bool:
    chosen = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return chosen.get("bench") == "kafka" and chosen.get("_asyncio_loop_factory") is asyncio.new_event_loop
