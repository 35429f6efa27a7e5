"""The cluster that tests of the engine run on."""

import pytest
from headrace_streams.memory import MemoryCluster
from headrace_testing.engine import three_partitions


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> MemoryCluster:
    """A cluster with the topic. Sessions outlast any test, except with `short_sessions`."""
    return three_partitions(getattr(request, "param", 60.0))
