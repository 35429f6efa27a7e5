"""Promises to the payer: the ledger equals the usage on the topic, each execution once, to the nano-dollar."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

from headrace_chaos.evidence import Evidence, Value, Violation
from headrace_chaos.money import cost_nanodollars

_COUNTS = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens",
    "searches",
)  # fmt: skip
_SUMS = (*_COUNTS, "cost_nanodollars", "internal_value_nanodollars", "possibly_billed_nanodollars")
_LOST, _SUPERSEDED = "lost", "superseded"


def violations(evidence: Evidence) -> Iterator[Violation]:
    """All checks."""
    events = {record.event_id: record.value for record in evidence.of("usage.recorded") if record.value is not None}
    rows = Counter(row["event_id"] for row in evidence.ledger.entries)
    for event_id, number in rows.items():
        if number > 1:
            yield Violation("booked twice", f"{event_id}, {number} times")
        if event_id not in events:
            yield Violation("booked without usage", event_id)
    for event_id in events.keys() - rows.keys():
        yield Violation("usage not booked", event_id)
    for row in evidence.ledger.entries:
        event = events.get(row["event_id"])
        if event is not None:
            superseded = event["outcome"] == _LOST and event["event_id"].removesuffix("/lost") in events
            yield from _row(row, event, evidence.prices, superseded=superseded)
    yield from _balances(evidence)
    yield from _positions(evidence)


def _row(row: Value, event: Value, prices: Value, *, superseded: bool) -> Iterator[Violation]:
    """What was lost costs nothing for sure, and may have been billed, unless it is known after all."""
    lost = event["outcome"] == _LOST
    expected = {
        **{name: event[name] for name in ("tenant", "task_id", "attempt_id", "execution_id", "provider", "model")},
        **{name: event["usage"][name] for name in _COUNTS},
        "outcome": _SUPERSEDED if superseded else event["outcome"],
        "recorded_at": event["recorded_at"],
        "possibly_billed_nanodollars": event["possibly_billed_nanodollars"] if lost and not superseded else 0,
        "cost_nanodollars": 0 if lost else cost_nanodollars(prices, event["provider"], event["model"], event["usage"]),
    }
    for name, value in expected.items():
        if row[name] != value:
            yield Violation("booked other than used", f"{row['event_id']}: {name} is {row[name]}, not {value}")


def _balances(evidence: Evidence) -> Iterator[Violation]:
    sums: defaultdict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
    for row in evidence.ledger.entries:
        day = datetime.fromtimestamp(row["recorded_at"] / 1000, UTC).date()
        total = sums[row["tenant"], day, row["provider"], row["model"], row["simulated"]]
        total["executions"] += row["outcome"] not in (_LOST, _SUPERSEDED)
        total["possibly_billed_executions"] += row["outcome"] == _LOST
        for name in _SUMS:
            total[name] += row[name]
    found: dict[tuple[object, ...], Value] = {
        (row["tenant"], row["day"], row["provider"], row["model"], row["simulated"]): row
        for row in evidence.ledger.balances
    }
    for key in {*sums, *found}:
        expected, balance = sums.get(key, Counter[str]()), found.get(key, {})
        names = ("executions", "possibly_billed_executions", *_SUMS)
        wrong = [name for name in names if balance.get(name, 0) != expected[name]]
        if wrong:
            yield Violation("balance is not the sum of its entries", f"{key}: {', '.join(wrong)}")


def _positions(evidence: Evidence) -> Iterator[Violation]:
    held = {(row["topic"], row["partition"]): row["next_offset"] for row in evidence.ledger.positions}
    for (topic, partition), end in evidence.ends.items():
        if topic == "usage.recorded" and end > 0:
            position = next((at for (name, n), at in held.items() if name.endswith(topic) and n == partition), 0)
            if position != end:
                yield Violation("ledger at another offset", f"{topic}/{partition}: at {position}, the end is {end}")
