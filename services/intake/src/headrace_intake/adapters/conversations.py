"""`/v1/conversations` in the form that OpenAI's client libraries expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import Message
from headrace_contracts.ids import new_id
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json

from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.history_changes import HistoryChanges
from headrace_intake.adapters.problems import problem_with
from headrace_intake.adapters.responses import parse_item
from headrace_intake.adapters.turns import TurnHistory
from headrace_intake.decide.chat_answers import answer_sealed
from headrace_intake.decide.responses.continuing import PastTurn
from headrace_intake.decide.responses.conversations import (
    PREFIX,
    AddedItems,
    Conversation,
    ConversationChange,
    ConversationRequest,
    item_not_found,
    items_of,
)
from headrace_intake.decide.responses.items import input_items, references
from headrace_intake.decide.responses.listing import item_page
from headrace_intake.decide.responses.output import Item
from headrace_intake.decide.responses.request import messages_in
from headrace_intake.decide.tasks import expect_object


class ConversationsApi:
    """Handlers of the Conversations API."""

    def __init__(self, turns: TurnHistory, changes: HistoryChanges) -> None:
        self._turns = turns
        self._changes = changes

    def routes(self) -> list[web.RouteDef]:
        one = "/v1/conversations/{id}"
        return [
            web.post("/v1/conversations", self.create),
            web.get(one, self.show),
            web.post(one, self.update),
            web.delete(one, self.delete),
            web.get(one + "/items", self.items),
            web.post(one + "/items", self.add),
            web.get(one + "/items/{item_id}", self.item),
            web.delete(one + "/items/{item_id}", self.delete_item),
        ]

    async def create(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        given = expect_object(await read_json(request)) if request.can_read_body else {}
        asked = parse_model(given, ConversationRequest)
        messages = await self._messages(caller, asked.items or [])
        conversation = PREFIX + new_id()
        made = await self._set(caller, conversation, dict(asked.metadata or {}))
        await self._added(caller, conversation, messages)
        return _json(made.document())

    async def _set(self, caller: Caller, conversation: str, labels: dict[str, str]) -> Conversation:
        changed_at = await self._changes.set_conversation(caller, conversation, labels)
        return await self._turns.conversation_since(caller.tenant, conversation, changed_at)

    async def _messages(self, caller: Caller, given: Sequence[Any]) -> tuple[Message, ...]:
        """A message for each item, so that each can be deleted by itself. Raises Refusal."""
        items = input_items(list(given), parse_item)
        referred = await self._turns.referred(caller.tenant, references(items))
        return tuple(message for item in items for message in messages_in([item], referred))

    async def _added(self, caller: Caller, conversation: str, messages: Sequence[Message]) -> Sequence[PastTurn]:
        if not messages:
            return ()
        change_id = await self._changes.add(caller, conversation, messages)
        return await self._turns.added(caller.tenant, change_id, len(messages))

    async def _known(self, caller: Caller, request: web.Request) -> Conversation:
        return await self._turns.conversation(caller.tenant, request.match_info["id"])

    async def show(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        return _json((await self._known(caller, request)).document())

    async def update(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        known = await self._known(caller, request)
        asked = parse_model(expect_object(await read_json(request)), ConversationChange)
        return _json((await self._set(caller, known.conversation_id, dict(asked.metadata or {}))).document())

    async def delete(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        known = await self._known(caller, request)
        await self._changes.delete_conversation(caller, known.conversation_id)
        await self._turns.conversation_gone(caller.tenant, known.conversation_id)
        return _json({"id": known.conversation_id, "object": "conversation.deleted", "deleted": True})

    async def items(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        return _json(item_page(await self._items(caller, request), request.query))

    async def _items(self, caller: Caller, request: web.Request) -> list[Item]:
        known = await self._known(caller, request)
        try:
            return items_of(await self._turns.turns_of(caller.tenant, known.conversation_id))
        except ContentSealed as sealed:
            raise problem_with(answer_sealed(sealed), {}) from sealed

    async def add(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        known = await self._known(caller, request)
        asked = parse_model(expect_object(await read_json(request)), AddedItems)
        turns = await self._added(caller, known.conversation_id, await self._messages(caller, asked.items))
        return _json(item_page(items_of(turns), {"order": "asc", "limit": "100"}))

    async def item(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        wanted = request.match_info["item_id"]
        found = next((item for item in await self._items(caller, request) if item["id"] == wanted), None)
        if found is None:
            raise item_not_found(wanted)
        return _json(found)

    async def delete_item(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        known = await self._known(caller, request)
        conversation = known.conversation_id
        turn_id = await self._turns.added_item(caller.tenant, conversation, request.match_info["item_id"])
        await self._changes.forget(caller, turn_id, conversation)
        await self._turns.forgotten(caller.tenant, turn_id)
        return _json(known.document())


def _json(body: Any) -> web.Response:
    return web.json_response(body, dumps=dumps)
