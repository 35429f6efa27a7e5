"""The checker's input: everything on the topics and in the ledger, and the responses to the clients.

No module of Headrace is imported here or by the checks: they implement the contract by themselves, as outsiders would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Value = Mapping[str, Any]


class Told(StrEnum):
    """A client's knowledge about its request."""

    ACCEPTED = "accepted"
    """200, 201, 202, or an acknowledgement of Kafka."""
    UNSURE = "unsure"
    """The connection broke, or the response said that the outcome is uncertain."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Claim:
    """One request of a client, and its response.

    Attributes:
        nonce: Text in the prompt (or the body of the skill) that nothing else contains.
        shared: The nonce may belong to several tasks: equal prompts were sent on purpose.
        task_id: As the client knows it; empty if it was not told.
        via: http or kafka.
        asked_ms: When the request was sent, in milliseconds since the epoch.
        idempotency_key: Of the request, empty without one.
        cancelled: A request to cancel it was sent.
    """

    nonce: str
    task_id: str
    tenant: str
    privacy: str
    via: str
    told: Told
    asked_ms: int
    shared: bool = False
    idempotency_key: str = ""
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class SkillClaim:
    """A skill that a client published, and the version in the response (0 if there was none)."""

    tenant: str
    name: str
    digest: str
    told: Told
    version: int
    asked_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A record in a topic. `topic` is without prefix; `value` is None for a tombstone."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    event_id: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The tables of the ledger, each row as a mapping of its columns."""

    entries: Sequence[Value] = ()
    balances: Sequence[Value] = ()
    positions: Sequence[Value] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence of a run.

    Attributes:
        topics: Records by topic, each partition in the order of its offsets.
        ends: End of each partition, by topic and partition.
        view: Tasks as GET returns them, by id; `None` for 404.
        calls: How many calls with a nonce the providers have seen, as they recorded them.
        sent_to_cloud: Nonces that were sent to anything but our own nodes, as the receiver itself recorded them.
        sent_elsewhere: Requests that arrived where a redirect led.
        all_calls_kept: Whether no record of a call had to be discarded.
        busy: Slots still taken once all has ended, by node and worker, as each living worker has reported them.
        faults: How many calls have met a fault of a provider, by provider and kind.
        prices: The price book, as parsed YAML.
    """

    claims: Sequence[Claim] = ()
    skills: Sequence[SkillClaim] = ()
    topics: Mapping[str, Sequence[Seen]] = field(default_factory=dict)
    ends: Mapping[tuple[str, int], int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    view: Mapping[str, Value | None] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    sent_to_cloud: frozenset[str] = frozenset()
    sent_elsewhere: int = 0
    all_calls_kept: bool = True
    busy: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    prices: Value = field(default_factory=dict)

    def of(self, topic: str) -> Sequence[Seen]:
        """The records of a topic."""
        return self.topics.get(topic, ())


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


def text_of(content: Value | None) -> str:
    """The text of a Content record that is not sealed."""
    return "" if content is None else bytes(content["data"]).decode("utf-8", "replace")


def prompt_of(task: Value) -> str:
    """All text of a task's or an attempt's conversation."""
    return "\n".join(text_of(message["content"]) for message in task["messages"])
