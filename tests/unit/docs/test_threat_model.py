"""The threat model names tests that exist, and a test or an open point for every threat."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_PAGE = (_ROOT / "docs" / "threat-model.md").read_text()
_REFERENCES = sorted(set(re.findall(r"`(tests/[^`]+)`", _PAGE)))
_ROWS = [line for line in _PAGE.splitlines() if line.startswith("| ") and line.count("|") == 4]


@pytest.mark.parametrize("reference", _REFERENCES)
def test_a_named_test_exists(reference: str) -> None:
    path, _, name = reference.partition("::")
    source = _ROOT / path
    assert source.is_file(), path
    if name:
        assert re.search(rf"^(?:async )?def {re.escape(name)}\(", source.read_text(), re.M), reference


def test_every_threat_has_its_test_or_says_that_there_is_none() -> None:
    threats = [row for row in _ROWS if not row.startswith(("| threat", "| asset"))]
    told = [row for row in threats if "`tests/" in row or "not tested" in row]
    assets = _PAGE.partition("## Boundaries")[0].count("\n| ") - 1
    assert len(told) == len(threats) - assets
    assert len(told) >= 25


@pytest.mark.parametrize(
    "attacker",
    [
        "without a key",
        "with a key",
        "write to Kafka",
        "write to the registry",
        "node",
        "provider",
        "disks",
        "dependency",
    ],
)
def test_every_attacker_has_a_section(attacker: str) -> None:
    assert re.search(rf"^### .*{attacker}", _PAGE, re.M)
