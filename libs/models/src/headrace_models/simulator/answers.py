"""The simulator's answers: a pure function of the prompt, in the shape that the requested role would give.

Nothing is understood. The role is recognised by keywords of the prompt, and its template is filled with facts extracted
from the text (names of functions, lines, commits), so that a demo shows answers that match their questions.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from headrace_models.conversation import ChatMessage
from headrace_models.simulator.facts import Facts, read_off

REFUSAL_MARK: Final = "simulate: refusal"
"""A prompt that contains this is declined, as if by a model's safety system."""
UNSURE_MARK: Final = "simulate: unsure"
"""An answer to a prompt that contains this is rated low by whoever is asked to."""
REFUSAL_TEXT: Final = "I can't help with that."

_ROLES: Final = (
    ("security", r"secur|vulnerab|audit|threat"),
    ("changelog", r"changelog|release notes|git (?:log|history)"),
    ("tests", r"\btests?\b|test ideas|test cases|coverage"),
    ("review", r"review|code quality"),
    ("documentation", r"document|docstring|readme|explain"),
    ("summary", r"summar|scribe|minutes"),
    ("research", r"research|find out|compare"),
)
_TOKEN: Final = re.compile(r"\s*\S{1,6}|\s+")


def role_of(messages: Sequence[ChatMessage]) -> str:
    """The role that a prompt asks for: by its system texts, else by how its last user message begins, or `general`."""
    system = " ".join(message.text for message in messages if message.role == "system")
    asked = _last_user_text(messages)[:400]
    for text in (system, asked):
        found = [(match.start(), role) for role, words in _ROLES if (match := re.search(words, text, re.I))]
        if found:
            return min(found)[1]
    return "general"


def refuses(messages: Sequence[ChatMessage]) -> bool:
    """Whether the prompt contains the refusal marker."""
    return any(REFUSAL_MARK in message.text for message in messages)


def answer(messages: Sequence[ChatMessage], *, model: str, as_json: bool) -> str:
    """Always the same text for the same messages, model and form."""
    if (verdict := _verdict(messages)) is not None:
        return verdict
    text = _last_user_text(messages)
    facts = read_off(text)
    role = role_of(messages)
    seed = int.from_bytes(hashlib.sha256("\0".join([model, *(m.text for m in messages)]).encode()).digest()[:8], "big")
    cited = _cited(messages)
    if as_json:
        document = _as_document(role, facts, seed)
        return json.dumps({**document, "summary": f"{document['summary']}{cited}"}, ensure_ascii=False)
    return _FORMS[role](facts, seed) + cited


def _verdict(messages: Sequence[ChatMessage]) -> str | None:
    """The reply to a prompt that asks to rate an answer, or to choose the best of several; None for any other."""
    told = " ".join(message.text for message in messages if message.role == "system")
    if '{"confidence": c}' in told:
        unsure = any(UNSURE_MARK in message.text for message in messages)
        return '{"confidence": 0.2}' if unsure else '{"confidence": 0.9}'
    return '{"best": 1}' if '{"best": n}' in told else None


def _cited(messages: Sequence[ChatMessage]) -> str:
    """A sentence that rests on the numbered sources in a prompt; empty if there are none."""
    quoted = next((message.text for message in messages if message.text.startswith("<sources>")), "")
    titles = re.findall(r'<source number="(\d+)" url="[^"]*" title="([^"]*)">', quoted)
    said = [f"{html.unescape(title) or 'A source'} [{number}]" for number, title in titles[:3]]
    return f" Of {len(titles)} sources: {'; '.join(said)}." if said else ""


def tokens_of(text: str) -> list[str]:
    """`text` split into pieces of about a token each; joined they are the text again."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """Number of tokens that the simulator bills for `text`."""
    return len(_TOKEN.findall(text))


def _last_user_text(messages: Sequence[ChatMessage]) -> str:
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def _subject(facts: Facts) -> str:
    return f"`{facts.file}`" if facts.file else f"the text of {facts.lines} lines"


def _pick(options: Sequence[str], seed: int) -> str:
    return options[seed % len(options)]


def _names(facts: Facts, most: int = 6) -> str:
    names = [f"`{name}`" for name in facts.classes] + [f"`{name}()`" for name, _ in facts.functions]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "no named functions"


def _documentation(facts: Facts, seed: int) -> str:
    opening = _pick(
        (
            f"{_subject(facts)} provides {_names(facts)}.",
            f"This module, {_subject(facts)}, is built around {_names(facts)}.",
        ),
        seed,
    )
    lines = [opening, ""]
    lines += [f"- class `{name}`: holds the state that its methods share." for name in facts.classes[:5]]
    for name, parameters in facts.functions[:8]:
        takes = f"takes `{parameters}`" if parameters else "takes no parameters"
        lines.append(f"- `{name}()` {takes}; its name says that it {_verb(name)}.")
    if facts.imports:
        lines += ["", f"It builds on {', '.join(f'`{name}`' for name in facts.imports[:6])}."]
    return "\n".join(lines)


def _review(facts: Facts, seed: int) -> str:
    lines = [f"Review of {_subject(facts)} ({facts.lines} lines, {len(facts.functions)} functions)", ""]
    lines += [f"- line {habit.line}: {habit.what} ({habit.severity})" for habit in facts.habits[:5]]
    wide = [name for name, parameters in facts.functions if parameters.count(",") >= 4]
    lines += [f"- `{name}()` takes many parameters; group those that travel together." for name in wide[:3]]
    if len(lines) == 2:
        lines.append("- nothing stands out; names are clear and functions are short enough to read at once.")
    lines += ["", _pick(("Approve after the points above.", "Good to merge once these are answered."), seed)]
    return "\n".join(lines)


def _security(facts: Facts, seed: int) -> str:
    worst = facts.habits[0].severity if facts.habits else "none"
    lines = [f"Security audit of {_subject(facts)}: {len(facts.habits)} findings, worst severity {worst}", ""]
    lines += [
        f"{index}. {habit.severity}: line {habit.line} {habit.what}." for index, habit in enumerate(facts.habits[:8], 1)
    ]
    if not facts.habits:
        lines.append("No dangerous call was found among those this audit looks for.")
    entry = facts.functions[seed % len(facts.functions)][0] if facts.functions else None
    if entry:
        lines += ["", f"Check next which callers reach `{entry}()` with input from outside."]
    return "\n".join(lines)


def _tests(facts: Facts, seed: int) -> str:
    lines = [f"Test ideas for {_subject(facts)}", ""]
    for name, parameters in facts.functions[:6]:
        first = parameters.split(",")[0].strip(" *") or "no input"
        lines.append(f"- `test_{name}`: an ordinary `{first}`, an empty one, and one beyond the limit.")
    lines += [f"- `{name}`: used twice, and used after it is closed." for name in facts.classes[:3]]
    if len(lines) == 2:
        lines.append("- the shortest valid input, the longest, and one that is almost valid.")
    lines += ["", _pick(("Add one property test over random input.", "Run them in random order as well."), seed)]
    return "\n".join(lines)


def _changelog(facts: Facts, seed: int) -> str:
    lines = ["## Changes", ""]
    lines += [f"- {subject} ({commit})" for commit, subject in facts.commits[:12]]
    if not facts.commits:
        lines.append(f"- Reworked {_names(facts, 3)}.")
    lines += [
        "",
        _pick(("No migration is needed.", "Nothing was removed.", "Behaviour of released calls is kept."), seed),
    ]
    return "\n".join(lines)


def _summary(facts: Facts, seed: int) -> str:
    kind = _pick(("In short", "Summary"), seed)
    return f"{kind}: {_subject(facts)} has {facts.words} words and deals with {_names(facts)}."


def _research(facts: Facts, seed: int) -> str:
    claim = _pick(("Sources agree on the main point", "The findings differ in detail only"), seed)
    return f"{claim}. The question has {facts.words} words; what it names is {_names(facts)}."


def _general(facts: Facts, seed: int) -> str:
    opening = _pick(("Here is what I can say", "A short answer", "To the point"), seed)
    return f"{opening}: the request has {facts.words} words in {facts.lines} lines and names {_names(facts)}."


_FORMS: Final[Mapping[str, Callable[[Facts, int], str]]] = {
    "documentation": _documentation,
    "review": _review,
    "security": _security,
    "tests": _tests,
    "changelog": _changelog,
    "summary": _summary,
    "research": _research,
    "general": _general,
}


def _as_document(role: str, facts: Facts, seed: int) -> dict[str, object]:
    return {
        "role": role,
        "subject": facts.file,
        "summary": _FORMS[role](facts, seed).splitlines()[0],
        "functions": [name for name, _ in facts.functions],
        "classes": list(facts.classes),
        "findings": [{"line": habit.line, "severity": habit.severity, "what": habit.what} for habit in facts.habits],
    }


_VERBS: Final = {"get": "returns", "is": "tells whether", "has": "tells whether", "set": "sets", "make": "makes"}


def _verb(name: str) -> str:
    first, _, rest = name.strip("_").partition("_")
    verb = _VERBS.get(first, f"{first}s" if first else "works")
    return f"{verb} {rest.replace('_', ' ')}".strip()
