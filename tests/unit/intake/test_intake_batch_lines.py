"""Lines of a batch's file, found in chunks of any size and checked; and its files of results."""

from __future__ import annotations

import json
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import Content, Failure, Usage
from headrace_intake.adapters.problems import problem_of
from headrace_intake.decide.batches.endpoints import ENDPOINTS
from headrace_intake.decide.batches.life import LineState
from headrace_intake.decide.batches.lines import CheckedLine, LineError, LineSplitter, RawLine, check_line
from headrace_intake.decide.batches.results import BatchUsage, EndedLine, refusal_document, result_of
from headrace_intake.decide.views import TaskView
from headrace_runtime.problems import Problem
from hypothesis import given
from hypothesis import strategies as st

URL = "/v1/chat/completions"


def split(data: bytes, size: int, longest: int = 100) -> list[RawLine]:
    splitter = LineSplitter(longest)
    found = [line for place in range(0, len(data), size) for line in splitter.feed(data[place : place + size])]
    return [*found, *splitter.end()]


@given(
    st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.integers(1, 40),
)
def test_lines_are_found_wherever_chunks_end(lines: list[bytes], end: bytes, ended: bool, size: int) -> None:
    data = end.join(lines) + (end if ended else b"")
    found = split(data, size, longest=8)
    expected = [
        (number, piece.removesuffix(b"\r"))
        for number, piece in enumerate(data.split(b"\n"), start=1)
        if piece.removesuffix(b"\r").strip() or len(piece.removesuffix(b"\r")) > 8
    ]
    assert [line.number for line in found] == [number for number, _ in expected]
    for line, (_, piece) in zip(found, expected, strict=True):
        assert line.data == (piece if len(piece) <= 8 else None)
        assert data[line.start : line.start + len(piece)] == piece


def test_a_line_that_never_ends_is_not_held() -> None:
    splitter = LineSplitter(1_000)
    for _ in range(1_000):
        assert list(splitter.feed(b"x" * 1_000)) == []
        assert len(splitter._held) <= 1_001
    assert list(splitter.feed(b"\nnext\n")) == [RawLine(1, 0, None), RawLine(2, 1_000_001, b"next")]


def raw(**changes: Any) -> RawLine:
    document = {"custom_id": "a", "method": "POST", "url": URL, "body": {}}
    document = {name: value for name, value in {**document, **changes}.items() if value is not ...}
    return RawLine(7, 70, json.dumps(document).encode())


@pytest.mark.parametrize("custom_id", ["a", "ü" * 512, "with space / slash"])
def test_a_line_is_what_its_place_in_the_file_says(custom_id: str) -> None:
    line = raw(custom_id=custom_id)
    assert line.data is not None
    assert check_line(line, URL) == CheckedLine(7, 70, len(line.data), custom_id)


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (RawLine(7, 0, None), "line_too_large", None),
        (RawLine(7, 0, b"{"), "invalid_json_line", None),
        (RawLine(7, 0, b"\xff"), "invalid_json_line", None),
        (RawLine(7, 0, b"null"), "invalid_json_line", None),
        (RawLine(7, 0, b'{"custom_id":"a","custom_id":"b"}'), "invalid_json_line", None),
        (RawLine(7, 0, b'{"custom_id":' + b"[" * 100_000), "invalid_json_line", None),
        (RawLine(7, 0, b'{"custom_id":1e999}'), "invalid_json_line", None),
        (raw(custom_id=...), "missing_required_parameter", "custom_id"),
        (raw(method=...), "missing_required_parameter", "method"),
        (raw(url=None), "missing_required_parameter", "url"),
        (raw(body=...), "missing_required_parameter", "body"),
        (raw(model="x"), "unknown_parameter", "model"),
        (raw(**{"what is this": 1}), "unknown_parameter", None),
        (raw(custom_id=""), "invalid_custom_id", "custom_id"),
        (raw(custom_id=["a"]), "invalid_custom_id", "custom_id"),
        (raw(custom_id="\0"), "invalid_custom_id", "custom_id"),
        (raw(method="post"), "invalid_method", "method"),
        (raw(url=URL + "/"), "mismatched_url", "url"),
        (raw(url=7), "mismatched_url", "url"),
        (raw(body="x"), "invalid_type", "body"),
    ],
)  # fmt: skip
def test_what_a_line_cannot_be(line: RawLine, code: str, param: str | None) -> None:
    error = check_line(line, URL)
    assert isinstance(error, LineError)
    assert (error.code, error.param, error.line) == (code, param, 7)
    assert error.message
    assert error.document().keys() == {"code", "message", "param", "line"}


def line_of(state: LineState, view: TaskView | None = None, refusal: str | None = None) -> EndedLine:
    return EndedLine(3, "mine", state, "0190-aa", refusal, view)


def view_of(status: str, **changes: Any) -> TaskView:
    return TaskView(task_id="0190-aa", tenant="acme", submitted_at=5_000, status=status, **changes)


FAILED = Failure(code="timeout", message="slow")
RESULTS = [
    (line_of(LineState.ANSWERED, view_of("succeeded", answer=plain("yes"))), 200, None),
    (line_of(LineState.ANSWERED, view_of("refused", answer=plain("no"))), 200, None),
    (line_of(LineState.ANSWERED, view_of("succeeded", answer=Content(cipher="key-1", data=b"?"))), 502, None),
    (line_of(LineState.FAILED, view_of("failed", failure=FAILED)), 504, None),
    (line_of(LineState.FAILED, view_of("expired", failure=FAILED)), 504, None),
    (line_of(LineState.FAILED, view_of("cancelled", failure=FAILED)), 499, None),
    (line_of(LineState.FAILED, refusal=refusal_document(Problem(400, "invalid-request", "why"))), 400, None),
    (line_of(LineState.EXPIRED), None, "batch_expired"),
    (line_of(LineState.EXPIRED, view_of("expired", failure=FAILED)), None, "batch_expired"),
    (line_of(LineState.CANCELLED, view_of("cancelled", failure=FAILED)), None, "batch_cancelled"),
    (line_of(LineState.ANSWERED), None, "result_expired"),
]


@pytest.mark.parametrize(("line", "status", "code"), RESULTS)
def test_each_end_has_its_line_of_results(line: EndedLine, status: int | None, code: str | None) -> None:
    result = result_of(line, ENDPOINTS[URL], problem_of)
    document = result.document
    assert document.keys() == {"id", "custom_id", "response", "error"}
    assert (document["id"], document["custom_id"]) == ("batch_req_0190aa", "mine")
    assert result.succeeded is (status == 200)
    if status is None:
        assert document["response"] is None
        assert document["error"]["code"] == code
        assert document["error"]["message"]
        return
    assert document["error"] is None
    assert document["response"]["status_code"] == status
    assert document["response"]["request_id"] == "0190-aa"
    assert ("choices" if status == 200 else "error") in document["response"]["body"]


def test_the_usage_of_a_batch_is_that_of_its_tasks() -> None:
    usage = BatchUsage()
    for each in (Usage(input_tokens=5, output_tokens=7, cached_input_tokens=2), None, Usage(reasoning_tokens=3)):
        usage.add(each)
    assert usage.document() == {
        "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 12,
    }  # fmt: skip
