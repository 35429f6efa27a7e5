"""Parts of the command line that need nothing running."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
from headrace.cli.costs import print_report
from headrace.cli.main import build
from headrace.cli.output import dollars, dollars_text, plain_data, task_summary
from headrace.cli.records import record_document, record_line
from headrace.cli.running import run
from headrace.cli.timeparse import parse_time_or_age
from headrace.costs import cost_report_of
from headrace.messages import Message, Text, ToolCall
from headrace.results import AnswerChoice, Failure, Task, TrailStep, Usage
from headrace.transport import Reply, Transport
from headrace_contracts.content import plain
from headrace_contracts.events import Content, ServedFrom, TaskCompleted, TaskStatus
from headrace_streams.errors import TransientError
from headrace_streams.records import Record
from typer.testing import CliRunner

NOW = datetime(2027, 1, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", NOW - timedelta(minutes=30)), ("1.5h", NOW - timedelta(minutes=90)), ("7d", NOW - timedelta(days=7)),
        ("45 s", NOW - timedelta(seconds=45)), ("2026-12-31T23:00:00Z", datetime(2026, 12, 31, 23, tzinfo=UTC)),
        ("2026-12-31T23:00:00+02:00", datetime(2026, 12, 31, 21, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_times_and_ages(text: str, expected: datetime) -> None:
    assert parse_time_or_age(text, NOW) == expected


def test_what_is_neither_time_nor_age() -> None:
    with pytest.raises(ValueError, match="neither a time"):
        parse_time_or_age("yesterday", NOW)


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        ({"cached_input_tokens": 250}, ["250", "0"]),
        ({"cache_write_5m_tokens": 1_200}, ["0", "1,200"]),
        ({"cached_input_tokens": 7, "cache_write_5m_tokens": 30, "cache_write_1h_tokens": 400}, ["7", "430"]),
        ({}, None),
    ],
)
def test_costs_show_reads_from_and_writes_to_prompt_caches_where_there_are_any(
    usage: dict[str, int], shown: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = {"executions": 2, "input_tokens": 5_000, "output_tokens": 60, "searches": 0, "cost_nanodollars": 10, **usage}
    report = cost_report_of({"tenant": "acme", "total": sums, "simulated": {}, "groups": [{"key": {}, **sums}]})
    assert report.total.usage == Usage(input_tokens=5_000, output_tokens=60, **usage)
    print_report(report, [])
    heading, *rows = [line for line in capsys.readouterr().out.splitlines() if any(map(str.isalnum, line))]
    assert ("cache read" in heading, "cache written" in heading) == (shown is not None,) * 2
    for row in rows:
        words = row.split()
        start = words.index("5,000")
        assert words[start + 1 : words.index("60")] == (shown or [])


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ([], "provider,model"),
        (["--by", "day", "--by", "tenant"], "day,tenant"),
        (["-b", "role, user", "-b", "role", "--by=hour"], "role,user,hour"),
        (["--by", ""], None),
    ],
)
def test_costs_are_grouped_by_everything_that_was_named(
    arguments: list[str], asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[str | None] = []

    async def call(_self: Transport, _method: str, _url: str, **request: Any) -> Reply:
        queries.append(dict(request["params"]).get("group_by"))
        return Reply(200, {}, {"total": {}, "groups": []})

    monkeypatch.setattr(Transport, "call", call)
    monkeypatch.setenv("HEADRACE_COSTS_URL", "http://127.0.0.1:9")
    assert CliRunner().invoke(build([]), ["costs", *arguments]).exit_code == 0
    assert queries == [asked]


EVENT = TaskCompleted(
    task_id="t-1", tenant="acme", status=TaskStatus.SUCCEEDED, answer=plain("Grüße"), served_from=ServedFrom.ATTEMPT,
    submitted_at=1_795_242_457_767, completed_at=1_795_242_458_007, model_ms=171.6607, labels={"a": "b"},
)  # fmt: skip
RECORD = Record("headrace.tasks.completed", 3, 42, 1_795_242_458_012, b"s:acme/1", b"...", (("ce_id", b"x"),))


def test_a_record_as_a_document_shows_texts() -> None:
    document = json.loads(json.dumps(record_document(RECORD, EVENT)))
    assert (document["partition"], document["offset"], document["key"]) == (3, 42, "s:acme/1")
    assert document["headers"] == {"ce_id": "x"}
    assert document["event"]["answer"] == {"cipher": "none", "text": "Grüße"}


def test_sealed_texts_stay_sealed() -> None:
    sealed = TaskCompleted(
        task_id="t", tenant="a", status=TaskStatus.SUCCEEDED, answer=Content(cipher="key-7", data=b"\x00\x01"),
        submitted_at=1, completed_at=2,
    )  # fmt: skip
    assert record_document(RECORD, sealed)["event"]["answer"] == {"cipher": "key-7", "bytes": 2}


def test_a_record_in_one_line_leaves_out_what_is_empty_and_how_long_texts_are() -> None:
    line = record_line(RECORD, EVENT).plain
    assert "\n" not in line
    for part in ("3@42", "s:acme/1", "task_id=t-1", "answer=(7 bytes)", "model_ms=171.7", "labels={a:b}"):
        assert part in line
    assert "Grüße" not in line
    assert "provider=" not in line


def test_money_is_exact_for_programs_and_short_for_people() -> None:
    assert dollars_text(1_500_000_001) == "1.500000001"
    assert dollars(1_234) == "$0.000001"


def test_results_as_json() -> None:
    task = Task(id="t", status="failed", submitted_at=NOW, failure=Failure(code="c", message="m"), cost_nanodollars=7)
    document = plain_data(task)
    assert document["submitted_at"] == "2027-01-01T12:00:00Z"
    assert document["failure"] == {"code": "c", "message": "m"}
    assert document["cost_usd"] == "0.000000007"


def test_the_summary_tells_all_that_matters() -> None:
    task = Task(
        id="t-9", status="succeeded", provider="groq", model="m", node="groq", simulated=True, served_from="cache",
        cost_nanodollars=1_500_000, submitted_at=NOW, completed_at=NOW + timedelta(seconds=2),
        usage=Usage(input_tokens=3, output_tokens=4),
        trail=(TrailStep(at=NOW, step="cached", reason="an equal task was answered before"),),
    )  # fmt: skip
    text = task_summary(task).plain
    for part in (
        "succeeded",
        "groq/m (cached)",
        "SIMULATED",
        "$0.001500",
        "2.00 s",
        "3+4 tokens",
        "why: an equal",
        "t-9",
    ):
        assert part in text


def test_others_add_commands_by_entry_points() -> None:
    plugin = EntryPoint(name="shape", value="headrace.cli.output:dollars_text", group="headrace.commands")
    result = CliRunner().invoke(build([plugin]), ["shape", "5"])
    assert result.exit_code == 0
    assert "shape" in CliRunner().invoke(build([plugin]), ["--help"]).stdout


def test_usage_errors_are_exit_code_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["submit", "--privacy", "secret", "x"], ["tail"], ["nonsense"], ["submit", "x", "--label", "y"]):
        assert CliRunner().invoke(build([]), arguments).exit_code == 2, arguments


def test_kafka_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("HEADRACE_REGISTRY_URL", "http://127.0.0.1:9")

    async def work() -> None:
        raise TransientError("Failed to get metadata")

    with pytest.raises(typer.Exit) as ended:
        run(work())
    assert ended.value.exit_code == 3
    assert "Kafka at 127.0.0.1:9 does not answer" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--image", "none.png"], "--image none.png: No such file"),
        (["-i", "notes.txt"], "notes.txt is not an image"),
        (["-i", "empty.png"], "empty.png is empty"),
        (["--schema", "none.json"], "--schema none.json: No such file"),
        (["--schema", "notes.txt"], "notes.txt is not JSON"),
        (["--schema", "list.json"], "a JSON Schema is an object"),
    ],
)
def test_what_cannot_be_submitted_is_named(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "notes.txt").write_text("no image, no schema")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "list.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["headrace", "submit", "Look", *arguments])
    with pytest.raises(SystemExit) as ended:
        build([])()
    assert ended.value.code == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_messages_are_json_as_the_api_writes_them() -> None:
    said = Message("assistant", (Text("I look."), ToolCall("c", "f", "{}")))
    task = Task(id="t", status="succeeded", choices=(AnswerChoice(message=said, finish_reason="tool_calls"),))
    (choice,) = json.loads(json.dumps(plain_data(task)))["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": "I look.",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }  # fmt: skip
