"""How long until work continues after a fault: from the records on the topics, and this machine's clock."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from headrace_chaos.checks_tasks import OUTCOMES
from headrace_chaos.evidence import Evidence, Told

LOOKED_AT_MS = 45_000
PARTS_LOOKED_AT_MS = 150_000
"""Kafka and the like need their own time to start, on a busy machine much of it."""


@dataclass(frozen=True, slots=True)
class Death:
    """A fault that was applied. `who` is a service's instance (`router`, `router-2`) or a part such as `kafka`."""

    at_ms: int
    who: str
    blow: str
    apart: bool
    """A dependency of the service was down at the same time."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of a service's work: where, when it became possible, when it was done."""

    partition: int
    begun_ms: int
    done_ms: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """Milliseconds from a death to the first new work of that service, and to the first such work in the last affected
    partition; None if there was none in time.
    """

    death: Death
    first_ms: int | None
    everywhere_ms: int | None


def recovery_of(
    death: Death, units: Iterable[Unit], partitions: frozenset[int] | None = None, within_ms: int = LOOKED_AT_MS
) -> Recovery:
    """Only work that began after the death counts, in `partitions` if given."""
    first: dict[int, int] = {}
    for unit in units:
        if partitions is not None and unit.partition not in partitions:
            continue
        if death.at_ms <= unit.begun_ms and unit.done_ms <= death.at_ms + within_ms:
            took = unit.done_ms - death.at_ms
            first[unit.partition] = min(took, first.get(unit.partition, took))
    return Recovery(death, min(first.values(), default=None), max(first.values(), default=None))


def units_of(evidence: Evidence, booked: Sequence[tuple[int, int]]) -> dict[str, list[Unit]]:
    """The work of each service. `booked` are pairs of (seen at, newest usage in the ledger), both in milliseconds."""
    return {
        "router": _joined(evidence, ("tasks.submitted",), "task_id", ("tasks.completed",), "task_id"),
        "local-worker": _worked(evidence, ("work.local.interactive", "work.local.batch")),
        "cloud-worker": _worked(evidence, ("work.cloud.interactive", "work.cloud.batch")),
        "intake": _accepted(evidence),
        "skill-broadcaster": [
            Unit(0, claim.asked_ms, record.at_ms)
            for claim in evidence.skills
            for record in evidence.of("skills.catalog")
            if record.value is not None
            and (record.value["tenant"], record.value["name"], record.value["digest"])
            == (claim.tenant, claim.name, claim.digest)
        ],
        "cost-accountant": [Unit(0, newest_ms, seen_ms) for seen_ms, newest_ms in booked],
    }


def owned_by(evidence: Evidence, death: Death) -> frozenset[int]:
    """The journal partitions that a router had when it was hit."""
    owners: dict[int, str] = {}
    for record in evidence.of("tasks.journal"):
        if record.value is not None and record.value["kind"] == "barrier" and record.at_ms <= death.at_ms:
            owners[record.partition] = record.value["owner"]
    instance = death.who if death.who[-1].isdigit() else f"{death.who}-1"
    return frozenset(partition for partition, owner in owners.items() if owner == instance)


def recoveries(evidence: Evidence, deaths: Iterable[Death], booked: Sequence[tuple[int, int]]) -> list[Recovery]:
    """One for each death. A fault of all services is measured by new completions of tasks."""
    units = units_of(evidence, booked)
    found = []
    for death in deaths:
        service = death.who.removesuffix("-2")
        partitions = owned_by(evidence, death) if service == "router" else None
        within_ms = LOOKED_AT_MS if service in units else PARTS_LOOKED_AT_MS
        found.append(recovery_of(death, units.get(service, units["router"]), partitions, within_ms))
    return found


def p50_and_max(milliseconds: Sequence[int]) -> tuple[float, float]:
    """In seconds; zeros if there are none."""
    return (median(milliseconds) / 1000, max(milliseconds) / 1000) if milliseconds else (0.0, 0.0)


def _joined(evidence: Evidence, begins: Iterable[str], begin_id: str, ends: Iterable[str], end_id: str) -> list[Unit]:
    # Repeats add nothing: the first of each counts.
    done = _first_times(evidence, ends, end_id)
    begun = _first_times(evidence, begins, begin_id)
    return [Unit(partition, at, done[one][1]) for one, (partition, at) in begun.items() if one in done]


def _first_times(evidence: Evidence, topics: Iterable[str], name: str) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for topic in topics:
        for record in evidence.of(topic):
            if record.value is not None:
                found.setdefault(record.value[name], (record.partition, record.at_ms))
    return found


def _worked(evidence: Evidence, topics: Sequence[str]) -> list[Unit]:
    return _joined(evidence, topics, "attempt_id", OUTCOMES, "attempt_id")


def _accepted(evidence: Evidence) -> list[Unit]:
    submitted: Mapping[str, int] = {
        record.value["task_id"]: record.at_ms for record in evidence.of("tasks.submitted") if record.value is not None
    }
    return [
        Unit(0, claim.asked_ms, submitted[claim.task_id])
        for claim in evidence.claims
        if claim.via == "http" and claim.told is Told.ACCEPTED and claim.task_id in submitted
    ]


def by_blow(found: Iterable[Recovery]) -> dict[str, list[Recovery]]:
    """Grouped by kind of fault."""
    groups: defaultdict[str, list[Recovery]] = defaultdict(list)
    for recovery in found:
        groups[recovery.death.blow].append(recovery)
    return dict(groups)
