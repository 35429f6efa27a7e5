"""Answers in the task view, as this release and older ones have written them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import AnswerChoice, Citation, MessagePart, PartKind
from headrace_intake.decide.choices import loaded, stored

WHOLE = AnswerChoice(
    parts=(
        MessagePart(kind=PartKind.REASONING, content=plain("hm"), provider="anthropic", signature=plain("s")),
        MessagePart(kind=PartKind.TEXT, content=plain("ä")),
    ),
    finish_reason="stop",
    citations=(Citation(url=plain("https://a.example")),),
    stop_sequence=plain("END"),
)


def test_what_is_stored_is_loaded() -> None:
    assert loaded(stored([WHOLE, AnswerChoice(index=1)])) == (WHOLE, AnswerChoice(index=1))


@pytest.mark.parametrize(
    ("within", "names"),
    [
        ("choice", ["stop_sequence"]),
        ("choice", ["stop_sequence", "logprobs"]),
        ("parts", ["cache_seconds", "is_error"]),
        ("citations", ["start", "end"]),
    ],
)
def test_what_was_stored_without_later_fields_has_their_defaults(within: str, names: list[str]) -> None:
    text = stored([WHOLE])
    assert text is not None
    (choice,) = json.loads(text)
    parts: list[dict[str, Any]] = [choice] if within == "choice" else choice[within]
    for part in parts:
        for name in names:
            del part[name]
    (found,) = loaded(json.dumps([choice]))
    assert found.parts == WHOLE.parts
    assert found.citations == WHOLE.citations
    assert found.stop_sequence == (None if "stop_sequence" in names else WHOLE.stop_sequence)
