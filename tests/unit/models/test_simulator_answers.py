"""What the simulator says: a pure function of the prompt that quotes what the prompt holds."""

from __future__ import annotations

import json

import pytest
from headrace_models.conversation import ChatMessage
from headrace_models.simulator.answers import answer, count_tokens, role_of, tokens_of
from headrace_models.simulator.catalog import node_model
from headrace_models.simulator.exchange import Prompt, compose
from headrace_models.simulator.facts import read_off
from headrace_models.simulator.faults import Fault, FaultKind, FaultPlan, parse_fault
from hypothesis import given
from hypothesis import strategies as st

CODE = """File: src/store.py
import os
from pathlib import Path

class Store:
    def load(self, path: Path, mode: str = "r") -> str:
        try:
            return eval(path.read_text())
        except:
            return ""

async def fetch_all(session, *, limit=3): ...
"""


def _ask(role: str, text: str = CODE) -> list[ChatMessage]:
    return [ChatMessage("system", role), ChatMessage("user", text)]


def test_facts_are_read_off_code() -> None:
    facts = read_off(CODE)
    assert facts.file == "src/store.py"
    assert facts.classes == ("Store",)
    assert facts.functions == (("load", "path, mode"), ("fetch_all", "session, limit"))
    assert facts.imports == ("os", "pathlib")
    assert [(habit.line, habit.severity) for habit in facts.habits] == [(8, "high"), (9, "medium")]


def test_facts_are_read_off_a_history() -> None:
    facts = read_off("0a1b2c3d4e Add the journal\nffffff1 Fix the fence\n")
    assert facts.commits == (("0a1b2c3", "Add the journal"), ("ffffff1", "Fix the fence"))


@pytest.mark.parametrize(
    ("system", "role"),
    [
        ("You write documentation for modules.", "documentation"),
        ("You are a code reviewer.", "review"),
        ("You are a security reviewer.", "security"),
        ("You propose test ideas.", "tests"),
        ("You write the changelog from git history.", "changelog"),
        ("You are a conversation scribe.", "summary"),
        ("You help.", "review"),
    ],
)
def test_the_role_is_found_in_the_prompt(system: str, role: str) -> None:
    assert role_of(_ask(system, "Please review this: x = 1")) == role


def test_a_prompt_of_no_known_role_gets_a_general_answer() -> None:
    messages = [ChatMessage("user", "What is the weather?")]
    assert role_of(messages) == "general"
    assert answer(messages, model="m", as_json=False)


@pytest.mark.parametrize(
    ("role", "quoted"),
    [
        ("documentation", "`fetch_all()` takes `session, limit`"),
        ("review", "line 8: evaluates text as code (high)"),
        ("security audit", "2 findings, worst severity high"),
        ("tests", "`test_load`"),
        ("summary", "`Store`"),
    ],
)
def test_answers_quote_the_prompt(role: str, quoted: str) -> None:
    assert quoted in answer(_ask(role), model="phi3:3.8b", as_json=False)


def test_a_changelog_quotes_the_commits() -> None:
    text = answer(_ask("changelog", "0a1b2c3d4e Add the journal"), model="m", as_json=False)
    assert "- Add the journal (0a1b2c3)" in text


@given(st.text(max_size=300), st.booleans())
def test_any_prompt_has_one_answer(text: str, as_json: bool) -> None:
    messages = [ChatMessage("user", text)]
    first = answer(messages, model="m", as_json=as_json)
    assert first
    assert first == answer(messages, model="m", as_json=as_json)
    if as_json:
        assert isinstance(json.loads(first), dict)


@given(st.text(max_size=300))
def test_tokens_join_to_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text
    assert count_tokens(text) == len(tokens_of(text))


def test_an_answer_is_cut_and_counted() -> None:
    prompt = Prompt(model=node_model("phi3:3.8b"), messages=tuple(_ask("review")), max_tokens=3, stop=())
    cut = compose(prompt, None)
    assert (cut.finish, len(cut.tokens)) == ("length", 3)
    assert cut.input_tokens > count_tokens(CODE)
    refused = compose(prompt, Fault(FaultKind.REFUSAL))
    assert refused.finish == "refusal"


def test_faults_strike_in_order_and_only_where_they_are_meant() -> None:
    plan = FaultPlan()
    plan.add("ollama", Fault(FaultKind.ERROR), 2, node="a")
    plan.add("ollama", Fault(FaultKind.OVERLOADED), 1)
    assert plan.take("groq", "groq") is None
    assert plan.pending() == 3
    kinds = [taken.kind if (taken := plan.take("ollama", node)) else None for node in ("a", "b", "a", "a")]
    assert kinds == [FaultKind.ERROR, FaultKind.OVERLOADED, FaultKind.ERROR, None]
    plan.add("groq", Fault(FaultKind.ERROR), 5)
    plan.clear()
    assert plan.take("groq", "groq") is None


def test_faults_are_read_from_the_command_line() -> None:
    assert parse_fault("groq:rate_limit:3") == ("groq", Fault(FaultKind.RATE_LIMIT), 3)
    assert parse_fault("ollama:timeout")[2] == 1
    for wrong in ("groq", "groq:", ":error", "groq:no_such_fault"):
        with pytest.raises(ValueError, match=r"fault|no_such_fault"):
            parse_fault(wrong)
