"""The topics: the single definition of each one's name, record, key, readers and writers.

Topic creation, documentation and all manifests are derived from these specifications.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, Protocol, Self

from headrace_contracts import events
from headrace_contracts.sites import NO_SITE, SiteInvalid, site_name

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class Event(Protocol):
    """The interface of every generated event class."""

    FULL_NAME: ClassVar[str]

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        """As Avro data; `named` gives records in unions as pairs of name and data, which encodes faster."""
        ...

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Self: ...


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic.

    Attributes:
        name: Name without the installation's prefix.
        record: Event class of its values.
        key: Content of the record key, in words.
        cleanup: Kafka's cleanup.policy.
        retention_ms: Retention in milliseconds; None if only compaction removes records.
        partitions: Number of partitions in a new installation.
        writers, readers: Producers and consumers: services, "node-agent", "operator" (through the command line) or
            "anyone".
        doc: Its purpose.
        copartitioned: Whether it must have as many partitions as the other task topics.
        dead_letters: Whether it has a dead-letter topic `<name>.dlq`.
        min_compaction_lag_ms: Minimum age of compacted records, in milliseconds; None for Kafka's default.
        signed: Whether its records carry a code under the installation's secret; see `record_mac`; that of
            node agents is in `node_keys`.
        scope: Scope of the API keys whose holders may write to it, as their tenant only. Their records carry a
            signature (`producer_signature`), those of our services a code as above. None: only services write to it.
        site: Site whose workers alone read it; empty for topics that belong to no site.
    """

    name: str
    record: type[Any]
    key: str
    cleanup: Literal["delete", "compact", "compact,delete"]
    retention_ms: int | None
    partitions: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    doc: str
    copartitioned: bool = False
    dead_letters: bool = False
    min_compaction_lag_ms: int | None = None
    signed: bool = False
    scope: str | None = None
    site: str = NO_SITE

    @property
    def subject(self) -> str:
        """Registry subject of the values, without the prefix (TopicNameStrategy)."""
        return f"{self.name}-value"


TASKS_SUBMITTED = TopicSpec(
    "tasks.submitted", events.TaskSubmitted, "route key", "delete", 7 * _DAY_MS, 6,
    ("intake", "anyone"), ("router", "intake"), "Submitted tasks.", copartitioned=True, dead_letters=True,
    scope="tasks",
)  # fmt: skip
TASKS_CANCELLED = TopicSpec(
    "tasks.cancelled", events.TaskCancelled, "route key", "delete", 7 * _DAY_MS, 6,
    ("intake", "anyone"), ("router",), "Requests to cancel a task.", copartitioned=True, dead_letters=True,
    scope="tasks",
)  # fmt: skip
TASKS_JOURNAL = TopicSpec(
    "tasks.journal", events.JournalEntry, "task id", "compact,delete", 7 * _DAY_MS, 6,
    # An operator writes skips of records that cannot be read (`headrace journal skip`).
    ("router", "operator"), ("router", "anyone"),
    "Every decision with its reasons: the router's state and the audit trail.",
    copartitioned=True,
    # Gives an owner time to notice and repair what a zombie's record would otherwise replace.
    min_compaction_lag_ms=1 * _HOUR_MS,
)  # fmt: skip
WORK_LOCAL_INTERACTIVE = TopicSpec(
    "work.local.interactive", events.AttemptRequested, "route key", "delete", 1 * _DAY_MS, 6,
    ("router",), ("local-worker",), "Interactive attempts for our own nodes.", dead_letters=True,
)  # fmt: skip
WORK_LOCAL_BATCH = TopicSpec(
    "work.local.batch", events.AttemptRequested, "route key", "delete", 7 * _DAY_MS, 6,
    ("router",), ("local-worker",), "Batch attempts for our own nodes.", dead_letters=True,
)  # fmt: skip
WORK_CLOUD_INTERACTIVE = TopicSpec(
    "work.cloud.interactive", events.AttemptRequested, "route key", "delete", 1 * _DAY_MS, 6,
    ("router",), ("cloud-worker",), "Interactive attempts for cloud providers.", dead_letters=True,
)  # fmt: skip
WORK_CLOUD_BATCH = TopicSpec(
    "work.cloud.batch", events.AttemptRequested, "route key", "delete", 7 * _DAY_MS, 6,
    ("router",), ("cloud-worker",), "Batch attempts for cloud providers.", dead_letters=True,
)  # fmt: skip
# Only the router can tell whose a request to cancel is. One topic for each kind of worker: the cloud worker learns
# nothing of tasks that stayed local.
ATTEMPTS_CANCELLED_LOCAL = TopicSpec(
    "attempts.cancelled.local", events.AttemptsCancelled, "route key", "delete", 7 * _DAY_MS, 6,
    ("router",), ("local-worker",), "Cancelled tasks with attempts on our own nodes.",
)  # fmt: skip
ATTEMPTS_CANCELLED_CLOUD = TopicSpec(
    "attempts.cancelled.cloud", events.AttemptsCancelled, "route key", "delete", 7 * _DAY_MS, 6,
    ("router",), ("cloud-worker",), "Cancelled tasks with attempts at cloud providers.",
)  # fmt: skip
ATTEMPTS_FINISHED = TopicSpec(
    "attempts.finished", events.AttemptFinished, "route key", "delete", 7 * _DAY_MS, 6,
    ("local-worker",), ("router",), "Outcomes of attempts on our own nodes.", copartitioned=True, dead_letters=True,
)  # fmt: skip
ATTEMPTS_FINISHED_CLOUD = TopicSpec(
    # Apart, so that its writer can say nothing about attempts on our own nodes.
    "attempts.finished.cloud", events.AttemptFinished, "route key", "delete", 7 * _DAY_MS, 6,
    # The worker that takes over a partition looks up what has ended there.
    ("cloud-worker",), ("router", "cloud-worker"), "Outcomes of attempts at cloud providers.", copartitioned=True,
    dead_letters=True,
)  # fmt: skip
ATTEMPTS_STARTED = TopicSpec(
    # As long as the work that they are about.
    "attempts.started", events.AttemptStarted, "route key", "delete", 7 * _DAY_MS, 6,
    ("cloud-worker",), ("cloud-worker", "anyone"), "Executions that are about to call a provider that bills.",
    copartitioned=True,
)  # fmt: skip
HISTORY_CHANGED = TopicSpec(
    "history.changed", events.HistoryChanged, "tenant/conversation, or tenant/task id", "delete", 30 * _DAY_MS, 6,
    # The router deletes stored answers that must be forgotten.
    ("intake",), ("intake", "router"),
    "Changes of the task history beside tasks: conversations, and what must be forgotten.",
    dead_letters=True,
)  # fmt: skip
TASKS_REPLIES = TopicSpec(
    "tasks.replies", events.TaskReply, "task id; the partition is the waiting intake's", "delete", 1 * _HOUR_MS, 6,
    ("router", "local-worker", "cloud-worker"), ("intake",), "Text for waiting callers, then the terminal state.",
)  # fmt: skip
TASKS_COMPLETED = TopicSpec(
    "tasks.completed", events.TaskCompleted, "route key", "delete", 30 * _DAY_MS, 6,
    ("router",), ("intake", "router", "anyone"), "The terminal state of every task, exactly once.", copartitioned=True,
    dead_letters=True,
)  # fmt: skip
SESSIONS_SENSITIVE = TopicSpec(
    # A session's mark lasts this long after its last task, wherever its records go; see docs/privacy.md.
    "sessions.sensitive", events.SensitiveSession, "mark of the session, in hexadecimal", "compact,delete",
    30 * _DAY_MS, 1,
    ("router",), ("router",), "Sessions that have held sensitive content, for the routers of all partitions.",
)  # fmt: skip
USAGE_RECORDED = TopicSpec(
    "usage.recorded", events.UsageRecorded, "tenant", "delete", 30 * _DAY_MS, 6,
    ("local-worker", "cloud-worker"), ("cost-accountant", "local-worker", "cloud-worker", "anyone"),
    "Tokens of every execution.", dead_letters=True,
)  # fmt: skip
PROVIDER_BATCHES = TopicSpec(
    "provider.batches", events.ProviderBatch, "batch id", "compact", None, 6,
    ("cloud-worker",), ("cloud-worker",), "Open batches at providers' batch APIs, and how far each is.",
    dead_letters=True,
)  # fmt: skip
SPEND_WINDOWS = TopicSpec(
    "spend.windows", events.SpendWindows, "tenant", "compact", None, 6,
    ("cost-accountant",), ("cost-accountant", "anyone"), "Live spend of each tenant.",
)  # fmt: skip
SKILLS_SUBMITTED = TopicSpec(
    "skills.submitted", events.SkillSubmitted, "tenant/skill", "delete", 7 * _DAY_MS, 6,
    ("skill-broadcaster", "anyone"), ("skill-broadcaster",), "Skills to publish or revoke.", dead_letters=True,
    scope="skills",
)  # fmt: skip
SKILLS_CATALOG = TopicSpec(
    "skills.catalog", events.SkillPublished, "tenant/skill", "compact", None, 6,
    ("skill-broadcaster",), ("skill-broadcaster", "anyone"), "The newest version of every skill.",
)  # fmt: skip
SKILLS_FEED = TopicSpec(
    "skills.feed", events.SkillChanged, "tenant/interest", "delete", 7 * _DAY_MS, 6,
    ("skill-broadcaster",), ("skill-broadcaster", "anyone"), "Changes of skills, by domain.",
)  # fmt: skip
FLEET_STATUS = TopicSpec(
    # A day, so that the reports of workers long gone do not stay forever: each worker has keys of its own.
    "fleet.status", events.NodeStatus, "node/worker", "compact,delete", _DAY_MS, 1,
    ("local-worker", "cloud-worker"), ("router", "intake", "anyone"), "Nodes and providers: models, slots, health.",
)  # fmt: skip
NODES_ANNOUNCED = TopicSpec(
    # An hour: agents repeat themselves every few seconds, and those that are gone say nothing any more.
    "nodes.announced", events.NodeAnnounced, "node", "compact,delete", 1 * _HOUR_MS, 1,
    # An agent reads it to learn of another one with its node's name.
    ("node-agent",), ("local-worker", "node-agent", "operator"),
    "Nodes as their agents announce them: address, hardware, models, load.",
    signed=True,
)  # fmt: skip
NODES_DRAINED = TopicSpec(
    "nodes.drained", events.NodeDrained, "node", "compact", None, 1,
    ("operator",), ("local-worker", "operator"), "Nodes that get no new calls, by an operator's decision.",
)  # fmt: skip
PLACEMENTS_REQUESTED = TopicSpec(
    "placements.requested", events.PlacementRequested, "node", "delete", _DAY_MS, 6,
    ("operator",), ("local-worker", "operator"), "Models to put on nodes, or to take away.", dead_letters=True,
)  # fmt: skip
PREFERENCES = TopicSpec(
    "preferences", events.Preferences, "tenant/user", "compact", None, 1,
    ("intake",), ("router", "intake"), "Preferences of tenants and users.",
    signed=True,
)  # fmt: skip
POLICIES = TopicSpec(
    "policies", events.PolicyPublished, "scope/revision/version", "compact", None, 1,
    ("operator",), ("router", "operator"), "Revisions of the routing policy, and what tenants narrow of it.",
)  # fmt: skip
SWITCHES = TopicSpec(
    "switches", events.SwitchedOff, "kind/name", "compact", None, 1,
    ("operator",), ("router", "local-worker", "cloud-worker", "operator"),
    "Kill switches: providers, models, features and tenants that are switched off.",
)  # fmt: skip
ACCESS_KEYS = TopicSpec(
    "access.keys", events.AccessKey, "key id", "compact", None, 1,
    ("intake",), ("intake", "router", "skill-broadcaster", "cost-accountant"), "API keys, without their secrets.",
    signed=True,
)  # fmt: skip
REQUESTS_COUNTED = TopicSpec(
    # Only the last minute is of use.
    "requests.counted", events.RequestsCounted, "service/process", "delete", 1 * _HOUR_MS, 1,
    ("intake", "skill-broadcaster", "cost-accountant"), ("intake", "skill-broadcaster", "cost-accountant"),
    "What processes with an API let through, so that the rates of keys and tenants hold over all of them.",
    signed=True,
)  # fmt: skip
AUDIT_RECORDED = TopicSpec(
    "audit.recorded", events.AuditRecorded, "tenant", "delete", 365 * _DAY_MS, 6,
    ("router", "intake"), ("anyone",), "Which class of data went to which provider, and why that was allowed.",
)  # fmt: skip
DEAD_LETTERS_HANDLED = TopicSpec(
    "dead-letters.handled", events.DeadLetterHandled, "dead letter id", "compact,delete", 60 * _DAY_MS, 1,
    # Longer than dead letters are retained, so that none seems open again.
    ("operator",), ("operator",), "Handling of dead letters by operators.",
)  # fmt: skip

_SPECS = (
    TASKS_SUBMITTED, TASKS_CANCELLED, TASKS_JOURNAL,
    WORK_LOCAL_INTERACTIVE, WORK_LOCAL_BATCH, WORK_CLOUD_INTERACTIVE, WORK_CLOUD_BATCH,
    ATTEMPTS_CANCELLED_LOCAL, ATTEMPTS_CANCELLED_CLOUD, ATTEMPTS_FINISHED, ATTEMPTS_FINISHED_CLOUD,
    ATTEMPTS_STARTED, TASKS_REPLIES, TASKS_COMPLETED, HISTORY_CHANGED,
    SESSIONS_SENSITIVE, USAGE_RECORDED, PROVIDER_BATCHES, SPEND_WINDOWS,
    SKILLS_SUBMITTED, SKILLS_CATALOG, SKILLS_FEED,
    FLEET_STATUS, NODES_ANNOUNCED, NODES_DRAINED, PLACEMENTS_REQUESTED, PREFERENCES, POLICIES, SWITCHES,
    ACCESS_KEYS, REQUESTS_COUNTED,
    AUDIT_RECORDED, DEAD_LETTERS_HANDLED,
)  # fmt: skip


def dead_letters_of(spec: TopicSpec) -> TopicSpec:
    """The dead-letter topic of `spec`. All sites share that of the topic without a site."""
    if spec.site:
        return dead_letters_of(without_site(spec))
    return TopicSpec(
        name=f"{spec.name}.dlq",
        record=events.DeadLetter,
        key=spec.key,
        cleanup="delete",
        retention_ms=30 * _DAY_MS,
        partitions=1,
        writers=tuple(reader for reader in spec.readers if reader != "anyone"),
        # A dead letter contains the whole record, so its readers are restricted to those of the record's own topic.
        readers=spec.readers,
        doc=f"Records of {spec.name} that could not be read or handled, with the reason.",
    )


TOPICS: Mapping[str, TopicSpec] = {
    spec.name: spec for base in _SPECS for spec in ((base, dead_letters_of(base)) if base.dead_letters else (base,))
}


WORK_LOCAL: Final = "work.local."
"""How the names of all topics of local attempts begin, those of sites included; no other name does."""


@lru_cache(maxsize=1_024)
def work_topic(place: events.Place, lane: events.Lane, site: str = NO_SITE) -> TopicSpec:
    """The topic for attempts on local nodes, of a site if one is given, or in the cloud, in a lane.

    Raises SiteInvalid.
    """
    base = TOPICS[f"work.{place.value}.{lane.value}"]
    if not site:
        return base
    if place is not events.Place.LOCAL:
        raise SiteInvalid(f"only local nodes have a site, and {site!r} was given for the cloud")
    name = f"{WORK_LOCAL}{site_name(site)}.{lane.value}"
    return replace(base, name=name, doc=f"{base.doc[:-1]}, those of the site {site}.", site=site)


def without_site(spec: TopicSpec) -> TopicSpec:
    """The topic that a site's topic is like."""
    return TOPICS[f"{WORK_LOCAL}{spec.name.rpartition('.')[2]}"] if spec.site else spec


def topic_named(name: str) -> TopicSpec:
    """The topic of that name, of any site. Raises KeyError if Headrace has none."""
    found = TOPICS.get(name)
    if found is not None:
        return found
    site, _, lane = name.removeprefix(WORK_LOCAL).partition(".")
    if name.startswith(WORK_LOCAL) and lane in {one.value for one in events.Lane}:
        try:
            return work_topic(events.Place.LOCAL, events.Lane(lane), site)
        except SiteInvalid as error:
            raise KeyError(str(error)) from error
    raise KeyError(name)


def site_topics(sites: Iterable[str]) -> tuple[TopicSpec, ...]:
    """The topics of these sites. Raises SiteInvalid."""
    return tuple(work_topic(events.Place.LOCAL, lane, site) for site in sites for lane in events.Lane)


def topics_with(sites: Iterable[str]) -> dict[str, TopicSpec]:
    """All topics, with those of these sites. Raises SiteInvalid."""
    return {**TOPICS, **{spec.name: spec for spec in site_topics(sites)}}


def sites_in(names: Iterable[str]) -> tuple[str, ...]:
    """The sites whose topics are among these names, in order; names of other topics count for nothing."""
    found = set()
    for name in names:
        if name.startswith(WORK_LOCAL) and name not in TOPICS:
            with suppress(KeyError):
                found.add(topic_named(name).site)
    return tuple(sorted(found))


def cancelled_topic(place: events.Place) -> TopicSpec:
    """The topic for cancelled tasks with attempts on local nodes or in the cloud."""
    return TOPICS[f"attempts.cancelled.{place.value}"]


def outcome_topic(place: events.Place) -> TopicSpec:
    """The topic for the outcomes of attempts on local nodes or in the cloud."""
    return ATTEMPTS_FINISHED_CLOUD if place is events.Place.CLOUD else ATTEMPTS_FINISHED


def with_partitions(specs: Mapping[str, TopicSpec], partitions: Mapping[str, int]) -> dict[str, TopicSpec]:
    """The specifications with other partition counts; the key "tasks" stands for all copartitioned topics.

    A site's topics have as many partitions as the topic without a site, if nothing else is said of them.

    Raises ValueError for an unknown topic, and for a copartitioned topic given alone.
    """
    unknown = partitions.keys() - specs.keys() - {"tasks"}
    if unknown:
        raise ValueError(f"no such topic: {', '.join(sorted(unknown))}; the topics are {', '.join(specs)}")
    alone = sorted(name for name in partitions if name in specs and specs[name].copartitioned)
    if alone:
        raise ValueError(f"{', '.join(alone)} must have as many partitions as the other task topics: set tasks=N")

    def count(spec: TopicSpec) -> int:
        names = ("tasks",) if spec.copartitioned else (spec.name, without_site(spec).name)
        return next((partitions[name] for name in names if name in partitions), spec.partitions)

    return {name: replace(spec, partitions=count(spec)) for name, spec in specs.items()}
