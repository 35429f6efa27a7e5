"""The reason against a model, in words: every rule of the router has a sentence, and is found in the trail."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import headrace_contracts.floors
import headrace_router.decide.candidates
import headrace_router.decide.kinds
import headrace_router.decide.ordering
import headrace_router.decide.rules
import pytest
from headrace.results import TrailStep
from headrace.why_not import SENTENCES, against
from headrace_contracts.switches import SWITCHED_OFF

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def step(name: str, reason: str = "", model: str | None = "groq/m") -> TrailStep:
    provider, _, named = (model or "/").partition("/")
    return TrailStep(at=NOW, step=name, provider=provider or None, model=named or None, reason=reason)


def codes_of_the_router() -> set[str]:
    """Every code that a rule gives: first of what `return`, `rejection(` or a Rejection is given."""
    found = {SWITCHED_OFF}
    for module in (
        headrace_router.decide.candidates, headrace_router.decide.kinds, headrace_router.decide.ordering,
        headrace_router.decide.rules, headrace_contracts.floors,
    ):  # fmt: skip
        text = Path(module.__file__ or "").read_text("utf-8")
        found |= set(re.findall(r'(?:return|rejection\()\s*\(?\s*"([a-z_]+)",', text))
        found |= set(re.findall(r'code="([a-z_]+)" if', text)) | set(re.findall(r' else "(no_[a-z_]+)",', text))
        found |= {
            value for name, value in vars(module).items() if name in ("OVER_BUDGET", "FAILED_BEFORE", "INCAPABLE")
        }
    return found


def test_every_rule_has_a_sentence_and_every_sentence_a_rule() -> None:
    assert codes_of_the_router() == set(SENTENCES)


@pytest.mark.parametrize("code", sorted(SENTENCES))
@pytest.mark.parametrize("asked", ["groq", "m", "groq/m"])
def test_the_reason_is_said_with_its_detail(code: str, asked: str) -> None:
    trail = [step("rejected", f"{code}: so it is"), step("dispatched", model="ollama/n"), step("finished", model=None)]
    found = against(asked, trail)
    assert found.lines == (f"groq/m: {SENTENCES[code]}: so it is.",)
    assert not found.ran


@pytest.mark.parametrize(
    ("trail", "ran", "said"),
    [
        ([step("rejected", "of_a_newer_release")], False, "groq/m: of_a_newer_release."),
        ([step("dispatched", model="ollama/n")], False, "ollama/n comes before it"),
        ([step("cached", "the answer to the equal task t", "ollama/n")], False, "No model was asked: the answer to"),
        ([step("waited", "no_capacity", None)], False, "no candidate yet"),
        ([], False, "no candidate yet"),
        ([step("dispatched")], True, "The task ran there"),
        ([step("dispatched"), step("fell_back", "timeout")], True, "An attempt there failed (timeout)"),
        ([step("not_asked", "")], False, "No model was asked there."),
    ],
)
def test_what_is_said_of_other_trails(trail: list[TrailStep], ran: bool, said: str) -> None:
    found = against("groq/m", trail)
    assert found.ran is ran
    assert any(said in line for line in found.lines)


def test_a_reason_is_said_once() -> None:
    assert len(against("groq", [step("rejected", "mode: x")] * 3).lines) == 1
