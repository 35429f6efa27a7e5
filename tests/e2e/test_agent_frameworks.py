"""Agent frameworks as their users install and call them; `make test-clients` runs many more."""

from __future__ import annotations

import pytest
from headrace_clients.catalog import CORE, FRAMEWORKS
from headrace_clients.running import run
from headrace_clients.table import RESULTS, Results
from headrace_testing.up import RunningStack


@pytest.mark.parametrize("key", CORE)
def test_a_framework_works_as_the_table_says(platform: RunningStack, tenant_key: str, key: str) -> None:
    framework = next(one for one in FRAMEWORKS if one.key == key)
    promised = Results.parse(RESULTS.read_text(encoding="utf-8")).cells[key]
    ran = run(framework, platform, tenant_key)
    broken = {
        column: cell.note
        for column, cell in ran.cells.items()
        if promised[column].mark == "works" and cell.mark != "works"
    }
    assert broken == {}, ran.log[-3000:]
    assert all(promised[column].mark == "works" for column in ("chat", "stream", "tools", "structured", "image"))
