"""The file of tenants that the user names reaches services that run in another folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from headrace_devstack.stack import tenants_file


def test_a_relative_path_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_TENANTS_FILE", "tenants.yaml")

    assert tenants_file() == {"HEADRACE_TENANTS_FILE": str(tmp_path / "tenants.yaml")}


def test_without_one_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_TENANTS_FILE", raising=False)

    assert tenants_file() == {}
