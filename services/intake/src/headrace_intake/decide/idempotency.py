"""Idempotency-Key: which task a repeated request belongs to, and what to do with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.ids import digest

from headrace_intake.decide.refusals import Refusal, bad_request

_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Taken:
    """The entry of a key in Postgres.

    Attributes:
        accepted: Whether Kafka is known to have acknowledged the task; also false if the process died before it
            could record that.
        created_at: When the key was taken, in milliseconds since the epoch.
    """

    task_id: str
    digest: str
    created_at: int
    reply_partition: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class SubmitAnew:
    """Submit the task under this id and time: it is new, or it is unknown whether it was submitted.

    If it was, the router ignores the repetition, which is the same event.
    """

    task_id: str
    submitted_at: int
    reply_partition: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class Follow:
    """Submit nothing: the task is in flight or has ended."""

    task_id: str
    submitted_at: int
    reply_partition: int


def parse_key(values: Sequence[str]) -> str | None:
    """The key of a request, from all its Idempotency-Key headers. Raises Refusal for two, and for one that cannot be
    stored."""
    if not values:
        return None
    if len(values) > 1:
        raise bad_request("Idempotency-Key was sent twice: send it once.", "Idempotency-Key")
    (value,) = values
    # The IETF draft writes the key as a structured field, in quotes; most callers send it bare.
    text = value[1:-1] if len(value) > 2 and value[0] == value[-1] == '"' else value
    if not _KEY.fullmatch(text):
        raise bad_request("Idempotency-Key must have 1 to 255 printable ASCII characters.", "Idempotency-Key")
    return text


def content_digest(api: str, document: Mapping[str, Any]) -> str:
    """Identifies a request's API and content, to tell a repetition from another request under the same key."""
    return digest([api, json.dumps(document, sort_keys=True, separators=(",", ":"))])


def decide(mine: Taken, found: Taken | None, *, in_flight_here: bool) -> SubmitAnew | Follow:
    """What to do with a request that tried to take the key as `mine` and found it as `found` (None: it was free).

    `in_flight_here`: this process accepted, or is just submitting, the found task. Raises Refusal for other content.
    """
    if found is None:
        return SubmitAnew(mine.task_id, mine.created_at, mine.reply_partition, repeated=False)
    if found.digest != mine.digest:
        raise Refusal(
            409,
            "idempotency-conflict",
            "This Idempotency-Key was used before with other content: use a new key for a new request.",
            "Idempotency-Key",
        )
    if found.accepted or in_flight_here:
        return Follow(found.task_id, found.created_at, found.reply_partition)
    return SubmitAnew(found.task_id, found.created_at, found.reply_partition, repeated=True)
