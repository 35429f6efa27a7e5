"""A comparison for people: tables in the terminal, and a page of its own with charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Final

from headrace.cli.output import dollars, table
from rich.console import RenderableType

from headrace_devstack.replay.comparing import Comparison, Group, Move, destinations

_MOST_LINES: Final = 40
_BAR: Final = 420
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{padding:.3rem .6rem;border-bottom:1px solid #d8dee4;text-align:left}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}.note{color:#57606a}.warn{color:#9a3412;font-weight:600}
text{font:12px system-ui,sans-serif;fill:currentColor}.before{fill:#8c959f}.after{fill:#0969da}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}th,td{border-color:#30363d}.note{color:#9198a1}
.warn{color:#ffa657}.before{fill:#6e7681}.after{fill:#4493f8}}
"""


def summary(comparison: Comparison) -> Sequence[str]:
    """The result in sentences."""
    return [*_sentences(comparison)]


def _sentences(comparison: Comparison) -> Iterator[str]:
    total = comparison.total
    share = f" ({comparison.moved / comparison.tasks:.1%})" if comparison.tasks else ""
    yield f"{_count(comparison.tasks, 'task')} decided anew; {comparison.moved:,}{share} would go elsewhere."
    if comparison.shared:
        yield f"Left out: {_count(comparison.shared, 'task')} with the answer of an equal one."
    yield f"Answers as long as the recorded ones would cost {_change(total)}{_unpriced(total.unpriced)}."
    if comparison.leave:
        yield f"PRIVACY: text of {_listed(comparison.leave)} tasks would go to a cloud provider, and does not now."
    if comparison.stay:
        yield f"Text of {_listed(comparison.stay)} tasks would stay on own nodes, and does not now."
    if comparison.stopped:
        yield f"REFUSED: sent to no model any more: {_listed(comparison.stopped)}."
    if comparison.freed:
        yield f"Sent to a model at once that are not now: {_listed(comparison.freed)}."
    if comparison.compared:
        same = comparison.reproduced / comparison.compared
        yield (
            f"Of {comparison.compared:,} recorded first decisions, the policy in force makes {same:.1%} again: the "
            "rest hung on load, another policy at that time, or what nodes offered."
        )


def lines(comparison: Comparison) -> RenderableType:
    """The table of what moves."""
    rows = table(
        "now", "with the new policy", "tasks", "cost now", "then", "median now", "then",
        right=["tasks", "cost now", "then", "median now", "then"],
    )  # fmt: skip
    for move in comparison.moves[:_MOST_LINES]:
        rows.add_row(*_cells(move))
    return rows


def _cells(move: Move) -> tuple[str, ...]:
    same = move.before == move.after
    group = move.group
    priced = group.unpriced < group.tasks
    return (
        move.before, "(the same)" if same else move.after, f"{group.tasks:,}",
        dollars(group.before_nanodollars) if priced else "?", dollars(group.after_nanodollars) if priced else "?",
        _time(move.before_ms), _time(move.after_ms),
    )  # fmt: skip


def page(comparison: Comparison, title: str) -> str:
    """The report as HTML that needs nothing else."""
    said = "".join(
        f"<p{' class=warn' if text.startswith(('PRIVACY', 'REFUSED')) else ''}>{escape(text)}</p>"
        for text in summary(comparison)
    )
    heads = ("now", "with the new policy", "tasks", "cost now", "cost then", "median now", "median then")
    head = "".join(f"<th{'' if number < 2 else ' class=n'}>{name}</th>" for number, name in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(
            f"<td{'' if number < 2 else ' class=n'}>{escape(cell)}</td>" for number, cell in enumerate(_cells(move))
        ) + "</tr>"
        for move in comparison.moves
    )  # fmt: skip
    total = comparison.total
    spent = [("cost", total.before_nanodollars, total.after_nanodollars)]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{said}"
        f"<h2>Tasks by where they go</h2>{_bars(destinations(comparison.moves), '{:,}'.format)}"
        f"<h2>Cost</h2>{_bars(spent, dollars)}"
        f"<h2>What moves</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        "<p class=note>Costs are those of answers as long as the recorded ones. Times are medians of the recorded "
        "answers of each model; a model that has answered nothing in this span has none.</p></html>\n"
    )


def _bars(values: Sequence[tuple[str, int, int]], text: Callable[[int], str]) -> str:
    shown = values[:_MOST_LINES]
    most = max((max(before, after) for _, before, after in shown), default=0) or 1
    parts = [
        f"<svg viewBox='0 0 900 {len(shown) * 44 + 26}' role=img aria-label='now and with the new policy'>",
        "<rect class=before x=230 y=4 width=12 height=12 /><text x=248 y=14>now</text>",
        "<rect class=after x=300 y=4 width=12 height=12 /><text x=318 y=14>with the new policy</text>",
    ]
    for number, (name, before, after) in enumerate(shown):
        top = 26 + number * 44
        label = name if len(name) <= 34 else name[:33] + "…"
        parts.append(f"<text x=220 y={top + 20} text-anchor=end>{escape(label)}<title>{escape(name)}</title></text>")
        for kind, value, y in (("before", before, top), ("after", after, top + 17)):
            width = round(_BAR * value / most, 1)
            parts.append(f"<rect class={kind} x=230 y={y} width={width} height=15 />")
            parts.append(f"<text x={230 + width + 6} y={y + 12}>{escape(text(value))}</text>")
    return "".join(parts) + "</svg>"


def _change(total: Group) -> str:
    before, after = total.before_nanodollars, total.after_nanodollars
    change = f" ({(after - before) / before:+.1%})" if before else ""
    return f"{dollars(after)} instead of {dollars(before)}{change}"


def _unpriced(tasks: int) -> str:
    return f", without {_count(tasks, 'task')} whose tokens or price are not known" if tasks else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _time(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1000:.2f} s"
