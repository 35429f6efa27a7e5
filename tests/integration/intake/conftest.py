"""The bed that intake's tests lie on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from headrace_testing.intake_bed import Bed, open_bed


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    """An empty cluster in memory with all topics, and a stand-in router that echoes."""
    async with open_bed() as made:
        yield made
