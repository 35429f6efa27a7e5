"""Consumer groups of the twin: the classic protocol (eager, range assignor), with time passed in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from headrace_streams.errors import PartitionsLost, RecordRefused
from headrace_streams.records import GroupMember, GroupPhase, GroupState, OffsetAndMetadata, TopicPartition

METADATA_LIMIT = 4095


class MemberUnknown(Exception):
    """The group does not (or no longer) have this member: drop the assignment and join again."""


class MemberFenced(Exception):
    """Another client took over the static member's instance id."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The response to a heartbeat.

    Attributes:
        epoch: Number of the group's current assignment.
        assignment: The member's partitions in it.
        rejoin: Whether the member must revoke its partitions and rejoin.
    """

    epoch: int
    assignment: frozenset[TopicPartition]
    rejoin: bool


@dataclass(slots=True)
class _Member:
    member_id: str
    instance_id: str | None
    topics: frozenset[str]
    wake: Callable[[], None]
    session_ends: float
    rejoined: bool = True
    assignment: frozenset[TopicPartition] = frozenset()


def range_assignment(
    topics_of: Mapping[str, Collection[str]], partitions: Mapping[str, int]
) -> dict[str, frozenset[TopicPartition]]:
    """Kafka's range assignor: per topic, consecutive partitions to the members in order of their ids."""
    assigned: dict[str, set[TopicPartition]] = {member: set() for member in topics_of}
    for topic in sorted({topic for topics in topics_of.values() for topic in topics}):
        members = sorted(member for member, topics in topics_of.items() if topic in topics)
        share, rest = divmod(partitions.get(topic, 0), len(members))
        first = 0
        for index, member in enumerate(members):
            count = share + (1 if index < rest else 0)
            assigned[member].update(TopicPartition(topic, number) for number in range(first, first + count))
            first += count
    return {member: frozenset(own) for member, own in assigned.items()}


class GroupCoordinator:
    """Coordinator of one consumer group. Times are seconds of one monotonic clock, passed in."""

    def __init__(
        self,
        name: str,
        partitions_of: Callable[[Iterable[str]], Mapping[str, int]],
        session_timeout: float,
        rebalance_timeout: float,
    ) -> None:
        self.name = name
        self.epoch = 0
        self.committed_offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self._partitions_of = partitions_of
        self._session_timeout = session_timeout
        self._rebalance_timeout = rebalance_timeout
        self._members: dict[str, _Member] = {}
        self._fenced: set[str] = set()
        self._rebalance_ends: float | None = None
        self._joins = 0

    @property
    def members(self) -> Mapping[str, frozenset[TopicPartition]]:
        """Each member's partitions in the current epoch."""
        return {member.member_id: member.assignment for member in self._members.values()}

    def state(self) -> GroupState:
        """As others see the group."""
        members = tuple(
            GroupMember(each.member_id, each.instance_id, "memory", "memory", each.assignment)
            for each in self._members.values()
        )
        if not members:
            return GroupState(GroupPhase.EMPTY if self.committed_offsets or self.epoch else GroupPhase.MISSING)
        return GroupState(GroupPhase.REBALANCING if self.rebalancing else GroupPhase.STABLE, members)

    @property
    def rebalancing(self) -> bool:
        return self._rebalance_ends is not None

    def join(self, now: float, topics: Collection[str], instance_id: str | None, wake: Callable[[], None]) -> str:
        """Add a member; returns its id. `wake` is called whenever its standing has changed."""
        self._joins += 1
        member = _Member(
            member_id=f"{instance_id or 'member'}-{self._joins:06}",
            instance_id=instance_id,
            topics=frozenset(topics),
            wake=wake,
            session_ends=now + self._session_timeout,
        )
        before = next(
            (m for m in self._members.values() if instance_id is not None and m.instance_id == instance_id), None
        )
        if before is not None:
            del self._members[before.member_id]
            self._fenced.add(before.member_id)
            before.wake()
        self._members[member.member_id] = member
        if before is not None and not self.rebalancing and before.topics == member.topics:
            member.assignment = before.assignment
            wake()
        else:
            self._begin_rebalance(now)
            self._complete_if_all_rejoined()
        return member.member_id

    def rejoin(self, now: float, member_id: str) -> None:
        """The member has revoked its partitions and waits for the next epoch."""
        member = self._known(member_id)
        member.session_ends = now + self._session_timeout
        if not member.rejoined:
            member.rejoined = True
            # It may not have received them yet, and must not while the group waits for the others.
            member.assignment = frozenset()
        self._complete_if_all_rejoined()

    def heartbeat(self, now: float, member_id: str) -> Standing:
        """Keep the member alive. Raises MemberUnknown, MemberFenced."""
        member = self._known(member_id)
        member.session_ends = now + self._session_timeout
        return Standing(self.epoch, member.assignment, self.rebalancing and not member.rejoined)

    def leave(self, now: float, member_id: str) -> None:
        """Remove the member; a static one stays, with its partitions, until its session times out."""
        member = self._members.get(member_id)
        if member is None or member.instance_id is not None:
            return
        self.expel(now, member_id)

    def expel(self, now: float, member_id: str) -> None:
        """Remove a member without its knowledge, as when its session times out."""
        if self._members.pop(member_id, None) is None:
            return
        if self._members:
            self._begin_rebalance(now)
            self._complete_if_all_rejoined()
        else:
            self._rebalance_ends = None

    def commit(self, member_id: str, epoch: int, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Store committed offsets. Raises PartitionsLost for a member of an earlier epoch, RecordRefused for metadata
        that is too long."""
        if member_id not in self._members or epoch != self.epoch:
            raise PartitionsLost(f"group {self.name}: {member_id} of epoch {epoch} may not commit in {self.epoch}")
        for partition, moved in offsets.items():
            if len(moved.metadata) > METADATA_LIMIT:
                raise RecordRefused(
                    f"group {self.name}: commit metadata of {partition} has {len(moved.metadata)} characters, "
                    f"more than {METADATA_LIMIT}"
                )
        self.committed_offsets.update(offsets)

    def reads(self, topic: str) -> bool:
        """Whether a member subscribes to this topic."""
        return any(topic in member.topics for member in self._members.values())

    def forget_topic(self, topic: str) -> None:
        """Remove the committed offsets of a deleted topic."""
        for name in [name for name in self.committed_offsets if name.topic == topic]:
            del self.committed_offsets[name]

    def refresh_metadata(self, now: float) -> None:
        """Members see the current partitions of their topics: if these are not the assigned ones, all join again."""
        assigned = {name for member in self._members.values() for name in member.assignment}
        topics = {topic for member in self._members.values() for topic in member.topics}
        counts = self._partitions_of(topics)
        present = {TopicPartition(topic, number) for topic in counts for number in range(counts[topic])}
        if self._members and assigned != present:
            self._begin_rebalance(now)
            self._complete_if_all_rejoined()

    def next_deadline(self) -> float | None:
        """When to call `expire`, if nothing happens before; None if never."""
        ends = [member.session_ends for member in self._members.values()]
        if self._rebalance_ends is not None:
            ends.append(self._rebalance_ends)
        return min(ends, default=None)

    def expire(self, now: float) -> None:
        """Expel members whose session has timed out, or that delayed a rebalance for too long."""
        late = [member.member_id for member in self._members.values() if member.session_ends <= now]
        if self._rebalance_ends is not None and self._rebalance_ends <= now:
            late += [m.member_id for m in self._members.values() if not m.rejoined and m.member_id not in late]
        for member_id in late:
            self.expel(now, member_id)

    def _known(self, member_id: str) -> _Member:
        if member_id in self._fenced:
            raise MemberFenced(f"group {self.name}: another client has the instance id of {member_id}")
        try:
            return self._members[member_id]
        except KeyError:
            raise MemberUnknown(f"group {self.name}: {member_id} is not a member") from None

    def _begin_rebalance(self, now: float) -> None:
        if self._rebalance_ends is not None:
            return
        self._rebalance_ends = now + self._rebalance_timeout
        for member in self._members.values():
            # A member without partitions in an epoch has nothing to revoke.
            member.rejoined = not member.assignment
            member.wake()

    def _complete_if_all_rejoined(self) -> None:
        if self._rebalance_ends is None or not all(member.rejoined for member in self._members.values()):
            return
        self._rebalance_ends = None
        self.epoch += 1
        topics_of = {member.member_id: member.topics for member in self._members.values()}
        counts = self._partitions_of({topic for topics in topics_of.values() for topic in topics})
        for member_id, assignment in range_assignment(topics_of, counts).items():
            member = self._members[member_id]
            member.assignment = assignment
            member.wake()
