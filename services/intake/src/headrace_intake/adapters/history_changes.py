"""Writes changes of the history beside tasks: the view follows them as it follows tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace_contracts.events import HistoryChanged, HistoryChangeKind, Message
from headrace_contracts.ids import new_id
from headrace_contracts.topics import HISTORY_CHANGED
from headrace_runtime.access import Caller
from headrace_streams.publishing import Publication

from headrace_intake.adapters.writing import Writer, traceparent


class HistoryChanges:
    """All methods raise NotWritten, WriteUncertain, NeverWritable."""

    def __init__(self, writer: Writer, clock: Callable[[], int]) -> None:
        self._writer = writer
        self._clock = clock

    async def forget(self, caller: Caller, task_id: str, conversation: str | None = None) -> None:
        """The content of a task, or what was added to a conversation without one, is to be erased from the history."""
        await self._write(caller, conversation or task_id, HistoryChangeKind.TURN_FORGOTTEN, task_id=task_id)

    async def set_conversation(self, caller: Caller, conversation: str, labels: Mapping[str, str]) -> int:
        """A conversation exists, with these labels. Returns when that was, in milliseconds since the epoch."""
        kind = HistoryChangeKind.CONVERSATION_SET
        return (
            await self._write(caller, conversation, kind, conversation=conversation, labels=dict(labels))
        ).changed_at

    async def delete_conversation(self, caller: Caller, conversation: str) -> None:
        """A conversation does not exist any more."""
        await self._write(caller, conversation, HistoryChangeKind.CONVERSATION_DELETED, conversation=conversation)

    async def add(self, caller: Caller, conversation: str, messages: Sequence[Message]) -> str:
        """More was said in a conversation. Returns the id of the change."""
        kind = HistoryChangeKind.MESSAGES_ADDED
        change = await self._write(caller, conversation, kind, conversation=conversation, messages=tuple(messages))
        return change.change_id

    async def _write(self, caller: Caller, about: str, kind: HistoryChangeKind, **fields: Any) -> HistoryChanged:
        change = HistoryChanged(
            change_id=new_id(), tenant=caller.tenant, kind=kind, requested_by=caller.key_id, changed_at=self._clock(),
            **fields,
        )  # fmt: skip
        await self._writer.write(
            Publication(
                spec=HISTORY_CHANGED,
                event=change,
                event_id=change.change_id,
                key=f"{caller.tenant}/{about}".encode(),
                tenant=caller.tenant,
                time_ms=change.changed_at,
                subject=about,
                traceparent=traceparent(),
            )
        )
        return change
