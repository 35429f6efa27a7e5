"""Pages of items, as OpenAI's lists have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace_intake.decide.refusals import bad_request

DEFAULT_LIMIT: Final = 20
MOST_LISTED: Final = 100


def item_page(items: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The page that `after`, `before`, `limit` and `order` (newest first by default) ask for. Raises Refusal."""
    order = query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise bad_request("order must be asc or desc.", "order")
    listed = list(items) if order == "asc" else list(reversed(items))
    places = {item["id"]: place for place, item in enumerate(listed)}
    first, end = 0, len(listed)
    if after := query.get("after"):
        first = _place(places, after, "after") + 1
    if before := query.get("before"):
        end = _place(places, before, "before")
    limit = _limit(query.get("limit"))
    page = listed[first:end][:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": first + len(page) < end,
    }


def _place(places: Mapping[str, int], item_id: str, param: str) -> int:
    if item_id not in places:
        raise bad_request(f"{param}: there is no item with this id here.", param)
    return places[item_id]


def _limit(text: str | None) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= MOST_LISTED):
        raise bad_request(f"limit must be a whole number from 1 to {MOST_LISTED}.", "limit")
    return int(text)


def starting_after(query: Mapping[str, str]) -> int | None:
    """The number of the last event that a caller has had. Raises Refusal."""
    text = query.get("starting_after")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise bad_request("starting_after must be the sequence_number of an event.", "starting_after")
    return int(text)
