"""Promises about tasks: one terminal state, decided in the journal before it is visible, with the right content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.content import text_of
from headrace_contracts.events import (
    AttemptRequested,
    CommandKind,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskStatus,
    TaskSubmitted,
)
from headrace_router.decide.retry import all_attempts
from headrace_streams.records import OffsetAndMetadata, TopicPartition

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.clients import INTERNAL, SECRET
from headrace_testing.simulation.cluster import Seen
from headrace_testing.simulation.models import answer_to
from headrace_testing.simulation.settings import CONSENTED

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

SUBMITTED = "tasks.submitted"
CANCELLED = "tasks.cancelled"
COMPLETED = "tasks.completed"
_SETTLE_SECONDS = 20.0
_SOON_SECONDS = 3.0
_SMALLER = "unrecordable"
_REPLACED = "replaced"
"""Cause of a decision in place of one whose terminal state is too large for its topic."""


def check_commanded(judge: Judge, seen: Seen, topic: str, event: AttemptRequested | TaskCompleted) -> None:
    """Everything written follows from a decision that counts and is in the journal already."""
    commanded = judge.topics.commands.get((topic, seen.event_id), ())
    if not commanded:
        judge.violated(f"{topic} got {seen.event_id}, which no journal entry that counts commands (by {seen.client})")
        return
    state = commanded[-1].entry.state
    assert state is not None
    if isinstance(event, TaskCompleted):
        if not any(each.entry.state is not None and each.entry.state.result == event for each in commanded):
            judge.violated(f"{topic}: {seen.event_id} is not what the journal says")
        return
    (attempt,) = [attempt for attempt in all_attempts(state) if attempt.number == event.number]
    told = (event.provider, event.model, event.privacy, event.home_partition)
    if told != (attempt.provider, attempt.model, state.privacy, state.home_partition):
        judge.violated(f"{topic}: {seen.event_id} is not what the journal says")


def check_once(judge: Judge, task_id: str) -> None:
    """Other teams see the end of each task once: a single record, not two with the same content."""
    records = judge.topics.completed[task_id]
    if len(records) > 1:
        by = ", ".join(f"{seen.client} at {seen.at:.3f}" for seen, _ in records)
        judge.violated(f"task {task_id} has {len(records)} terminal states in {COMPLETED} ({by})")


def check_router_commit(judge: Judge, client: str, name: TopicPartition, reached: OffsetAndMetadata) -> None:
    """For every task below a commit there is a decision, or it was dead-lettered."""
    trouble = judge.world.trouble
    if name.topic != PREFIX + SUBMITTED or (trouble.changes_logs and judge.world.loop.time() < trouble.quiet_at):
        # Until it has noticed, a router commits positions of the former log. They decide nothing: the journal's do.
        return
    topics = judge.topics
    for task_id, seens in topics.submitted.items():
        for seen, _ in seens:
            record = seen.record
            if not topics.is_retired(seen) and record.partition == name.partition and (
                record.offset < reached.next_offset and
                task_id not in topics.decisions and topics.place(seen) not in topics.letters
            ):  # fmt: skip
                judge.violated(f"{client} commits {name} at {reached.next_offset} past the undecided task {task_id}")


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning tasks."""
    return [
        *_none_lost(judge),
        *_chains(judge),
        *_followers(judge),
        *_stay_ended(judge),
        *_carried_out(judge),
        *_contents(judge),
        *_cancellations(judge),
        *_privacy(judge),
    ]


def _none_lost(judge: Judge) -> Iterator[str]:
    topics = judge.topics
    for task_id in topics.submitted:
        if task_id not in topics.completed and not topics.may_be_lost(task_id):
            yield f"task {task_id} has no terminal state"
    for task_id in topics.completed:
        if task_id not in topics.submitted:
            yield f"{COMPLETED} has task {task_id}, which was never submitted"


def _chains(judge: Judge) -> Iterator[str]:
    """The decisions about one task, one after another."""
    for task_id, decisions in judge.topics.decisions.items():
        numbers: list[int] = []
        result: TaskCompleted | None = None
        for _, entry in decisions:
            state = entry.state
            if state is None:
                continue
            if entry.cause == _REPLACED:
                # It only repeats, in place of a record that does not count, that the task has ended.
                if state.phase is not TaskPhase.FINISHED or result is None or entry.commands:
                    yield f"task {task_id} is said to have ended by a record that only takes another's place"
                continue
            smaller = entry.cause == _SMALLER and _is_too_small(judge, COMPLETED)
            if result is not None and not smaller and (state.result != result or entry.commands):
                yield f"task {task_id} continues after its end ({entry.cause})"
            if state.phase is TaskPhase.FINISHED:
                result = state.result
            new = [c.attempt for c in entry.commands if c.kind is CommandKind.DISPATCH]
            numbers += new
            if new and any(attempt.outcome is None for attempt in state.attempts[:-1]):
                yield f"attempt {new[0]} of task {task_id} begins while another runs"
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"the attempts of task {task_id} are numbered {numbers}"


def _followers(judge: Judge) -> Iterator[str]:
    """A task that follows an equal one ends with it, or continues on its own, soon after that one's end."""
    topics = judge.topics
    ends = {
        task_id: (seen, entry)
        for task_id, decisions in topics.decisions.items()
        for seen, entry in decisions
        if entry.state is not None and entry.state.phase is TaskPhase.FINISHED and entry.commands
    }
    successors = _successors(judge)
    for task_id, decisions in topics.decisions.items():
        leader: str | None = None
        for seen, entry in decisions:
            if entry.state is None:
                continue
            if leader in ends:
                # When a leader's end cannot be shared, one follower runs in its place, and the others follow that one:
                # without a record of their own, since it is the digest that they follow.
                later = [
                    name for index, name in successors[entry.state.digest] if ends[leader][0].index < index < seen.index
                ]
                leader = later[-1] if later else leader
            if leader in ends and entry.cause == "wake_up":
                ended, end = ends[leader]
                known = ended.at
                if end.epoch != entry.epoch:
                    # A router that took over since learns it only then, and lets its predecessor settle first.
                    epoch_start = judge.world.cluster.history.partition(seen.record.topic, seen.record.partition)
                    known = max(known, epoch_start[entry.epoch].at + _SETTLE_SECONDS)
                if seen.at > known + _SOON_SECONDS and ended.index < seen.index:
                    yield f"task {task_id} was not told of the end of {leader}, which it follows"
            leader = entry.state.leader_task_id if entry.state.phase is TaskPhase.FOLLOWING else None


def _successors(judge: Judge) -> Mapping[str | None, Sequence[tuple[int, str]]]:
    """By digest: tasks that went on by themselves after following, or began to when none led (before a follower got its
    turn, as after a clock that jumped), with the index of that decision, in order."""
    found: defaultdict[str | None, list[tuple[int, str]]] = defaultdict(list)
    for task_id, decisions in judge.topics.decisions.items():
        follows = True
        for seen, entry in decisions:
            if entry.state is None:
                continue
            if follows and entry.state.phase not in (TaskPhase.FOLLOWING, TaskPhase.FINISHED):
                found[entry.state.digest].append((seen.index, task_id))
            follows = entry.state.phase is TaskPhase.FOLLOWING
    return defaultdict(list, {digest: sorted(each) for digest, each in found.items()})


def unsettled(judge: Judge) -> Iterator[str]:
    """Commands not published yet. A task may have ended before the next owner of its partition publishes the rest."""
    topics = judge.topics
    for (topic, event_id), commanded in topics.commands.items():
        command, entry = commanded[-1].command, commanded[-1].entry
        if _may_be_left_out(judge, topic):
            continue
        if command.kind is CommandKind.AUDIT and event_id not in topics.audited:
            yield f"{topic} lacks {event_id}"
        if command.kind is CommandKind.REPLY and not command.attempt and entry.state is not None:
            replies = topics.final_replies.get(entry.task_id, ())
            if not any(seen.record.partition == entry.state.reply_partition for seen, _ in replies):
                yield f"the caller of task {entry.task_id} was not told of its end"


def _stay_ended(judge: Judge) -> Iterator[str]:
    """The newest entry of a task that has ended says so: compaction keeps no other one of it."""
    for task_id, decisions in judge.topics.decisions.items():
        ended = False
        for seen, entry in decisions:
            is_end = entry.state is not None and entry.state.phase is TaskPhase.FINISHED
            if entry.cause == "replaced" and ended and not is_end:
                yield f"the journal at {seen.record.offset} forgets that task {task_id} has ended (by {seen.client})"
            ended = ended or is_end


def _carried_out(judge: Judge) -> Iterator[str]:
    """Every command in the journal is published, except for attempts that are obsolete."""
    topics = judge.topics
    yield from unsettled(judge)
    for (topic, event_id), commanded in topics.commands.items():
        smaller = sum(each.entry.cause == _SMALLER for each in commanded) if _is_too_small(judge, COMPLETED) else 0
        if len(commanded) - smaller > 1:
            yield f"the journal commands {event_id} on {topic} {len(commanded)} times"
    for task_id, replies in topics.final_replies.items():
        ends = [event for _, event in topics.completed.get(task_id, ())]
        if _is_too_small(judge, COMPLETED):
            # Its caller may have been given the answer that was then too large for the topic.
            ends += [entry.state.result for _, entry in topics.decisions[task_id]
                     if entry.state is not None and entry.state.result is not None]  # fmt: skip
        if any(reply.result not in ends for _, reply in replies):
            yield f"the caller of task {task_id} was told another end"


def _contents(judge: Judge) -> Iterator[str]:
    topics = judge.topics
    for task_id, records in topics.completed.items():
        task = topics.submitted[task_id][0][1] if task_id in topics.submitted else None
        for _, end in records:
            if task is None:
                continue
            if end.tenant != task.tenant and task_id not in judge.refused:
                yield f"task {task_id} ends for another tenant"
            said = None if end.answer is None else text_of(end.answer)
            if end.status is TaskStatus.SUCCEEDED:
                yield from _answer(task_id, task, end, said)
            asked = [request for _, request in topics.cancelled.get(task_id, ()) if request.tenant == end.tenant]
            if end.status is TaskStatus.CANCELLED and not asked:
                yield f"task {task_id} was cancelled without a request"
            if end.status is TaskStatus.EXPIRED and end.served_from.value != "nothing":
                yield f"task {task_id} expired and has an answer"


def _answer(task_id: str, task: TaskSubmitted, end: TaskCompleted, said: str | None) -> Iterator[str]:
    whole = answer_to(_prompt(task))
    if end.finish_reason not in ("stop", "length"):
        yield f"task {task_id} succeeded with the end {end.finish_reason!r}"
    elif not said or (not whole.startswith(said) if end.finish_reason == "length" else said != whole):
        yield f"task {task_id} has the answer to something else"
    if end.finish_reason != "stop" and end.served_from is ServedFrom.CACHE:
        yield f"task {task_id} was served from the cache with half an answer"


def _cancellations(judge: Judge) -> Iterator[str]:
    """A cancellation request that the journal has consumed is applied, unless the task had ended before."""
    topics = judge.topics
    for task_id, requests in topics.cancelled.items():
        ends = topics.completed.get(task_id)
        cancellations = [each for each in requests if ends and each[1].tenant == ends[0][1].tenant]
        if (
            not ends
            or not cancellations
            or ends[0][1].status is TaskStatus.CANCELLED
            or topics.is_retired(cancellations[0][0])
        ):
            continue
        first = cancellations[0][0].record
        log_id = topics.log_ids[cancellations[0][0].index]
        past = next(
            (
                seen
                for seen, entry in topics.journal[first.partition].counted
                if any(
                    p.topic == CANCELLED and p.next_offset > first.offset and p.topic_id in (None, log_id)
                    for p in entry.positions
                )
            ),
            None,
        )
        decided = [seen for seen, entry in topics.decisions[task_id]
                   if entry.state is not None and entry.state.phase is TaskPhase.FINISHED]  # fmt: skip
        if past is not None and decided and decided[0].index > past.index:
            yield f"the request to cancel task {task_id} was consumed but not applied"


def _privacy(judge: Judge) -> Iterator[str]:
    for call in judge.world.models.calls:
        if call.provider == "ollama":
            continue
        if SECRET in call.text:
            yield f"{call.provider} was asked sensitive content"
        for tenant, consented in CONSENTED.items():
            if f"{INTERNAL}-{tenant}" in call.text and call.provider not in consented:
                yield f"{call.provider} was asked internal content of {tenant}, who does not name it"


def _may_be_left_out(judge: Judge, topic: str) -> bool:
    trouble = judge.world.trouble.trouble
    return trouble is not None and trouble.leaves_out(topic)


def _is_too_small(judge: Judge, topic: str) -> bool:
    trouble = judge.world.trouble.trouble
    return trouble is not None and trouble.is_too_small(topic)


def _prompt(task: TaskSubmitted) -> str:
    return text_of(task.messages[-1].content)
