"""Which tools a simulated model calls, and with which arguments: a pure function of the conversation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_models.conversation import ChatMessage, ToolCallPart, ToolResultPart, ToolSelection
from headrace_models.simulator.schema_values import Words, value_for

CALL_MARK: Final = "simulate: call"
"""A line of the last user message `simulate: call NAME {"a": 1}` makes the model call that tool, once per line."""
OBSERVATION: Final = "Observation:"
"""How ReAct agents begin a user message with what tools have returned."""
_CALL: Final = re.compile(rf"{CALL_MARK} (\S+)[ \t]*(\{{.*\}})?")
_LONGEST_QUOTE: Final = 200


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool in a request."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A call that the model makes. `arguments` is JSON."""

    call_id: str
    name: str
    arguments: str


def calls_for(
    messages: Sequence[ChatMessage], tools: Sequence[OfferedTool], choice: ToolSelection | None, *, parallel: bool
) -> tuple[MadeCall, ...]:
    """The calls: those that the prompt scripts, else of the tools that the choice demands or the prompt names.

    None once the tools have answered, unless the choice demands one: then the first that the conversation does not name
    gets what the others have answered, as agents give their last answer to a tool.
    """
    if not tools or (choice is not None and choice.mode == "none"):
        return ()
    required = choice is not None and choice.mode == "required"
    results = results_at_the_end(messages)
    if results and not required:
        return ()
    asked = next((message.text for message in reversed(messages) if message.role == "user"), "")
    usable = [tool for tool in tools if choice is None or not choice.names or tool.name in choice.names]
    if results:
        usable = [tool for tool in usable if not _is_known(tool.name, messages)][:1] or usable[:1]
        asked = f'"{" | ".join(results)}"'
    named = {tool.name for tool in usable}
    wanted: list[tuple[str, str]] = []
    for name, arguments in _CALL.findall(asked):
        if name in named:
            wanted.append((name, arguments or "{}"))
    if not wanted:
        found = usable if results else [tool for tool in usable if _is_named(tool.name, asked)]
        if not found and required:
            found = usable[:1]
        wanted = [
            (tool.name, json.dumps(value_for({"type": "object", **tool.parameters}, Words(asked)))) for tool in found
        ]
    seed = hashlib.sha256("\0".join(message.text for message in messages).encode()).hexdigest()
    made = tuple(
        MadeCall(f"call_{seed[:16]}{place:02d}", name, arguments) for place, (name, arguments) in enumerate(wanted)
    )
    return made if parallel else made[:1]


def _is_named(name: str, text: str) -> bool:
    """Whether a text names a tool, or all words of its name."""
    words = [word for word in re.split(r"[_\-.]|(?<=[a-z])(?=[A-Z])", name) if len(word) > 3]
    lower = text.lower()
    return name.lower() in lower or (bool(words) and all(word.lower() in lower for word in words))


def _is_known(name: str, messages: Sequence[ChatMessage]) -> bool:
    """Whether the conversation has named or called a tool."""
    return any(
        name in message.text or any(isinstance(part, ToolCallPart) and part.name == name for part in message.parts)
        for message in messages
        if message.role != "system"
    )


def results_at_the_end(messages: Sequence[ChatMessage]) -> tuple[str, ...]:
    """What the tools have returned since the model last spoke, shortened.

    Also in the user's words, as agents write them who speak the language of ReAct.
    """
    found: list[str] = []
    for message in reversed(messages):
        if message.role == "assistant":
            break
        found += [part.text[:_LONGEST_QUOTE] for part in message.parts if isinstance(part, ToolResultPart)]
        if message.role == "user" and message.text.startswith(OBSERVATION):
            found.append(" | ".join(message.text.removeprefix(OBSERVATION).split("\n")).strip(" |")[:_LONGEST_QUOTE])
    return tuple(found)
