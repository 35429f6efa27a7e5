"""Whether the consumer groups read all that they must, from where they must.

Facts are gathered twice where something seems wrong: a group that is rebalancing, or a topic that was created between
two questions, is no trouble a moment later.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from headrace_contracts.groups import CLOUD_BATCHES, CLOUD_WORKER, GROUPS, LOCAL_WORKER, PLACEMENTS, GroupSpec
from headrace_streams.errors import TransientError
from headrace_streams.log_identity import (
    Broken,
    Continue,
    DataLost,
    Discontinuity,
    LogState,
    StoredPosition,
    fingerprint,
    judge,
)
from headrace_streams.offsets import log_of
from headrace_streams.ports import Admin
from headrace_streams.records import (
    GroupPhase,
    GroupState,
    OffsetAndMetadata,
    TopicDescription,
    TopicPartition,
    partitions_of,
)

from headrace.cli.checkups.findings import Finding, counted, listed, numbers, warning, wrong

PART: Final = "consumer groups"
LAG_WORTH_SAYING: Final = 10_000
"""In records; that of the alert HeadraceConsumerLag."""
_SESSION_SECONDS: Final = 20
"""The longest session that a service has by default."""
_AGAIN_SECONDS: Final = 2.0
_TRIES: Final = 3
_KIND: Final[Mapping[Discontinuity, str]] = {
    Discontinuity.RECREATED: "its topic was deleted and created again, or restored",
    Discontinuity.TRUNCATED: "the log has lost records at its end",
    Discontinuity.DATA_LOST: "records were deleted before they were read",
}
_GOES_BY: Final[Mapping[str, str]] = {
    "journal": "the router's journal",
    "postgres": "its database",
    "catalog": "the catalog of skills",
}


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the cluster says of one group.

    Attributes:
        committed: Of the topics that it reads.
        described: The topics that it reads, by name with the prefix; missing ones are left out.
        bounds: First and next offset of their partitions, as far as they have a leader.
    """

    spec: GroupSpec
    state: GroupState
    committed: Mapping[TopicPartition, OffsetAndMetadata]
    described: Mapping[str, TopicDescription]
    bounds: Mapping[TopicPartition, tuple[int, int]]

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """All that it has to read."""
        return frozenset(partitions_of(self.described))

    @property
    def lag(self) -> int:
        """Records between the committed positions and the ends; what was never committed counts from its first."""
        return sum(
            max(0, end - (self.committed[name].next_offset if name in self.committed else first))
            for name, (first, end) in self.bounds.items()
        )


async def gather_groups(
    admin: Admin, prefix: str, leaderless: Collection[TopicPartition], specs: Iterable[GroupSpec] = GROUPS.values()
) -> list[GroupFacts]:
    """Ask about all groups. Raises what the admin raises.

    Args:
        leaderless: Partitions whose bounds nobody can tell.
    """
    specs = list(specs)
    names = {spec.name: prefix + spec.name for spec in specs}
    states = await admin.group_states(list(names.values()))
    # Before the ends are asked: meanwhile both move on.
    committed = dict(zip(names, await asyncio.gather(*(admin.committed(name) for name in names.values())), strict=True))
    described = await admin.describe_topics({prefix + topic.name for spec in specs for topic in spec.topics})
    every = [name for name in partitions_of(described) if name not in leaderless]
    bounds = await admin.bounds(every) if every else {}
    facts = []
    for spec in specs:
        topics = {prefix + topic.name for topic in spec.topics}
        facts.append(
            GroupFacts(
                spec,
                states[names[spec.name]],
                {name: found for name, found in committed[spec.name].items() if name.topic in topics},
                {topic: found for topic, found in described.items() if topic in topics},
                {name: found for name, found in bounds.items() if name.topic in topics},
            )
        )
    return facts


async def check_groups(
    admin: Admin,
    prefix: str,
    leaderless: Collection[TopicPartition],
    *,
    again_seconds: float = _AGAIN_SECONDS,
    specs: Iterable[GroupSpec] = GROUPS.values(),
) -> list[Finding]:
    """The findings of the groups, after a second look at what seems wrong. Raises what the admin raises."""
    specs = list(specs)
    findings: list[Finding] = []
    for left in reversed(range(_TRIES)):
        try:
            findings = judge_groups(await gather_groups(admin, prefix, leaderless, specs), prefix)
        except TransientError:
            # A coordinator that has just moved, or starts with the first question.
            if not left:
                raise
        else:
            if not left or all(finding.well for finding in findings):
                break
        await asyncio.sleep(again_seconds)
    return findings


def judge_groups(groups: Iterable[GroupFacts], prefix: str) -> list[Finding]:
    """What is wrong with the groups; and one finding with the lag of those that are well."""
    groups = list(groups)
    found = {facts.spec.name: judge_group(facts, prefix) for facts in groups}
    well = [facts for facts in groups if not found[facts.spec.name]]
    findings = [finding for each in found.values() for finding in each]
    if well:
        lags = ", ".join(f"{facts.spec.name} {facts.lag:,}" for facts in well)
        findings.append(Finding(PART, True, f"{len(well)} read all their partitions; lag: {lags}"))
    return findings


def judge_group(facts: GroupFacts, prefix: str) -> list[Finding]:
    """What is wrong with one group; nothing if it is well."""
    part = f"group {facts.spec.name}"
    if not facts.described:
        return []  # its topics are missing, which is a finding of its own
    found = _membership(part, facts, prefix)
    found += _positions(part, facts, prefix)
    if facts.state.members and facts.lag > LAG_WORTH_SAYING:
        partitions = len(facts.partitions)
        remedy = (
            f"see what it waits for (readyz and log of {facts.spec.service}), or start more instances: "
            f"up to {partitions} share the work"
        )
        found.append(warning(part, f"{facts.lag:,} records behind", remedy))
    return found


def _membership(part: str, facts: GroupFacts, prefix: str) -> list[Finding]:
    service = facts.spec.service
    topics = listed(sorted(topic.removeprefix(prefix) for topic in facts.described))
    if facts.state.phase is GroupPhase.REBALANCING:
        detail = "its members are joining: nothing is read meanwhile"
        return [warning(part, detail, f"wait a minute; if it lasts, one of them hangs: restart {service}")]
    if not facts.state.members:
        never = " and never had any" if facts.state.phase is GroupPhase.MISSING else ""
        waits = f", {counted(facts.lag, 'record')} {'waits' if facts.lag == 1 else 'wait'}" if facts.lag else ""
        detail = f"has no members{never}: nobody reads {topics}{waits}"
        remedy = f"start {service} (`headrace up`), or see in its log why it has left"
        if facts.state.phase is GroupPhase.MISSING and _may_be_absent(facts.spec) and not facts.lag:
            return [warning(part, detail, f"{remedy}; if this installation does without it, nothing is to be done")]
        return [wrong(part, detail, remedy)]
    assigned: set[TopicPartition] = set().union(*(member.assigned for member in facts.state.members))
    free = sorted(facts.partitions - assigned)
    if not free:
        return []
    detail = f"nobody reads {_places(free, prefix)}"
    remedy = f"restart {service}, if it does not notice them within a minute"
    static = sorted(member.instance_id for member in facts.state.members if member.instance_id)
    if static:
        detail += f": the static members {listed(static)} keep an assignment from before these partitions were added"
        # One that comes back sooner gets its former assignment again.
        remedy += f"; stop it for longer than its session ({_SESSION_SECONDS} s), and then start it"
    return [wrong(part, detail, remedy)]


def _may_be_absent(spec: GroupSpec) -> bool:
    """Whether an installation can do without the workers of this group."""
    of_a_site = spec.name.startswith((f"{LOCAL_WORKER.name}.", f"{PLACEMENTS.name}."))
    return of_a_site or spec in (LOCAL_WORKER, CLOUD_WORKER, CLOUD_BATCHES)


def _positions(part: str, facts: GroupFacts, prefix: str) -> list[Finding]:
    broken: dict[Discontinuity, list[tuple[TopicPartition, StoredPosition, Broken]]] = defaultdict(list)
    for name, position in sorted(facts.committed.items()):
        if name not in facts.bounds:
            continue
        first, end = facts.bounds[name]
        log = LogState(fingerprint(facts.described[name.topic].topic_id), first, end)
        stored = StoredPosition(position.next_offset, log_of(position))
        verdict = judge(stored, log, repeats_are_harmless=facts.spec.positions != "kafka")
        if not isinstance(verdict, Continue):
            broken[verdict.kind].append((name, stored, verdict))
    return [_of_positions(part, facts, prefix, kind, found) for kind, found in broken.items()]


def _of_positions(
    part: str,
    facts: GroupFacts,
    prefix: str,
    kind: Discontinuity,
    found: list[tuple[TopicPartition, StoredPosition, Broken]],
) -> Finding:
    places = listed(
        f"{str(name).removeprefix(prefix)} stands at {stored.next_offset:,} of {facts.bounds[name][0]:,} to "
        f"{facts.bounds[name][1]:,}"
        for name, stored, _ in found
    )
    lost = sum(verdict.lost for _, _, verdict in found if isinstance(verdict, DataLost))
    detail = f"its position is not in the log: {places}; {_KIND[kind]}"
    if lost:
        detail += f": up to {counted(lost, 'record')}"
    goes_by = _GOES_BY.get(facts.spec.positions)
    if goes_by is not None:
        detail += f". It goes on by {goes_by}, not by this position"
    service, start = facts.spec.service, _start(facts, kind)
    if not facts.state.members:
        remedy = f"start {service}: it compares its positions with the logs, and goes on where {start}"
    else:
        remedy = (
            f"wait half a minute: its members notice, and go on where {start}; their log says what was lost. "
            f"If it lasts, restart {service}"
        )
    if kind is Discontinuity.DATA_LOST and goes_by is not None:
        # After its last commit it may have read on, and then have been idle for the topic's retention.
        return warning(part, detail, remedy)
    return wrong(part, detail, remedy)


def _start(facts: GroupFacts, kind: Discontinuity) -> str:
    """Where its members go on; see `log_identity`."""
    if kind is Discontinuity.TRUNCATED and facts.spec.positions == "kafka":
        return "the log ends"
    if kind is Discontinuity.TRUNCATED and facts.spec.positions == "journal":
        return "it was a minute before its last decision"
    return "the log begins"


def _places(names: Iterable[TopicPartition], prefix: str) -> str:
    by_topic: dict[str, list[int]] = defaultdict(list)
    for name in names:
        by_topic[name.topic.removeprefix(prefix)].append(name.partition)
    return listed(
        f"{'partition' if len(found) == 1 else 'partitions'} {numbers(found)} of {topic}"
        for topic, found in by_topic.items()
    )
