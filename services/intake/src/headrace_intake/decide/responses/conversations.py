"""Bodies and answers of the Conversations API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from headrace_intake.decide.options import Labels
from headrace_intake.decide.refusals import Refusal, bad_request
from headrace_intake.decide.responses.continuing import PastTurn, input_listing
from headrace_intake.decide.responses.output import Item, output_items

PREFIX: Final = "conv_"
MOST_ITEMS: Final = 20
"""Items added at once, as many as OpenAI takes."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. `created_at` is in milliseconds since the epoch."""

    conversation_id: str
    labels: Mapping[str, str]
    created_at: int

    def document(self) -> Item:
        """As OpenAI's clients expect it."""
        return {
            "id": self.conversation_id,
            "object": "conversation",
            "created_at": self.created_at // 1000,
            "metadata": dict(self.labels),
        }


class _ConversationBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConversationRequest(_ConversationBody):
    """POST /v1/conversations."""

    items: Annotated[list[Any], Field(max_length=MOST_ITEMS)] | None = None
    metadata: Labels | None = None


class ConversationChange(_ConversationBody):
    """POST /v1/conversations/{id}."""

    metadata: Labels | None = None


class AddedItems(_ConversationBody):
    """POST /v1/conversations/{id}/items."""

    items: Annotated[list[Any], Field(min_length=1, max_length=MOST_ITEMS)]


def conversation_not_found(conversation: str) -> Refusal:
    """404 for a conversation."""
    return Refusal(404, "conversation-not-found", f"Conversation with id '{conversation}' not found.", "conversation")


def item_not_found(item_id: str) -> Refusal:
    """404 for an item."""
    return Refusal(404, "item-not-found", f"Item with id '{item_id}' not found.", "item_id")


def items_stay() -> Refusal:
    """400 for deleting one item of a response."""
    return bad_request(
        "This item belongs to a response: delete the response, with all of its items.",
        "item_id",
        "unsupported-parameter",
    )


def items_of(turns: Sequence[PastTurn]) -> list[Item]:
    """The items of a conversation in order, without turns that have no answer. Raises ContentSealed."""
    items: list[Item] = []
    for turn in turns:
        if turn.answered:
            items += [item for _, (item, _) in input_listing(turn)]
            items += output_items(turn.view) if turn.view is not None else []
    return items
