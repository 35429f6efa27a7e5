"""Logs: one line per event, with ids, in one form for all loggers, and without content or keys."""

from __future__ import annotations

import io
import json
import logging as stdlib_logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from headrace_runtime import tracing
from headrace_runtime.logging import configure, get_logger, log_context
from headrace_runtime.redaction import REDACTED, redact_text


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
    assert written.count("failed after 21 characters") == 2
    assert "Traceback" in written
    assert private not in written


def test_human_lines_hold_the_same_facts() -> None:
    stream = _configured(format="human")
    get_logger("headrace.test").info("ready", port=80)
    line = stream.getvalue()
    assert "ready" in line
    assert "port=80" in line
    assert "headrace.test" in line
