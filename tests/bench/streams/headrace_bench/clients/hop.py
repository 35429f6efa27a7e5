"""The hop that is compared: consume an event, decide with what is known of its task, keep that, and tell of it.

An event is a request to cancel a task. What is known of a task is how many cancellation requests came for it; each is
answered by a reply. The decision and the bytes of event and reply are the same for every contestant; how state and
reply are kept exact is what differs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from headrace_contracts.codec import Codec
from headrace_contracts.events import (
    Command,
    CommandKind,
    EntryKind,
    InputEvent,
    JournalEntry,
    Position,
    ReplyKind,
    TaskCancelled,
    TaskPhase,
    TaskReply,
    TaskState,
)
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_CANCELLED, TASKS_JOURNAL, TASKS_REPLIES
from headrace_streams.publishing import Publication

TENANT = "acme"
SOURCE = "headrace/bench/1"


async def prepared_codec(prefix: str) -> Codec:
    """With the same schema ids in every process."""
    codec = Codec(MemoryRegistry(), prefix)
    await codec.prepare((TASKS_CANCELLED, TASKS_REPLIES, TASKS_JOURNAL), register=True)
    return codec


@dataclass(frozen=True, slots=True)
class Decision:
    """What an event changes, and what is told of it."""

    cancellations: int
    reply: TaskReply


def decide(cancellations: int, cancellation: TaskCancelled, now_ms: int) -> Decision:
    """About one more cancellation request, when so many came before."""
    known = cancellations + 1
    reply = TaskReply(
        task_id=cancellation.task_id,
        tenant=cancellation.tenant,
        kind=ReplyKind.FINISHED,
        attempt=known,
        emitted_at=now_ms,
    )
    return Decision(known, reply)


def entry_of(decision: Decision, offset: int, now_ms: int) -> JournalEntry:
    """The record that keeps a decision: the new state, the input it answers, and what it commands."""
    task_id = decision.reply.task_id
    key = task_id.encode()
    return JournalEntry(
        kind=EntryKind.DECISION,
        task_id=task_id,
        cause="cancelled",
        state=TaskState(
            phase=TaskPhase.FINISHED,
            digest=str(decision.cancellations),
            route_key=key,
            home_partition=0,
            traceparent=None,
        ),
        input=InputEvent(topic=TASKS_CANCELLED.name, partition=0, offset=offset, event_id=f"cancellation/{offset}"),
        positions=(Position(topic=TASKS_CANCELLED.name, partition=0, next_offset=offset + 1),),
        commands=(Command(kind=CommandKind.REPLY, event_id=f"reply/{offset}", topic=TASKS_REPLIES.name),),
        decided_at=now_ms,
    )


def reply_publication(reply: TaskReply, offset: int) -> Publication:
    """The reply on its way out."""
    return Publication(
        spec=TASKS_REPLIES,
        event=reply,
        event_id=f"reply/{offset}",
        key=reply.task_id.encode(),
        tenant=reply.tenant,
        time_ms=reply.emitted_at,
        partition=0,
        subject=reply.task_id,
    )


def when_input_ends(call: Callable[[], object]) -> None:
    """Have this called, in a thread, when the parent process closes the pipe."""

    def wait() -> None:
        sys.stdin.read()
        call()

    threading.Thread(target=wait, daemon=True).start()


def say_ready() -> None:
    """Report that events are consumed from now on."""
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
