"""What came of the attacks, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """What came of one kind of attack.

    Attributes:
        attack: What was tried, in words.
        answers: How often each kind of answer came (a status, or a word such as `closed`).
        through: What the attacker got that it must not get, each in words.
        hangs: What no longer answered, in words.
        note: A figure worth telling.
    """

    attack: str
    attempts: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    through: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    note: str = ""

    def count(self, answer: int | str) -> None:
        """One attempt, and how it was answered; 0 is a closed connection."""
        self.attempts += 1
        self.answers["closed" if answer == 0 else str(answer)] += 1

    @property
    def internal_errors(self) -> int:
        """Answers of 500: the service did not foresee what it was sent."""
        return self.answers["500"]

    @property
    def ok(self) -> bool:
        return not (self.through or self.hangs or self.internal_errors)


_HEADINGS = ("attack", "attempts", "through", "hangs", "500", "answers and figures")
_MOST_ANSWERS = 7


def table(outcomes: Sequence[Outcome]) -> str:
    """One line for each attack, and what got through below."""
    rows = [_HEADINGS, *(_row(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS) - 1)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in range(1, len(widths)))]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines[:1]))
    for outcome in outcomes:
        lines += [f"THROUGH  {outcome.attack}: {what}" for what in outcome.through[:10]]
        lines += [f"HANGS    {outcome.attack}: {what}" for what in outcome.hangs[:10]]
    return "\n".join(lines)


def _row(outcome: Outcome) -> tuple[str, ...]:
    told = ", ".join(f"{answer}: {count:,}" for answer, count in outcome.answers.most_common(_MOST_ANSWERS))
    return (
        outcome.attack,
        f"{outcome.attempts:,}",
        str(len(outcome.through)),
        str(len(outcome.hangs)),
        str(outcome.internal_errors),
        "; ".join(part for part in (told, outcome.note) if part),
    )


def closing_line(outcomes: Sequence[Outcome], seed: int, minutes: float) -> str:
    """The verdict in one line."""
    attempts = sum(outcome.attempts for outcome in outcomes)
    through = sum(len(outcome.through) for outcome in outcomes)
    hangs = sum(len(outcome.hangs) for outcome in outcomes)
    errors = sum(outcome.internal_errors for outcome in outcomes)
    verdict = "PASS" if all(outcome.ok for outcome in outcomes) else "FAIL"
    return (
        f"attack seed {seed}, {minutes:.1f} min: {attempts:,} attempts in {len(outcomes)} attacks; "
        f"{through} through, {hangs} hangs, {errors} answers of 500; {verdict}"
    )
