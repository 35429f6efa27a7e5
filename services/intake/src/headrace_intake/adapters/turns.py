"""Reads the turns of conversations from the task view."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from headrace_contracts.ids import route_key
from headrace_runtime.database import Database
from headrace_runtime.positions import Positions
from headrace_streams.partitioning import partition_of
from headrace_streams.ports import Log
from headrace_streams.records import TopicPartition

from headrace_intake.adapters.history import stored_task
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.responses.continuing import (
    PastTurn,
    earlier_of,
    expect_continuable,
    expect_unlocked,
    input_listing,
    previous_not_found,
    response_not_found,
    said_by_id,
    task_of_item,
)
from headrace_intake.decide.responses.conversations import (
    Conversation,
    conversation_not_found,
    item_not_found,
    items_stay,
)
from headrace_intake.decide.responses.items import SpokenParts
from headrace_intake.decide.responses.request import Earlier
from headrace_intake.decide.responses.turns import added_id, loaded_turn, task_id_of
from headrace_intake.decide.views import TaskView
from headrace_intake.following import Following, TaskNotFound
from headrace_intake.migrations import MIGRATIONS

T = TypeVar("T")

_PERIOD_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 3.0
"""How long the view may need for an end that its caller has seen already."""
_BEHIND_SECONDS: Final = 10.0
_MOST_TURNS: Final = 2_048

_ONE: Final = """
    SELECT t.*, u.task_id AS turn_id, u.said FROM intake.turns u
    LEFT JOIN intake.tasks t ON t.task_id = u.task_id AND t.tenant = u.tenant
    WHERE u.task_id = $1 AND u.tenant = $2
"""
_THESE: Final = """
    SELECT t.*, u.task_id AS turn_id, u.said FROM intake.turns u
    LEFT JOIN intake.tasks t ON t.task_id = u.task_id AND t.tenant = u.tenant
    WHERE u.task_id = ANY($1::text[]) AND u.tenant = $2 ORDER BY u.task_id
"""
_UP_TO: Final = f"""
    WITH RECURSIVE chain (task_id, previous_task_id, depth) AS (
        SELECT task_id, previous_task_id, 0 FROM intake.turns WHERE task_id = $1 AND tenant = $2
        UNION ALL
        SELECT u.task_id, u.previous_task_id, depth + 1 FROM intake.turns u
        JOIN chain ON u.task_id = chain.previous_task_id WHERE u.tenant = $2 AND depth < {_MOST_TURNS}
    )
    SELECT t.*, u.task_id AS turn_id, u.said FROM chain
    JOIN intake.turns u ON u.task_id = chain.task_id
    LEFT JOIN intake.tasks t ON t.task_id = u.task_id AND t.tenant = u.tenant
    ORDER BY chain.depth DESC
"""
_IS_FORGOTTEN: Final = "SELECT EXISTS (SELECT FROM intake.forgotten WHERE task_id = $1 AND tenant = $2)"
_OF_CONVERSATION: Final = f"""
    SELECT t.*, u.task_id AS turn_id, u.said FROM intake.turns u
    LEFT JOIN intake.tasks t ON t.task_id = u.task_id AND t.tenant = u.tenant
    WHERE u.tenant = $1 AND u.conversation = $2 ORDER BY u.submitted_at, u.task_id LIMIT {_MOST_TURNS}
"""


_CONVERSATION: Final = """
    SELECT labels, created_at, changed_at, deleted FROM intake.conversations WHERE tenant = $1 AND conversation = $2
"""


@dataclass(frozen=True, slots=True)
class _StoredConversation:
    conversation: Conversation
    changed_at: int
    deleted: bool


class TurnHistory:
    """Turns of one tenant at a time. All methods raise DatabaseAway.

    Args:
        log: Tells how far the topics reach.
        topic: Name of tasks.submitted, with its prefix.
    """

    def __init__(self, database: Database, following: Following, log: Log, topic: str) -> None:
        self._database = database
        self._following = following
        self._log = log
        self._topic = topic
        self._positions = Positions(MIGRATIONS.schema)

    async def get(self, tenant: str, response: str) -> PastTurn:
        """The turn of a response, as far as it has come. Raises Refusal if there is none."""
        task_id = task_id_of(response)
        if task_id is None or "\0" in task_id:
            raise response_not_found(response)
        keeps = await self._is_coming(tenant, task_id)
        turn = await _until(lambda: self._one(tenant, task_id), lambda turn: turn is not None or not keeps)
        if turn is None:
            raise response_not_found(response) if not keeps else _behind()
        return await self._newest(tenant, turn)

    async def _is_coming(self, tenant: str, task_id: str) -> bool:
        """Whether the turn of a task must be in the view, now or soon."""
        try:
            known = await self._following.find(tenant, task_id)
        except TaskNotFound:
            return False
        if known.pending is None or not known.view.keeps_turn:
            return False
        async with self._database.connection() as connection:
            return not await connection.fetchval(_IS_FORGOTTEN, task_id, tenant)

    async def _newest(self, tenant: str, turn: PastTurn) -> PastTurn:
        """The turn with the end of its task, if this process has heard of it before the view."""
        if not turn.open:
            return turn
        try:
            known = await self._following.find(tenant, turn.turn_id)
        except TaskNotFound:
            return turn
        is_live = known.pending is not None and not known.view.ended
        return PastTurn(turn.turn_id, turn.kept, known.view, is_live)

    async def up_to(self, tenant: str, response: str) -> Earlier:
        """What was said up to a response. Raises Refusal."""
        task_id = task_id_of(response)
        if task_id is None or "\0" in task_id:
            raise previous_not_found(response)
        keeps = await self._is_coming(tenant, task_id)

        async def chain() -> Sequence[PastTurn]:
            turns = await self._fetch(_UP_TO, task_id, tenant)
            return [*turns[:-1], await self._newest(tenant, turns[-1])] if turns else ()

        def is_there(turns: Sequence[PastTurn]) -> bool:
            return bool(turns) or not keeps

        turns = await _until(chain, is_there)
        if turns and not _is_settled(turns[-1]):
            # Its end may have been told by another process.
            turns = await _until(chain, lambda turns: _is_settled(turns[-1]), _PATIENCE_SECONDS)
        if not turns and keeps:
            raise _behind()
        expect_continuable(turns, response)
        return earlier_of(turns, task_id)

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        """A conversation. Raises Refusal if there is none."""
        found = await self._conversation(tenant, conversation)
        if found is None or found.deleted:
            raise conversation_not_found(conversation)
        return found.conversation

    async def conversation_since(self, tenant: str, conversation: str, changed_at: int) -> Conversation:
        """A conversation after a change of this time. Raises Refusal when the view is behind, or it was deleted."""
        found = await _until(
            lambda: self._conversation(tenant, conversation),
            lambda found: found is not None and (found.deleted or found.changed_at >= changed_at),
        )
        if found is None:
            raise _behind()
        if found.deleted:
            raise conversation_not_found(conversation)
        return found.conversation

    async def conversation_gone(self, tenant: str, conversation: str) -> None:
        """Wait until the view does not show a conversation any more, as long as that makes sense."""
        await _until(lambda: self._conversation(tenant, conversation), lambda found: found is None or found.deleted)

    async def _conversation(self, tenant: str, conversation: str) -> _StoredConversation | None:
        if "\0" in conversation:
            return None
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_CONVERSATION, tenant, conversation)
        if row is None:
            return None
        known = Conversation(conversation, json.loads(row["labels"]), row["created_at"])
        return _StoredConversation(known, row["changed_at"], row["deleted"])

    async def added(self, tenant: str, change_id: str, count: int) -> Sequence[PastTurn]:
        """What a change added to a conversation, in order. Raises Refusal when the view is behind."""
        turn_ids = [added_id(change_id, place) for place in range(count)]
        turns = await _until(lambda: self._fetch(_THESE, turn_ids, tenant), bool)
        if not turns:
            raise _behind()
        return turns

    async def added_item(self, tenant: str, conversation: str, item_id: str) -> str:
        """The turn of an item that was added to a conversation. Raises Refusal if it is none."""
        turn_id = task_of_item(item_id)
        turn = None if turn_id is None or "\0" in turn_id else await self._one(tenant, turn_id)
        if turn is None or turn.kept.turn.conversation != conversation or item_id not in said_by_id(turn):
            raise item_not_found(item_id)
        if turn.view is not None or len(input_listing(turn)) > 1:
            raise items_stay()
        return turn.turn_id

    async def of_conversation(self, tenant: str, conversation: str) -> Earlier:
        """What was said in a conversation. Raises Refusal."""
        await self.conversation(tenant, conversation)
        turns = await self.turns_of(tenant, conversation)
        expect_unlocked(turns)
        return earlier_of(turns, None)

    async def turns_of(self, tenant: str, conversation: str) -> Sequence[PastTurn]:
        """All turns of a conversation that were accepted before this call. Raises Refusal when the view is behind."""
        await self._catch_up(tenant, conversation)

        async def turns() -> Sequence[PastTurn]:
            found = await self._fetch(_OF_CONVERSATION, tenant, conversation)
            return [await self._newest(tenant, turn) if turn.open else turn for turn in found]

        return await _until(turns, lambda found: all(map(_is_settled, found)), _PATIENCE_SECONDS)

    async def _catch_up(self, tenant: str, conversation: str) -> None:
        """Wait until the view has all tasks that were submitted to a conversation so far, so that none is missed."""
        key = route_key(tenant=tenant, session=conversation, role=None, model=None, messages=()).encode()
        admin = self._log.admin()
        counts = await admin.partition_counts([self._topic])
        place = TopicPartition(self._topic, partition_of(key, counts[self._topic]))
        _, end = (await admin.bounds([place]))[place]

        async def reached() -> bool:
            async with self._database.connection() as connection:
                found = await self._positions.find(connection, [place])
            return end == 0 or (place in found and found[place].next_offset >= end)

        if not await _until(reached, bool):
            raise _behind()

    async def referred(self, tenant: str, item_ids: Collection[str]) -> Mapping[str, SpokenParts]:
        """What earlier items say, by their ids; unknown ones are missing."""
        said: dict[str, SpokenParts] = {}
        turn_ids = {turn_id for item_id in item_ids if (turn_id := task_of_item(item_id)) and "\0" not in turn_id}
        for turn_id in sorted(turn_ids):
            turn = await self._one(tenant, turn_id)
            if turn is not None:
                said |= said_by_id(await self._newest(tenant, turn))
        return said

    async def forgotten(self, tenant: str, task_id: str) -> bool:
        """Wait until the view has forgotten a task; whether it has, in time."""

        async def gone() -> bool:
            async with self._database.connection() as connection:
                return bool(await connection.fetchval(_IS_FORGOTTEN, task_id, tenant))

        return await _until(gone, bool)

    async def ended(self, tenant: str, view: TaskView, seconds: float) -> TaskView:
        """The end of a task, or what is known of it after so long."""

        async def look() -> TaskView:
            try:
                return (await self._following.find(tenant, view.task_id)).view
            except TaskNotFound:
                return view

        return await _until(look, lambda found: found.ended, seconds)

    async def _one(self, tenant: str, task_id: str) -> PastTurn | None:
        turns = await self._fetch(_ONE, task_id, tenant)
        return turns[0] if turns else None

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[PastTurn]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(statement, *arguments)
        return [_past_turn(dict(row)) for row in rows]


def _is_settled(turn: PastTurn) -> bool:
    """Whether looking at it once more tells nothing new."""
    return not turn.open or turn.is_live


def _past_turn(row: dict[str, Any]) -> PastTurn:
    view = None if row["tenant"] is None else stored_task(row).view
    return PastTurn(row["turn_id"], loaded_turn(row["said"]), view)


async def _until(look: Callable[[], Awaitable[T]], enough: Callable[[T], bool], seconds: float = _BEHIND_SECONDS) -> T:
    """What `look` finds: the first that is enough, or the last one in time."""
    until = asyncio.get_running_loop().time() + seconds
    while True:
        found = await look()
        if enough(found) or asyncio.get_running_loop().time() >= until:
            return found
        await asyncio.sleep(_PERIOD_SECONDS)


def _behind() -> Refusal:
    return Refusal(503, "history-behind", "The task history is behind at the moment: repeat the request.")
