"""The models that callers can name, as Anthropic's clients list them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `offered` in Anthropic's form. When a model was made is not known here."""
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "headrace": entry["headrace"],
    }


def page(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All models on one page."""
    names = list(entries)
    return {
        "data": [model(entry) for entry in entries.values()],
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }
