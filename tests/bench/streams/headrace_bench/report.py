"""A comparison as a table for people, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace_bench.ratios import Spread
from headrace_bench.rounds import Outcome


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached, and what was: a figure that should be at least (or at most) the wanted one."""

    what: str
    wanted: float
    reached: Spread | None
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the median is as wanted."""
        if self.reached is None:
            return False
        return self.reached.median <= self.wanted if self.at_most else self.reached.median >= self.wanted

    def line(self) -> str:
        """For people."""
        if self.reached is None:
            return f"{self.what}: not measured"
        sign = "≤" if self.at_most else "≥"
        verdict = "met" if self.met else "not met"
        return f"{self.what}: {times(self.reached)}, target {sign} {self.wanted:g}: {verdict}"


@dataclass(frozen=True, slots=True)
class Section:
    """One comparison: a table, and the targets it answers."""

    title: str
    what: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    targets: Sequence[Target]
    outcomes: Mapping[str, Outcome] = field(repr=False)

    def text(self) -> str:
        """With columns below each other."""
        table = [list(self.head), *map(list, self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(self.head))]
        lines = [f"{self.title}: {self.what}"]
        for row in table:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        lines += [f"  {target.line()}" for target in self.targets]
        return "\n".join(lines)

    def markdown(self) -> str:
        """To be pasted into a document."""
        lines = [f"{self.title}: {self.what}.", ""]
        lines += [_line(self.head), _line(["---"] * len(self.head)), *map(_line, self.rows), ""]
        lines += [f"- {target.line()}" for target in self.targets]
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "what": self.what,
            "targets": [
                {"what": one.what, "wanted": one.wanted, "at_most": one.at_most, "met": one.met}
                | {"reached": None if one.reached is None else asdict(one.reached)}
                for one in self.targets
            ],
            "contestants": {
                name: {
                    "settings": one.contestant.settings,
                    "request": dict(one.contestant.request),
                    "failure": one.failure,
                    "rounds": [_plain(answer) for answer in one.answers],
                }
                for name, one in self.outcomes.items()
            },
        }


def rate(figure: Spread) -> str:
    """A rate: the median."""
    return f"{figure.median:,.0f}"


def times(figure: Spread) -> str:
    """A ratio: median (smallest to largest)."""
    return f"{figure.median:.2f} ({figure.low:.2f}–{figure.high:.2f})"


def left_out(outcome: Outcome, columns: int) -> list[str]:
    """The row of a contestant that could not be measured."""
    reason = (outcome.failure or "").strip().splitlines()
    what = f"{outcome.contestant.name}: left out, {reason[-1] if reason else 'no round'}"
    return [what[:140], *["–"] * (columns - 1)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Without the single times of each event."""
    return {name: value for name, value in answer.items() if not isinstance(value, list)}
