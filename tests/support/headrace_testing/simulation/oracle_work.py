"""Promises about work: done before it counts as done, in its key's order, not repeated then, never left undone."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.events import AttemptRequested
from headrace_contracts.groups import local_worker_of
from headrace_contracts.headers import UNORDERED, header
from headrace_contracts.topics import topic_named
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.research import is_search

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.models import Call
    from headrace_testing.simulation.processes import SimulatedProcess
    from headrace_testing.simulation.record import Place

_GROUPS = {"work.local": PREFIX + "local-worker", "work.cloud": PREFIX + "cloud-worker"}
_EXPECTED_LETTERS = frozenset({"HandlerFault"})
"""Kinds of errors that dead-letter a decodable record: only injected defects."""
_FORGED_LETTERS = frozenset({"ReportDisbelieved"})
"""Those of a report by somebody who was not given the attempt. If its task has moved on, it needs no letter."""


def finished_by(progress: OffsetAndMetadata) -> Sequence[int]:
    """The offsets that the text of a commit names as finished, parsed independently by the judge. Raises ValueError."""
    text = progress.metadata
    if text[:2] == "i1":
        # The topic's identity comes first.
        text = text[10:]
    if not text:
        return ()
    kind, sealed = text[2], base64.b85decode(text[3:])
    if text[:2] != "h1" or kind not in "rRbB":
        raise ValueError(f"unknown kind of map {text[:3]!r}")
    payload = sealed[:-4]
    if zlib.crc32(payload, zlib.crc32(kind.encode())) != int.from_bytes(sealed[-4:], "big"):
        raise ValueError("the checksum is wrong")
    if kind in "RB":
        payload = zlib.decompress(payload)
    numbers: list[int] = []
    value = shift = used = 0
    for index, byte in enumerate(payload):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
            used = used or index + 1
    if numbers[0] != progress.next_offset:
        raise ValueError(f"it belongs to {numbers[0]}")
    if kind in "bB":
        bits = payload[used:]
        return [numbers[0] + n for n in range(8 * len(bits)) if bits[n // 8] >> n % 8 & 1]
    found: list[int] = []
    at = numbers[0]
    for skip, run in zip(numbers[1::2], numbers[2::2], strict=True):
        found += range(at + skip, at + skip + run)
        at += skip + run
    return found


def check_commit(
    judge: Judge, client: str, name: TopicPartition, reached: OffsetAndMetadata, checked: dict[TopicPartition, int]
) -> None:
    """Everything below a commit, and everything its map names, is done."""
    topic = name.topic.removeprefix(PREFIX)
    end = judge.world.cluster.partition(name).end
    try:
        beyond = finished_by(reached)
    except ValueError as error:
        judge.violated(f"{client} commits {name} with an unreadable map: {error}")
        beyond = ()
    if reached.next_offset > end or any(not reached.next_offset < offset < end for offset in beyond):
        judge.violated(f"{client} commits {name} at {reached.next_offset} with {beyond}, and it ends at {end}")
    for offset in [*range(checked.get(name, 0), min(reached.next_offset, end)), *beyond]:
        if not judge.topics.is_done((topic, name.partition, offset)):
            judge.violated(f"{client} commits {name} at {reached.next_offset} past unfinished work at {offset}")
    checked[name] = max(checked.get(name, 0), reached.next_offset)


def check_begin(judge: Judge, process: SimulatedProcess, group: str, record: Record) -> None:
    """Earlier records of its key are done, and it is not done itself, as far as this process can know."""
    topics, cluster = judge.topics, judge.world.cluster
    topic = record.topic.removeprefix(PREFIX)
    if record.key is not None and _in_session(judge, (topic, record.partition, record.offset)):
        for seen in cluster.history.partition(record.topic, record.partition):
            before = seen.record
            if before.offset >= record.offset:
                break
            place = (topic, before.partition, before.offset)
            if (
                before.key == record.key
                and _in_session(judge, place)
                and not topics.is_done(place)
                and not topics.is_stopped(place)
            ):
                judge.violated(
                    f"{process.name} begins {topic}[{record.partition}]@{record.offset} before @{before.offset} of the "
                    f"same key is done"
                )
    if process.suspect or process.name in cluster.expelled_from(group):
        return
    stored = cluster.group(group).committed_offsets.get(record.topic_partition)
    if stored is not None and (record.offset < stored.next_offset or record.offset in finished_by(stored)):
        judge.violated(f"{process.name} does {topic}[{record.partition}]@{record.offset} again, which is committed")


def _in_session(judge: Judge, place: Place) -> bool:
    """Whether its order counts: only a session asks for one. What nobody can read might be of one."""
    found = judge.topics.work.get(place)
    return found is None or _is_ordered(judge, found[1])


def _is_ordered(judge: Judge, request: AttemptRequested) -> bool:
    """Whether an attempt is to keep the order of its session: searches and members of an ensemble run side by side."""
    return request.session is not None and not is_search(request.provider) and not _is_of_ensemble(judge, request)


def _is_of_ensemble(judge: Judge, request: AttemptRequested) -> bool:
    decided = [entry.state for _, entry in judge.topics.decisions[request.task_id] if entry.state is not None]
    panels = [state.panel for state in decided if state.panel is not None and state.panel.kind == "ensemble"]
    return any(
        attempt.number == request.number for panel in panels for one in panel.members for attempt in one.attempts
    )


def check_end(judge: Judge, process: SimulatedProcess, record: Record, calls: Sequence[Call]) -> None:
    """A record whose handler returns is reported, and accounted for if a model was called."""
    place = (record.topic.removeprefix(PREFIX), record.partition, record.offset)
    _, request = judge.topics.work[place]
    topics = judge.topics
    asked = any(not call.refused for call in calls)
    if not topics.is_accounted(request.attempt_id) or (asked and not topics.usage_of_attempt[request.attempt_id]):
        judge.violated(f"{process.name} counts {request.attempt_id} as done before its report and usage are on disk")


def unsettled(judge: Judge) -> Sequence[str]:
    """Work that is not finished or not committed, and undecodable records that nobody has come to yet."""
    cluster = judge.world.cluster
    found = [f"{place[0]}[{place[1]}]@{place[2]} is not kept yet" for place in judge.poison
             if place not in judge.topics.letters]  # fmt: skip
    found += [
        f"{topic}[{number}]@{offset} is not done"
        for topic, number, offset in judge.topics.work
        if not judge.topics.is_done((topic, number, offset))
    ]
    ends = {(topic, partition): offset for topic, partition, offset in judge.topics.work}
    for (topic, partition), last in ends.items():
        name = TopicPartition(PREFIX + topic, partition)
        site = topic_named(topic).site
        group = PREFIX + local_worker_of(site).name if site else _GROUPS[topic[:10]]
        reached = cluster.group(group).committed_offsets.get(name)
        if reached is None or reached.next_offset <= last:
            found.append(f"{name} is committed at {reached.next_offset if reached else None}, its last is {last}")
    return found


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning work."""
    return [*_left_lying(judge), *_order_without_need(judge), *_letters(judge), *_accounts(judge), *_forgeries(judge)]


def _left_lying(judge: Judge) -> Iterator[str]:
    for place, (_, request) in judge.topics.work.items():
        if not judge.topics.is_done(place):
            yield f"attempt {request.attempt_id} at {place[0]}[{place[1]}]@{place[2]} was never finished"


def _order_without_need(judge: Judge) -> Iterator[str]:
    """Workers are told of every attempt without a session, and of no other, that it need not wait for those of its
    key. They do as they are told: `check_begin` looks at sessions, tests of the engine at the rest."""
    for place, (seen, request) in judge.topics.work.items():
        ordered = header(seen.record.headers, UNORDERED) is None
        if ordered is not _is_ordered(judge, request):
            order = "in the order of its key" if ordered else "in any order"
            yield f"attempt {request.attempt_id} at {place[0]}[{place[1]}]@{place[2]} is to run {order}"


def _letters(judge: Judge) -> Iterator[str]:
    topics = judge.topics
    for place in judge.poison:
        if place not in topics.letters:
            yield f"the undecodable record at {place[0]}[{place[1]}]@{place[2]} is not among the dead letters"
    for place, kinds in topics.letters.items():
        expected = _FORGED_LETTERS if place in topics.forged else _EXPECTED_LETTERS
        if place not in judge.poison | judge.lost_poison and not expected.issuperset(kinds):
            yield f"{place[0]}[{place[1]}]@{place[2]} was dead-lettered without need: {kinds}"


def _forgeries(judge: Judge) -> Iterator[str]:
    """Nothing is decided because of a report by somebody who was not given the attempt."""
    for decisions in judge.topics.decisions.values():
        for _, entry in decisions:
            cause = entry.input
            if cause is not None and (cause.topic, cause.partition, cause.offset) in judge.topics.forged:
                yield f"{cause.topic}[{cause.partition}]@{cause.offset} is forged, and decided about {entry.task_id}"


def _accounts(judge: Judge) -> Iterator[str]:
    """Every attempt that was reported has an execution with recorded usage, except for one that was abandoned after a
    worker died between the two.
    """
    topics = judge.topics
    for place, (_, request) in topics.work.items():
        reported = request.attempt_id in topics.finished
        if reported and place not in topics.letters and not topics.is_accounted(request.attempt_id):
            yield f"no usage is recorded of attempt {request.attempt_id}"
