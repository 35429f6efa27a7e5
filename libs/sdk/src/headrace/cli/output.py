"""Output of commands: results on stdout (text or JSON), messages on stderr."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from headrace.message_documents import document
from headrace.messages import Message
from headrace.results import NANODOLLARS, Task

_PIPE_WIDTH: Final = 240

_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of text. A terminal obeys them: records
and answers that hold them could rewrite what is on the screen, or the clipboard."""


def escaped(text: str) -> str:
    """The text with the characters that a terminal would obey as Python writes them, such as \\x1b."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode-escape").decode(), text.replace("\r\n", "\n"))


class _SafeConsole(Console):
    """Escapes what comes from outside. Colours are put around the text later, and stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)


# A pipe has no width to wrap at.
OUT = _SafeConsole(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
ERR = _SafeConsole(stderr=True, highlight=False)


def print_text(text: str) -> None:
    """Print a text as it is, for a file or a program; escaped on a terminal."""
    print(escaped(text) if sys.stdout.isatty() else text, flush=True)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""Of every command that can print its result for programs; see `print_json`."""


def print_json(value: Any) -> None:
    """Print a value as one JSON document, indented on a terminal."""
    text = json.dumps(plain_data(value), ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    print_text(text)


def plain_data(value: Any) -> Any:
    """A result as JSON data; tasks and costs also with their price in dollars, messages as the HTTP API has them."""
    if isinstance(value, Message):
        return document(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = {field.name: plain_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if "cost_nanodollars" in made:
            made["cost_usd"] = dollars_text(made["cost_nanodollars"])
        return made
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_data(item) for item in value]
    return value


def dollars_text(nanodollars: int) -> str:
    """Nano-dollars as dollars, exact."""
    return f"{Decimal(nanodollars) / NANODOLLARS:.9f}"


def dollars(nanodollars: int) -> str:
    """Nano-dollars, rounded for display."""
    return f"${Decimal(nanodollars) / NANODOLLARS:.6f}"


def table(*columns: str, right: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` contain numbers, those in `whole` are never wrapped."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in right or column in whole,
        )
    return made


def moment(when: datetime | None) -> str:
    """A time in the user's time zone."""
    return "" if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


_STYLES = {"succeeded": "green", "refused": "yellow", "accepted": "cyan", "failed": "red", "expired": "red"}


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, _STYLES.get(status, "yellow"))


def where_text(task: Task) -> Text:
    """What answered a task: provider, model, node, whether it was simulated, and whether it came from the cache."""
    if task.model is None and task.provider is None:
        return Text("")
    text = Text(f"{task.provider}/{task.model}" if task.provider else str(task.model))
    if task.node and task.node != task.provider:
        text.append(f" on {task.node}")
    if task.served_from in ("cache", "coalesced"):
        text.append(f" ({'cached' if task.served_from == 'cache' else 'shared with an equal task'})", "cyan")
    if task.simulated:
        text.append(" SIMULATED", "bold yellow")
    return text


def sources_of(task: Task) -> list[str]:
    """The sources that an answer names, a line each, with their numbers where it gives them."""
    found: dict[str, str] = {}
    for choice in task.choices:
        for one in choice.citations:
            marker = choice.message.text[one.start : one.end] if one.end else ""
            number = marker.strip("[]")
            mark = f"[{number}]" if number.isdecimal() else "-"
            found.setdefault(one.url, f"{mark} {one.title} {one.url}".replace("  ", " "))
    return list(found.values())


def several_models(task: Task) -> str | None:
    """How several models have answered a task, in a line; None if one has."""
    if (ensemble := task.ensemble) is not None:
        alike = "unknown" if ensemble.coherence is None else f"{ensemble.coherence:.2f}"
        goal = "" if ensemble.goal is None else f" (goal {ensemble.goal:g})"
        how = f" by {ensemble.combined_by}" if ensemble.combined_by else ""
        members = [one for one in ensemble.members if one.part != "judge"]
        return f"ensemble: {ensemble.answered} of {len(members)} answered, chosen{how}; coherence {alike}{goal}"
    if (cascade := task.cascade) is not None and cascade.rung:
        saved = dollars(abs(cascade.saved_nanodollars))
        compared = "saved" if cascade.saved_nanodollars >= 0 else "cost more than the last rung by"
        return f"cascade: rung {cascade.rung} of {cascade.rungs}, {cascade.reason}; {compared} {saved}"
    return None


def task_summary(task: Task) -> Text:
    """The key facts of an ended task besides its answer, in a few lines."""
    lines = Text()
    lines.append_text(status_text(task.status))
    where = where_text(task)
    if where:
        lines.append(" by ").append_text(where)
    lines.append(f", {dollars(task.cost_nanodollars)}")
    if task.submitted_at and task.completed_at:
        took = (task.completed_at - task.submitted_at).total_seconds()
        lines.append(f", {took:.2f} s")
    if task.usage.output_tokens:
        lines.append(f", {task.usage.input_tokens}+{task.usage.output_tokens} tokens")
    if (together := several_models(task)) is not None:
        lines.append(f"\n{together}", "dim")
    if task.failure is not None:
        lines.append(f"\n{task.failure.code}: ", "red").append(task.failure.message)
    for source in sources_of(task):
        lines.append(f"\n{source}", "dim")
    if task.why:
        lines.append(f"\nwhy: {task.why}", "dim")
    lines.append(f"\ntask {task.id}", "dim")
    return lines
