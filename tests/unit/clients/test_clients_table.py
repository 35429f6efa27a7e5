"""The table of agent frameworks: what makes a cell work, and that the committed table is that of the committed pins."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from headrace_clients import table
from headrace_clients.catalog import ASKED, COLUMNS, CORE, FRAMEWORKS, NODE, NODE_ENVIRONMENT, PYTHON_LOCKS, SCRIPTS
from headrace_clients.judge import Answered, Cell, cells, requests_in

OK = [Answered(10.5, "POST /v1/chat/completions", 200)]
CALLS = [["read_clock", {"zone": "Europe/Lisbon"}], ["get_weather", {"city": "Lisbon"}]]
ANSWER = "It is sunny in Lisbon and it is noon in Europe/Lisbon"
RIVERS = json.loads(ASKED.read_text(encoding="utf-8"))["batch_questions"]


def _vectors(near: float) -> list[list[float]]:
    zeros = [0.0] * 62
    return [[1.0, 0.0, *zeros], [near, 1 - near, *zeros], [0.0, 1.0, *zeros]]


def _judged(column: str, answered: list[Answered] = OK, **report: Any) -> Cell:
    line = json.dumps({"column": column, "begun": 10, **report, "ended": 11})
    return cells(["a package says hello", line], answered, "")[column]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("chat", "In short: the request has 4 words"),
        ("stream", ["A first piece, ", "and a second"]),
        ("tools", {"calls": CALLS, "answer": ANSWER}),
        ("structured", {"name": "Lisbon", "population": 545000}),
        ("image", "A picture (1 image seen)"),
        ("embeddings", _vectors(0.9)),
        ("batch", dict.fromkeys(RIVERS, "an answer")),
    ],
)
def test_a_right_result_works(column: str, value: Any) -> None:
    assert _judged(column, value=value) == Cell("works")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("chat", None),
        ("chat", ""),
        ("chat", "Why do rivers meander?"),
        ("stream", ["all of the text in one piece"]),
        ("stream", ["", ""]),
        ("stream", [None, "text"]),
        ("tools", {"calls": CALLS[:1], "answer": ANSWER}),
        ("tools", {"calls": [*CALLS, CALLS[0]], "answer": ANSWER}),
        ("tools", {"calls": [CALLS[0], ["get_weather", {"city": "Paris"}]], "answer": ANSWER}),
        ("tools", {"calls": CALLS, "answer": "It is sunny in Lisbon"}),
        ("tools", {"calls": CALLS, "answer": None}),
        ("structured", {"name": "Lisbon", "population": "545000"}),
        ("structured", {"name": "Lisbon"}),
        ("structured", None),
        ("image", "A picture"),
        ("embeddings", _vectors(0.0)),
        ("embeddings", _vectors(0.9)[:2]),
        ("embeddings", [[1.0], [1.0], [0.0]]),
        ("embeddings", [[1.0] * 64, [1.0] * 65, [0.0] * 64]),
        ("batch", dict.fromkeys(RIVERS[:4], "an answer")),
        ("batch", dict.fromkeys(RIVERS, "")),
        ("batch", None),
    ],
)
def test_a_wrong_result_fails_with_a_reason(column: str, value: Any) -> None:
    cell = _judged(column, value=value)
    assert cell.mark == "fails"
    assert cell.note


def test_what_a_framework_hides_is_seen() -> None:
    value = "In short: the request has 4 words"
    refused = [Answered(10.2, "POST /v1/responses", 404), *OK]
    assert _judged("chat", refused, value=value).note.startswith("POST /v1/responses answered 404, and")
    assert _judged("chat", [Answered(9.0, "POST /v1/responses", 404), *OK], value=value) == Cell("works")
    assert _judged("chat", [], value=value) == Cell("fails", "no request came to the platform")
    assert _judged("chat", refused, error="ValueError: no").note == "POST /v1/responses answered 404: ValueError: no"


def test_what_is_not_there_and_what_was_not_reached() -> None:
    assert _judged("batch", absent="has none") == Cell("absent", "has none")
    assert cells([], [], "the script ended with 1: ImportError")["chat"].note == "the script ended with 1: ImportError"
    long = _judged("chat", error="E: " + "x" * 500 + " urn:headrace:request:1a2b").note
    assert len(long) == 200
    assert _judged("chat", error="E: at urn:headrace:request:1a2b").note == "E: at …"


def test_requests_are_read_from_a_log() -> None:
    line = {
        "method": "POST", "route": "/v1/x", "status": 200, "ms": 250.0, "time": "2026-11-29T12:00:01Z",
        "message": "request",
    }  # fmt: skip
    (found,) = requests_in(["starting", json.dumps({"message": "connected"}), json.dumps(line)])
    assert (found.call, found.status) == ("POST /v1/x", 200)
    assert found.came == 1_795_953_600.75


def _committed() -> table.Results:
    return table.Results.parse(table.RESULTS.read_text(encoding="utf-8"))


def test_the_committed_table_is_of_the_committed_pins() -> None:
    results = _committed()
    assert results.versions == {framework.key: framework.versions() for framework in FRAMEWORKS}, (
        "the pins have changed: make test-clients ARGS=--write"
    )
    assert set(results.cells) == {framework.key for framework in FRAMEWORKS}
    assert all(tuple(row) == COLUMNS for row in results.cells.values())


def test_the_page_shows_the_committed_results() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert page == table.page_with(page, table.rendered(_committed())), "make test-clients ARGS=--write"
    assert table.Results.parse(_committed().text()) == _committed()


def test_differences_from_the_committed_table_are_named() -> None:
    results = _committed()
    other = {**results.cells, "dspy": {**results.cells["dspy"], "chat": Cell("fails", "why")}}
    changed = table.Results(results.day, results.versions, other)
    assert table.differences(results, results) == []
    assert table.differences(changed, results) == ["dspy, chat: fails (why), and was works"]


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks"):
        table.page_with("# Clients", "")


def test_every_script_and_lock_is_used_and_names_no_host() -> None:
    scripts = {framework.script for framework in FRAMEWORKS} | {"asked.py", "asked.mjs"}
    assert {path.name for path in (*SCRIPTS.glob("*.py"), *NODE.glob("*.mjs"))} == scripts
    environments = {framework.environment for framework in FRAMEWORKS} - {NODE_ENVIRONMENT}
    assert {path.stem for path in PYTHON_LOCKS.glob("*.txt")} == environments
    assert {path.stem for path in PYTHON_LOCKS.glob("*.in")} == environments
    assert set(CORE) <= {framework.key for framework in FRAMEWORKS}
    for lock in (*PYTHON_LOCKS.glob("*.txt"), NODE / "package-lock.json"):
        assert not re.search(
            r"resolved|registry|index-url|://(?!github\.com/sponsors)", lock.read_text(encoding="utf-8")
        )


def test_every_python_pin_has_digests() -> None:
    for lock in sorted(Path(PYTHON_LOCKS).glob("*.txt")):
        for pin in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8").strip()):
            assert "--hash=sha256:" in pin, f"{lock.name}: {pin.splitlines()[0]}"
