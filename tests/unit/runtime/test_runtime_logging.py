"""Logs: one line per event, with ids, in one form for all loggers, and without content or keys."""

from __future__ import annotations

import asyncio
import io
import json
import logging as stdlib_logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage
from headrace_runtime import tracing
from headrace_runtime.logging import configure, get_logger, log_context, report_loop_error
from headrace_runtime.redaction import REDACTED, redact_text
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = stdlib_logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    stdlib_logging.captureWarnings(False)
    structlog.reset_defaults()


def _configured(**options: Any) -> io.StringIO:
    stream = io.StringIO()
    configure(service="headrace-test", instance="i-1", stream=stream, **options)
    return stream


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_carries_identity_context_and_trace() -> None:
    stream = _configured()
    with log_context(task_id="t-1", tenant="acme"), tracing.span("work"):
        get_logger("headrace.test").info("dispatched", model="phi3")
    get_logger("headrace.test").info("later")
    first, second = _lines(stream)
    assert first["message"] == "dispatched"
    assert first["service"] == "headrace-test"
    assert first["instance"] == "i-1"
    assert first["logger"] == "headrace.test"
    assert first["level"] == "info"
    assert (first["task_id"], first["tenant"], first["model"]) == ("t-1", "acme", "phi3")
    assert len(first["trace_id"]) == 32
    assert len(first["span_id"]) == 16
    assert "task_id" not in second
    assert "trace_id" not in second


def test_libraries_that_use_logging_come_out_the_same_way() -> None:
    stream = _configured()
    with log_context(task_id="t-2"):
        stdlib_logging.getLogger("some.library").warning("odd thing %s", "here")
    (line,) = _lines(stream)
    assert line["message"] == "odd thing here"
    assert line["logger"] == "some.library"
    assert line["level"] == "warning"
    assert line["task_id"] == "t-2"


def test_levels_below_the_threshold_are_not_written() -> None:
    stream = _configured(level="warning")
    get_logger("x").info("no")
    stdlib_logging.getLogger("x").info("no")
    get_logger("x").warning("yes")
    assert [line["message"] for line in _lines(stream)] == ["yes"]


def test_chatty_libraries_are_held_at_warning() -> None:
    stream = _configured(level="debug")
    stdlib_logging.getLogger("aiohttp.access").info("GET /")
    stdlib_logging.getLogger("openai._base_client").debug("Request options: the prompt")
    stdlib_logging.getLogger("anthropic._base_client").debug("Request options: the prompt")
    stdlib_logging.getLogger("aiohttp.access").warning("slow")
    assert [line["message"] for line in _lines(stream)] == ["slow"]


def test_content_and_keys_are_redacted_by_name_at_any_depth() -> None:
    stream = _configured()
    get_logger("x").info(
        "careless",
        prompt="the prompt",
        groq_api_key="gsk",
        request={"messages": [{"content": "deep"}], "model": "phi3"},
        parts=[{"authorization": "abc"}],
        input_tokens=7,
        key_id="k1",
    )
    (line,) = _lines(stream)
    assert line["prompt"] == REDACTED
    assert line["groq_api_key"] == REDACTED
    assert line["request"] == {"messages": REDACTED, "model": "phi3"}
    assert line["parts"] == [{"authorization": REDACTED}]
    assert line["input_tokens"] == 7
    assert line["key_id"] == "k1"


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("key hr_abcdefgh2345_zyxwvu765 was used", "zyxwvu765"),
        ("Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
        ("sk-ant-REDACTED", "api03-abcdefghijkl"),
        ("gsk_abcdefghijklmnop", "abcdefghijklmnop"),
        ("cannot connect to postgresql://user:hunter2@db:5432/x", "hunter2"),
    ],
)
def test_texts_shaped_like_keys_are_redacted(text: str, leak: str) -> None:
    assert leak not in redact_text(text)
    stream = _configured()
    get_logger("x").info(text)
    stdlib_logging.getLogger("y").error(text)
    assert leak not in stream.getvalue()
    assert redact_text("an ordinary sentence, at 12:30:45 http://host:80/x") == (
        "an ordinary sentence, at 12:30:45 http://host:80/x"
    )


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_traceback_shows_code_and_no_values_of_variables(form: Any) -> None:
    stream = _configured(format=form)

    def fail(prompt: str) -> None:
        raise RuntimeError(f"failed after {len(prompt)} characters")

    private = " ".join(["a", "very", "private", "prompt"])
    try:
        fail(private)
    except RuntimeError:
        get_logger("x").exception("broke")
        stdlib_logging.getLogger("y").exception("broke too")
    written = stream.getvalue()
    assert written.count("failed after {len(prompt)} characters") == 2
    assert "Traceback" in written
    assert private not in written


def test_human_lines_hold_the_same_facts() -> None:
    stream = _configured(format="human")
    get_logger("headrace.test").info("ready", port=80)
    line = stream.getvalue()
    assert "ready" in line
    assert "port=80" in line
    assert "headrace.test" in line


class _OurError(Exception):
    """Stands for a typed error of ours: its module's name begins with ours below."""


_OurError.__module__ = "headrace_test.errors"
_SAID = "my diagnosis"
_SECRET = "hr_abcdefghijklmnop_" + "q" * 48


def _foreign(kind: str) -> Exception:
    """Errors of libraries that quote what they failed at."""

    class Model(BaseModel):
        prompt: int

    try:
        match kind:
            case "pydantic":
                Model.model_validate({"prompt": _SAID})
            case "json":
                raise json.JSONDecodeError(_SAID, _SAID, 0)
            case "builtin":
                raise ValueError(_SAID)
            case "group":
                raise ExceptionGroup(_SAID, [KeyError(_SAID)])
            case "note":
                error = RuntimeError("x")
                error.add_note(_SAID)
                raise error
    except Exception as error:  # noqa: BLE001 - it is what is tested
        return error
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["pydantic", "json", "builtin", "group", "note"])
@pytest.mark.parametrize("format", ["json", "human"])
@pytest.mark.parametrize("through", ["structlog", "logging", "cause", "loop"])
def test_an_exception_of_others_tells_its_type_and_place_only(kind: str, format: Any, through: str) -> None:
    stream = _configured(format=format)
    foreign = _foreign(kind)
    match through:
        case "structlog":
            get_logger("x").error("failed", exc_info=foreign)
        case "logging":
            stdlib_logging.getLogger("y").error("failed", exc_info=foreign)
        case "cause":
            try:
                raise _OurError("the row is not valid") from foreign
            except _OurError:
                get_logger("x").exception("failed")
        case "loop":
            report_loop_error(
                asyncio.new_event_loop(),
                {"message": "Task exception was never retrieved\nfuture: " + _SAID, "exception": foreign},
            )
    written = stream.getvalue()
    assert _SAID not in written
    assert type(foreign).__name__ in written
    assert "test_runtime_logging.py" in written
    if through == "cause":
        assert "the row is not valid" in written


@pytest.mark.parametrize("format", ["json", "human"])
def test_a_key_in_an_exception_is_redacted(format: Any) -> None:
    stream = _configured(format=format)
    try:
        raise _OurError(f"refused {_SECRET}")
    except _OurError:
        get_logger("x").exception("failed")
        stdlib_logging.getLogger("y").exception("failed")
    assert _SECRET not in stream.getvalue()
    assert stream.getvalue().count(REDACTED) == 2


def test_the_reason_of_the_operating_system_is_told() -> None:
    stream = _configured()
    try:
        socket.create_connection(("127.0.0.1", 1), timeout=1)
    except OSError:
        get_logger("x").exception("failed")
    (line,) = _lines(stream)
    assert line["exception"].endswith("ConnectionRefusedError: Connection refused")


def test_requests_that_are_not_http_fill_no_log() -> None:
    stream = _configured()
    stdlib_logging.getLogger("aiohttp.server").error("Error handling request", exc_info=BadHttpMessage("\x16\x03\x01"))
    stdlib_logging.getLogger("aiohttp.server").error("Error handling request", exc_info=RuntimeError("x"))
    assert len(_lines(stream)) == 1


def test_a_span_that_fails_tells_the_type_only() -> None:
    exporter = InMemorySpanExporter()
    end = tracing.setup(service="s", instance="i", version="1", endpoint=None, exporter=exporter)
    with pytest.raises(ValueError, match=_SAID), tracing.span("work"):
        raise ValueError(_SAID)
    end()
    tracing.setup(service="s", instance="i", version="1", endpoint=None)
    (span,) = exporter.get_finished_spans()
    assert _SAID not in span.to_json()
    assert span.status.description == "ValueError"
