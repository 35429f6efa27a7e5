"""What a task carries beside text, checked in the same way whether it came over HTTP or from a producer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from headrace_contracts.content import PLAIN, text_of
from headrace_contracts.events import (
    Content,
    Message,
    MessagePart,
    Options,
    PartKind,
    ResponseFormatKind,
    TaskSubmitted,
)
from headrace_contracts.limits import LONGEST_NAME, MOST_PARTS, is_name, matches

MOST_TOOLS: Final = 128
"""As many as OpenAI takes."""
MOST_CHOICES: Final = 16
MOST_TOP_LOGPROBS: Final = 20
MOST_TOP_K: Final = 100_000
MOST_INPUTS: Final = 2_048
"""Texts of one task to make vectors of: as many as OpenAI takes."""
MOST_VECTOR_BYTES: Final = 3 * 1024 * 1024
"""Vectors of one answer, 4 bytes a number. The answer is one record with the rest of the task's end, and records hold 4
MiB by default."""
MOST_EXTRA: Final = 64
LARGEST_EXTRA: Final = 65_536
"""Bytes of all of them together, as JSON."""
RESERVED_EXTRA: Final = frozenset({
    "model", "models", "messages", "system", "prompt", "input", "stream", "stream_options", "tools", "tool_choice",
    "functions", "function_call", "mcp_servers", "plugins", "container", "web_search_options", "search_settings",
    "n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens", "service_tier", "speed",
    "inference_geo", "truncate",
})  # fmt: skip
"""What no further parameter can be: who is asked and what is said and called has fields of its own, privacy is decided
for these; and what an attempt can cost at most must be known before it is made."""
MOST_QUERIES: Final = 8
"""Searches of one task."""
LONGEST_QUERY: Final = 400
"""Characters of one; search engines take no longer ones."""
LONGEST_WORD: Final = 64
"""Of an effort, a tier, and the like."""
TOOL_NAME_PATTERN: Final = r"^[A-Za-z0-9_.:\-]{1,128}$"
MEDIA_TYPE_PATTERN: Final = r"^[a-z0-9!#$&^_.+\-]{1,64}/[a-zA-Z0-9!#$&^_.+\-]{1,120}$"

_SAID_BY: Final[dict[PartKind, frozenset[str]]] = {
    PartKind.TEXT: frozenset({"system", "developer", "user", "assistant", "tool"}),
    PartKind.IMAGE: frozenset({"user", "tool"}),
    PartKind.AUDIO: frozenset({"user", "tool"}),
    PartKind.FILE: frozenset({"user", "tool"}),
    PartKind.TOOL_CALL: frozenset({"assistant"}),
    PartKind.TOOL_RESULT: frozenset({"user", "tool"}),
    PartKind.REFUSAL: frozenset({"assistant"}),
    PartKind.REASONING: frozenset({"assistant"}),
}
_MEDIA: Final = frozenset({PartKind.IMAGE, PartKind.AUDIO, PartKind.FILE})
_URL: Final = re.compile(r"https?://[^\s\x00-\x1f\x7f]{1,8000}")
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "choices": (1, MOST_CHOICES),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "top_k": (1, MOST_TOP_K),
    "top_logprobs": (0, MOST_TOP_LOGPROBS),
    "reasoning_tokens": (0, 10_000_000),
    "dimensions": (1, 100_000),
}

Objection = tuple[str, str]
"""Path of a field, and what it must be."""


def says_something(message: Message) -> bool:
    """Whether there is anything in a message. What is sealed cannot be looked into and counts."""
    return bool(message.content.data) or any(
        part.url is not None or part.call_id is not None or (part.content is not None and part.content.data)
        for part in message.parts
    )


def content_bytes(message: Message) -> bytes:
    """What is said in a message as bytes, for the route key: its content, or the contents of its parts in order."""
    return message.content.data + b"".join(part.content.data for part in message.parts if part.content is not None)


def fitting_vectors(dimensions: int) -> int:
    """How many vectors of this many numbers an answer can hold."""
    return MOST_VECTOR_BYTES // (4 * dimensions)


def are_vectors(contents: Sequence[Content], number: int) -> bool:
    """Whether these are so many vectors, all alike in length. Of sealed ones only their number can be checked."""
    lengths = {len(one.data) for one in contents if one.cipher == PLAIN}
    return len(contents) == number > 0 and len(lengths) <= 1 and all(size and size % 4 == 0 for size in lengths)


def keyed_content(messages: Iterable[Message], options: Options | None) -> list[tuple[str, bytes]]:
    """What a task says, for its route key: pairs of a role, or `input` for a text to make a vector of, and bytes."""
    said = [(message.role, content_bytes(message)) for message in messages]
    return said if options is None else [*said, *(("input", text.data) for text in options.inputs)]


def messages_and_parts(messages: Sequence[Message]) -> int:
    """How many there are of both together; see `MOST_MESSAGES_AND_PARTS`."""
    return len(messages) + sum(len(message.parts) for message in messages)


def has_urls(messages: Iterable[Message]) -> bool:
    """Whether a conversation refers to content elsewhere, which its model's provider would fetch."""
    return any(part.url is not None for message in messages for part in message.parts)


def said_in(message: Message) -> list[str | bytes]:
    """Everything in a message that makes it differ from another, for digests."""
    said: list[str | bytes] = [message.role, message.content.cipher, message.content.data]
    if message.parts or message.name is not None:
        for one in (message.name, *message.parts):
            said += _flat(one)
    return said


def asked_in(task: TaskSubmitted) -> list[str | bytes]:
    """Everything that a task asks beyond messages and sampling, for digests; nothing for a plain chat."""
    return [str(task.operation), *_flat(task.options)] if task.options is not None else []


def _flat(value: Any) -> list[str | bytes]:
    if isinstance(value, bytes):
        return [value]
    if is_dataclass(value):
        return [piece for one in fields(value) for piece in (one.name, *_flat(getattr(value, one.name)))]
    if isinstance(value, dict):
        return [piece for key in sorted(value) for piece in (key, *_flat(value[key]))]
    if isinstance(value, tuple | list):
        return [str(len(value)), *(piece for one in value for piece in _flat(one))]
    return [repr(value)]


def message_objections(message: Message) -> Iterator[Objection]:
    """What is wrong with the parts of a message."""
    if len(message.parts) > MOST_PARTS:
        yield "parts", f"must be at most {MOST_PARTS}"
        return
    if message.name is not None and not is_name(message.name.cipher):
        yield "name.cipher", "must be a name"
    for place, part in enumerate(message.parts):
        for path, must_be in _part_objections(part, message.role):
            yield f"parts.{place}.{path}", must_be


def _part_objections(part: MessagePart, role: str) -> Iterator[Objection]:
    said_by = _SAID_BY.get(part.kind)
    if said_by is None:
        yield "kind", "is of no kind that this release knows"
        return
    if role not in said_by:
        yield "kind", f"is {part.kind.value}, which a message of role {role} cannot hold"
    for name in ("content", "url", "filename", "signature"):
        content: Content | None = getattr(part, name)
        if content is not None and not is_name(content.cipher):
            yield f"{name}.cipher", "must be a name"
    for name in ("call_id", "provider", "detail"):
        text: str | None = getattr(part, name)
        if text is not None and not is_name(text):
            yield name, f"must have 1 to {LONGEST_NAME} characters, none of them a control character"
    if part.cache_seconds is not None and not 1 <= part.cache_seconds <= 86_400:
        yield "cache_seconds", "must be from 1 to 86400"
    if part.kind in _MEDIA:
        yield from _media_objections(part)
    elif part.kind is PartKind.TOOL_CALL:
        if part.call_id is None:
            yield "call_id", "must name the call"
        if part.name is None or not matches(TOOL_NAME_PATTERN, part.name):
            yield "name", "must be the name of a tool"
        if part.content is not None and not _is_object(part.content):
            yield "content", "must be a JSON object"
    elif part.kind is PartKind.TOOL_RESULT and part.call_id is None:
        yield "call_id", "must name the call that it answers"
    elif part.kind is PartKind.TEXT and part.content is None:
        yield "content", "must be a text"


def _media_objections(part: MessagePart) -> Iterator[Objection]:
    if (part.content is None) == (part.url is None):
        yield "content", "or url must be there, and not both"
    if part.content is not None and (part.media_type is None or not matches(MEDIA_TYPE_PATTERN, part.media_type)):
        yield "media_type", "must be a media type such as image/png"
    if part.url is not None and part.url.cipher == PLAIN and not _URL.fullmatch(text_of(part.url)):
        yield "url", "must be an http or https URL of at most 8000 characters"


def options_objections(options: Options) -> Iterator[Objection]:
    """What is wrong with what a task asks."""
    if len(options.tools) > MOST_TOOLS:
        yield "tools", f"must be at most {MOST_TOOLS}"
        return
    names = [tool.name for tool in options.tools]
    for place, tool in enumerate(options.tools):
        if not matches(TOOL_NAME_PATTERN, tool.name):
            yield f"tools.{place}.name", "must have 1 to 128 letters, digits, dots, colons, hyphens and underscores"
        if names.index(tool.name) != place:
            yield f"tools.{place}.name", "is that of another tool"
        if tool.cache_seconds is not None and not 1 <= tool.cache_seconds <= 86_400:
            yield f"tools.{place}.cache_seconds", "must be from 1 to 86400"
        if tool.parameters is not None and not _is_object(tool.parameters):
            yield f"tools.{place}.parameters", "must be a JSON Schema of an object"
    if options.tool_choice is not None and not set(options.tool_choice.names) <= set(names):
        yield "tool_choice.names", "must be names of the tools"
    form = options.response_format
    if form is not None and (form.kind is ResponseFormatKind.JSON_SCHEMA) != (form.schema is not None):
        yield "response_format.schema", "must be there for json_schema, and only then"
    if form is not None and form.schema is not None and not _is_object(form.schema):
        yield "response_format.schema", "must be a JSON Schema"
    for name, (low, high) in _RANGES.items():
        number = getattr(options, name)
        if number is not None and not (math.isfinite(number) and low <= number <= high):
            yield name, f"must be from {low:g} to {high:g}"
    for name in ("reasoning_effort", "verbosity", "service_tier"):
        word = getattr(options, name)
        if word is not None and not is_name(word, LONGEST_WORD):
            yield name, f"must have 1 to {LONGEST_WORD} characters"
    if len(options.logit_bias) > 1_024 or not all(-100 <= bias <= 100 for bias in options.logit_bias.values()):
        yield "logit_bias", "must be at most 1024 numbers from -100 to 100"
    if len(options.inputs) > MOST_INPUTS:
        yield "inputs", f"must be at most {MOST_INPUTS}"
    if len(options.extra) > MOST_EXTRA or not all(map(is_name, options.extra)):
        yield "extra", f"must be at most {MOST_EXTRA} parameters with names"
    if sum(len(value.data) for value in options.extra.values()) > LARGEST_EXTRA:
        yield "extra", f"must have at most {LARGEST_EXTRA} bytes"
    if len(options.queries) > MOST_QUERIES:
        yield "queries", f"must be at most {MOST_QUERIES}"
    elif not all(is_name(query.cipher) and _is_query(query) for query in options.queries):
        yield "queries", f"must each be a text of 1 to {LONGEST_QUERY} characters, none of them a control character"
    if reserved := sorted(RESERVED_EXTRA & options.extra.keys()):
        yield "extra", f"must not hold {', '.join(reserved)}, which have fields of their own or decide what it costs"


def embed_objections(task: TaskSubmitted) -> Iterator[Objection]:
    """What is wrong with a task that asks for vectors of texts."""
    inputs = () if task.options is None else task.options.inputs
    if task.messages:
        yield "messages", "must be empty: the texts to make vectors of are options.inputs"
    if not inputs or not all(text.data for text in inputs):
        yield "options.inputs", "must be at least one text, none of them empty"
    elif any(not is_name(text.cipher) for text in inputs):
        yield "options.inputs", "hold a cipher that is no name"
    dimensions = None if task.options is None else task.options.dimensions
    if dimensions is not None and dimensions > 0 and len(inputs) > (fit := fitting_vectors(dimensions)):
        yield "options.inputs", f"must be at most {fit}: more vectors of {dimensions} numbers do not fit into an answer"


def _is_query(content: Content) -> bool:
    """Whether it can be searched for. What is sealed cannot be looked into and counts if there is any of it."""
    if content.cipher != PLAIN:
        return bool(content.data)
    return bool(text_of(content).strip()) and is_name(text_of(content), LONGEST_QUERY)


def _is_object(content: Content) -> bool:
    """Whether it is a JSON object. What is sealed cannot be looked into and counts."""
    return content.cipher != PLAIN or is_json_object(content.data or b"{}")


def is_json_object(text: str | bytes) -> bool:
    """Whether a text is one JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
