"""Dead letters as text and as documents. Prompts and answers are only shown on request."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from headrace_contracts.events import DeadLetter
from headrace_contracts.topics import Event
from rich.console import RenderableType
from rich.text import Text

from headrace.cli.output import moment, plain_data, table
from headrace.cli.records import event_document, shown_key
from headrace.dead_letters import StoredDeadLetter, grouped
from headrace.times import utc

_LONGEST_WHY: Final = 120
_MOST_BYTES: Final = 1_024
_WIDTH: Final = 13
_KNOWN_HEADERS: Final = ("ce_", "headrace_")
"""Headers whose values are not confidential: they are set by clients of Headrace."""
_KNOWN_NAMES: Final = frozenset({"content-type", "traceparent", "tracestate"})


def letters_report(letters: Sequence[StoredDeadLetter], count: int, prefix: str) -> Iterator[RenderableType]:
    """Counts, then the newest `count` dead letters."""
    with_handled = any(letter.handled is not None for letter in letters)
    now = datetime.now(UTC)
    columns = ["open", *(["all"] if with_handled else [])]
    counts = table(*columns, "topic", "error", "service", "oldest", "newest", right=columns)
    for group in grouped(letters):
        numbers = [str(group.open), *([str(group.letters)] if with_handled else [])]
        counts.add_row(
            *numbers, group.topic.removeprefix(prefix), group.error_type, ", ".join(group.services),
            age(group.oldest, now), age(group.newest, now),
        )  # fmt: skip
    yield counts
    if not count:
        return
    yield ""
    extra = ["state"] if with_handled else []
    headings = ("dead letter", "age", "bytes", "tries", *extra, "why")
    rows = table(*headings, right=["bytes", "tries"], whole=["dead letter", "age"])
    for letter in letters[-count:]:
        state = ["open" if letter.handled is None else letter.handled.handling.value] if with_handled else []
        # The line shows the position already.
        why = letter.error_message.removeprefix(f"{letter.topic}[{letter.partition}]@{letter.offset}: ")
        why = why if len(why) <= _LONGEST_WHY else why[: _LONGEST_WHY - 1] + "…"
        rows.add_row(
            letter.id.removeprefix(prefix), age(letter.last_at, now), f"{letter.size:,}", str(letter.attempts),
            *state, Text(f"{letter.error_type}: {why}" if why else letter.error_type),
        )  # fmt: skip
    yield rows
    if len(letters) > count:
        yield Text(f"and {len(letters) - count} older ones (-n {len(letters)} shows all)", "dim")


def letter_document(letter: StoredDeadLetter) -> dict[str, Any]:
    """A dead letter as JSON data."""
    document: dict[str, Any] = plain_data(letter)
    document["places"] = [f"{part.topic}/{part.partition}/{offset}" for part, offset in letter.places]
    if letter.handled is not None:
        document["handled"] = {
            "handling": letter.handled.handling.value,
            "replays": letter.handled.replays,
            "replayed_as": _replayed_as(letter),
            "reason": letter.handled.reason,
            "handled_by": letter.handled.handled_by,
            "handled_at": plain_data(utc(letter.handled.handled_at)),
        }
    return document


def handled_text(letter: StoredDeadLetter) -> str:
    """What was done about a dead letter, by whom, when and why."""
    note = letter.handled
    if note is None:
        return "open"
    when = moment(utc(note.handled_at)) or "an unknown time"
    text = f"{note.handling.value} at {when} by {note.handled_by or 'unknown'}"
    if _replayed_as(letter) is not None:
        text += f", as {_replayed_as(letter)}" + (f" ({note.replays} times so far)" if note.replays > 1 else "")
    return f"{text}: {note.reason}" if note.reason else text


def _replayed_as(letter: StoredDeadLetter) -> str | None:
    if letter.handled is None or letter.handled.replayed_offset is None:
        return None
    return f"{letter.topic}/{letter.partition}/{letter.handled.replayed_offset}"


def whole_document(
    letter: StoredDeadLetter, whole: DeadLetter, event: Event | None, flaw: str | None, *, content: bool
) -> dict[str, Any]:
    """All of a dead letter; content and foreign headers only if requested."""
    document = letter_document(letter)
    document["timestamp"] = None if whole.timestamp is None else plain_data(utc(whole.timestamp))
    document["key"] = None if whole.key is None else shown_key(whole.key)
    document["headers"] = {
        each.name: None if each.value is None else _header(each.name, each.value, content=content)
        for each in whole.headers
    }
    document["omitted_bytes"] = {
        "value": whole.omitted_bytes, "key": whole.omitted_key_bytes, "headers": whole.omitted_header_bytes,
    }  # fmt: skip
    document["event"] = None if event is None else event_document(event, content=content)
    document["unreadable_because"] = flaw
    if content:
        document["value_base64"] = None if whole.value is None else base64.b64encode(whole.value).decode()
    return document


def whole_report(
    letter: StoredDeadLetter, whole: DeadLetter, event: Event | None, flaw: str | None, *, content: bool
) -> Text:
    """All of a dead letter, as text."""
    text = Text()

    def line(name: str, value: str, style: str = "") -> None:
        text.append(name.ljust(_WIDTH), "dim")
        text.append(value + "\n", style)

    line("dead letter", letter.id, "bold")
    line("state", handled_text(letter), "yellow" if letter.handled is None else "green")
    line("error", f"{letter.error_type}: {letter.error_message}" if letter.error_message else letter.error_type, "red")
    tries = f"after {letter.attempts} tries" if letter.attempts > 1 else "at the first try"
    line("failed", f"in {', '.join(letter.services)} {tries}, {moment(letter.last_at)}")
    if whole.timestamp is not None:
        line("written", moment(utc(whole.timestamp)))
    line("stored at", ", ".join(f"{part.topic}/{part.partition}/{offset}" for part, offset in letter.places))
    if letter.replay_of is not None:
        line("replay of", letter.replay_of)
    line("key", shown_key(whole.key) if whole.omitted_key_bytes is None else _omitted(letter, whole.omitted_key_bytes))
    if whole.omitted_header_bytes is not None:
        line("headers", _omitted(letter, whole.omitted_header_bytes))
    for number, each in enumerate(whole.headers):
        value = "null" if each.value is None else _header(each.name, each.value, content=content)
        line("headers" if not number else "", f"{each.name}={value}")
    line("value", _size(letter, whole))
    if event is not None:
        shown = json.dumps(event_document(event, content=content), ensure_ascii=False, indent=2)
        line("event", type(event).__name__)
        text.append(shown + "\n")
    elif flaw is not None:
        line("event", f"still cannot be decoded: {flaw}", "red")
        if content and whole.value:
            text.append(_dump(whole.value) + "\n")
    if not content:
        text.append("content is hidden: --content shows it\n", "dim")
    text.right_crop(1)
    return text


def age(when: datetime, now: datetime) -> str:
    """How long ago, in the largest unit of which there are two or more."""
    seconds = max(0, int((now - when).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _size(letter: StoredDeadLetter, whole: DeadLetter) -> str:
    if whole.omitted_bytes is not None:
        return _omitted(letter, whole.omitted_bytes)
    return "null" if whole.value is None else f"{len(whole.value):,} bytes"


def _omitted(letter: StoredDeadLetter, size: int) -> str:
    return f"{size:,} bytes, too large for a dead letter: a replay reads them from {letter.id}"


def _header(name: str, value: bytes, *, content: bool) -> str:
    if content or name.startswith(_KNOWN_HEADERS) or name in _KNOWN_NAMES:
        return value.decode("utf-8", "replace")
    return f"({len(value)} bytes)"


def _dump(value: bytes) -> str:
    """The beginning of the bytes, in hex and as text."""
    lines = [
        f"{at:06x}  {chunk.hex(' '):<47}  {''.join(chr(byte) if 32 <= byte < 127 else '.' for byte in chunk)}"
        for at in range(0, min(len(value), _MOST_BYTES), 16)
        if (chunk := value[at : min(at + 16, _MOST_BYTES)])
    ]
    rest = len(value) - _MOST_BYTES
    return "\n".join(lines) + (f"\n… and {rest:,} bytes more (--json --content prints all of them)" if rest > 0 else "")
