"""The documented test vectors, against our own code and the examples for other teams."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from headrace_contracts.ids import route_key
from headrace_contracts.tools.schemas import repository
from headrace_streams.partitioning import partition_of

EXAMPLES = repository() / "docs" / "examples" / "route-key"
VECTORS: list[dict[str, Any]] = json.loads((EXAMPLES / "vectors.json").read_text("utf-8"))


def arguments(vector: dict[str, Any]) -> list[str]:
    texts = [text for message in vector["messages"] for text in message]
    return [vector["tenant"], *(vector[name] or "" for name in ("session", "role", "model")), *texts]


def printed(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["key"])
def test_our_own_code_makes_the_documented_keys(vector: dict[str, Any]) -> None:
    messages = [(role, text.encode()) for role, text in vector["messages"]]
    fields = {name: vector[name] for name in ("tenant", "session", "role", "model")}
    assert route_key(**fields, messages=messages) == vector["key"]
    assert partition_of(vector["key"].encode(), 6) == vector["partition_of_6"]


def test_the_example_in_python_makes_them() -> None:
    for vector in VECTORS:
        assert printed([sys.executable, str(EXAMPLES / "route_key.py"), *arguments(vector)]) == vector["key"]


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_the_example_in_go_makes_them(tmp_path: Path) -> None:
    program = tmp_path / "route_key"
    subprocess.run(["go", "build", "-o", str(program), str(EXAMPLES / "route_key.go")], check=True, timeout=300)
    for vector in VECTORS:
        assert printed([str(program), *arguments(vector)]) == vector["key"]


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a Java compiler")
def test_the_example_in_java_makes_them(tmp_path: Path) -> None:
    subprocess.run(["javac", "-d", str(tmp_path), str(EXAMPLES / "RouteKey.java")], check=True, timeout=300)
    # A virtual machine starts for each.
    for vector in VECTORS[::3]:
        assert printed(["java", "-cp", str(tmp_path), "RouteKey", *arguments(vector)]) == vector["key"]
