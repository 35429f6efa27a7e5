"""How tests are spread over processes."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

ON_PLATFORM = ("tests/e2e/", "tests/integration/sdk/", "tests/integration/devstack/test_platform_up.py")
"""Tests of the one running platform, which follow one another."""
LONGEST = ("tests/simulation/", "tests/property/", "tests/integration/", "tests/contract/", "tests/e2e/")
"""What runs before all others, in this order."""


class Spreading(LoadFileScheduling):
    """A process runs a file of tests, so that what they share is made once; or all files that stand on the platform."""

    def _split_scope(self, nodeid: str) -> str:
        return "platform" if nodeid.startswith(ON_PLATFORM) else nodeid.partition("::")[0]


def slow_first(items: list[pytest.Item]) -> None:
    """What takes longest first, so that no process is left alone with it in the end."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, folder in enumerate(LONGEST) if item.nodeid.startswith(folder)), len(LONGEST))
