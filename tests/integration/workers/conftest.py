"""The log that whole workers run on."""

from __future__ import annotations

import pytest
from headrace_testing.workers import WorkerBench


@pytest.fixture
async def bench() -> WorkerBench:
    """An empty log in memory with all topics, and what was written to it."""
    made = WorkerBench()
    await made.prepare()
    return made
