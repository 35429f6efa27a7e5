"""A small correct history, as the checker would collect it, for tests that alter it."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from headrace_chaos.evidence import Claim, Evidence, Ledger, Seen, SkillClaim, Told
from headrace_chaos.money import cost_nanodollars

AT = 1_790_000_000_000
PRICES = {
    "providers": {
        "groq": {"fast": {"input": 590_000_000, "output": 790_000_000}},
        "ollama": {"*": {"input": 0, "output": 0}},
    }
}
USAGE = {
    "input_tokens": 1001,
    "output_tokens": 77,
    "cached_input_tokens": 0,
    "cache_write_5m_tokens": 200,
    "cache_write_1h_tokens": 100,
    "searches": 0,
}


class Topics:
    """Appends records as the services would, one partition to each topic."""

    def __init__(self) -> None:
        self.records: dict[str, list[Seen]] = {}
        self.epoch = -1

    def add(self, topic: str, event_id: str, value: dict[str, Any]) -> Seen:
        """At the end of the topic."""
        found = self.records.setdefault(topic, [])
        seen = Seen(topic, 0, len(found), AT + 10 * len(found), b"key", event_id, value)
        found.append(seen)
        return seen

    def epoch_start(self, owner: str) -> None:
        """A router takes over."""
        entry = self.entry("", None, ())
        self.epoch = self.add("tasks.journal", "barrier/0", {**entry, "kind": "barrier", "owner": owner}).offset

    def entry(self, task_id: str, result: dict[str, Any] | None, commands: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """A decision of the current owner, at its expected offset."""
        offset = len(self.records.get("tasks.journal", []))
        return {
            "kind": "decision",
            "task_id": task_id,
            "owner": "router-1",
            "generation": self.epoch,
            "sequence": offset - self.epoch,
            "state": {"result": result},
            "commands": [{"topic": topic, "event_id": event_id} for topic, event_id in commands],
        }

    def decide(self, task_id: str, result: dict[str, Any] | None, *commands: tuple[str, str]) -> None:
        """Journal it."""
        self.add("tasks.journal", f"journal/{task_id}", self.entry(task_id, result, commands))


def _content(text: str) -> dict[str, Any]:
    return {"cipher": "none", "data": text.encode()}


def request(task_id: str, nonce: str, privacy: str, provider: str) -> dict[str, Any]:
    """An attempt to run."""
    return {
        "attempt_id": f"{task_id}/1",
        "task_id": task_id,
        "tenant": "north",
        "privacy": privacy,
        "provider": provider,
        "messages": [{"role": "user", "content": _content(f"Explain {nonce} briefly")}],
    }


def completed(task_id: str, provider: str, status: str = "succeeded", answer: str = "An answer.") -> dict[str, Any]:
    """A terminal state."""
    cost = cost_nanodollars(PRICES, provider, "fast", USAGE)
    return {
        "task_id": task_id,
        "tenant": "north",
        "status": status,
        "answer": _content(answer),
        "provider": provider,
        "model": "fast",
        "source_task_id": None,
        "usage": USAGE,
        "cost_nanodollars": cost,
        "attempts": 1,
    }


def usage(task_id: str, provider: str) -> dict[str, Any]:
    """The usage of the one execution."""
    return {
        "event_id": f"{task_id}/1/x",
        "tenant": "north",
        "task_id": task_id,
        "attempt_id": f"{task_id}/1",
        "execution_id": "x",
        "provider": provider,
        "model": "fast",
        "simulated": True,
        "outcome": "answered",
        "usage": USAGE,
        "possibly_billed_nanodollars": 0,
        "recorded_at": AT,
    }


def _run(topics: Topics, task_id: str, nonce: str, privacy: str, lane: str, provider: str) -> None:
    submitted = {
        "task_id": task_id,
        "tenant": "north",
        "privacy": privacy,
        "messages": [{"role": "user", "content": _content(f"Explain {nonce} briefly")}],
    }
    result = completed(task_id, provider)
    topics.add("tasks.submitted", task_id, submitted)
    topics.decide(task_id, None, (lane, f"{task_id}/1"))
    topics.add(lane, f"{task_id}/1", request(task_id, nonce, privacy, provider))
    finished = {**usage(task_id, provider), "node": "a-node"}
    outcomes = "attempts.finished.cloud" if lane.startswith("work.cloud") else "attempts.finished"
    topics.add(outcomes, f"{task_id}/1/x", finished)
    topics.add("usage.recorded", f"{task_id}/1/x", usage(task_id, provider))
    topics.decide(task_id, result, ("tasks.completed", f"{task_id}/completed"), ("tasks.replies", f"{task_id}/reply"))
    topics.add("tasks.completed", f"{task_id}/completed", result)
    topics.add(
        "tasks.replies",
        f"{task_id}/reply",
        {"kind": "finished", "task_id": task_id, "tenant": "north", "result": result},
    )


def _ledger(topics: Topics) -> Ledger:
    entries = []
    for record in topics.records["usage.recorded"]:
        assert record.value is not None
        cost = cost_nanodollars(PRICES, record.value["provider"], "fast", USAGE)
        entries.append({**record.value, **USAGE, "cost_nanodollars": cost, "internal_value_nanodollars": 0})
    day: date = datetime.fromtimestamp(AT / 1000, UTC).date()
    balances = [
        {**entry, "day": day, "executions": 1, "possibly_billed_executions": 0}
        for entry in entries  # one from each provider
    ]
    return Ledger(
        entries, balances, [{"topic": "headrace.usage.recorded", "partition": 0, "next_offset": len(entries)}]
    )


def _skills(topics: Topics) -> None:
    for version, digest in enumerate(("d1", "d2"), start=1):
        published = {
            "tenant": "north", "name": "skill", "version": version, "digest": digest, "status": "live",
            "interests": ["chaos"], "previous_interests": [] if version == 1 else ["chaos"],
        }  # fmt: skip
        topics.add("skills.catalog", f"s{version}", published)
        change = {"tenant": "north", "name": "skill", "version": version, "interest": "chaos"}
        topics.add("skills.feed", f"north/skill/{version}/chaos", change)


def honest() -> Evidence:
    """Two tasks, one local and one in the cloud, and a skill in two versions, without any violation."""
    topics = Topics()
    topics.epoch_start("router-1")
    _run(topics, "t-local", "n-local", "sensitive", "work.local.batch", "ollama")
    topics.epoch_start("router-2")
    _run(topics, "t-cloud", "n-cloud", "public", "work.cloud.batch", "groq")
    _skills(topics)
    shown = {
        record.value["task_id"]: {**record.value, "answer": "An answer."}
        for record in topics.records["tasks.completed"]
        if record.value is not None
    }
    return Evidence(
        claims=(
            Claim("n-local", "t-local", "north", "sensitive", "http", Told.ACCEPTED, AT, idempotency_key="k"),
            Claim("n-cloud", "t-cloud", "north", "public", "kafka", Told.ACCEPTED, AT),
        ),
        skills=(SkillClaim("north", "skill", "d1", Told.ACCEPTED, 1, AT),),
        topics=topics.records,
        ends={("usage.recorded", 0): 2},
        ledger=_ledger(topics),
        view=shown,
        calls={"n-local": 1, "n-cloud": 1},
        busy={"a-node of local-worker": 0},
        prices=PRICES,
    )


def without(evidence: Evidence, topic: str, unwanted: Callable[[Seen], bool]) -> Evidence:
    """The same without some records of a topic."""
    return with_topic(evidence, topic, [record for record in evidence.of(topic) if not unwanted(record)])


def appended(evidence: Evidence, topic: str, event_id: str, value: dict[str, Any]) -> Evidence:
    """The same with an additional record at the end of a topic."""
    before = evidence.of(topic)
    more = Seen(topic, 0, len(before), AT + 10 * len(before), b"key", event_id, value)
    return with_topic(evidence, topic, [*before, more])


def changed(evidence: Evidence, topic: str, event_id: str, **fields: Any) -> Evidence:
    """The same with other fields in one record of a topic."""
    return with_topic(
        evidence,
        topic,
        [
            replace(record, value={**(record.value or {}), **fields}) if record.event_id == event_id else record
            for record in evidence.of(topic)
        ],
    )


def with_topic(evidence: Evidence, topic: str, records: list[Seen]) -> Evidence:
    """The same with other records in a topic."""
    return replace(evidence, topics={**evidence.topics, topic: records})
