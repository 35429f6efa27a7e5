"""Ids and keys. A repeated event has the same id as the original."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import uuid_utils

_LOST: Final = "/lost"


def new_id() -> str:
    """A UUIDv7 from the system's clock and randomness; only for the edges: decisions receive ids as arguments."""
    return str(uuid_utils.uuid7())


def attempt_id(task_id: str, number: int) -> str:
    """Id of a task's attempt; `number` starts at 1."""
    return f"{task_id}/{number}"


def usage_id(attempt: str, execution_id: str) -> str:
    """Id of a usage event; includes the execution, since an attempt that ran twice is billed twice."""
    return f"{attempt}/{execution_id}"


def lost_usage_id(recorded: str) -> str:
    """Id of the event that says an execution was lost, of the id of its usage event: another one, since its worker may
    still record what it has consumed."""
    return f"{recorded}{_LOST}"


def recorded_usage_id(event_id: str) -> str | None:
    """Id of the usage event that takes the place of the one with this id, if that says that an execution was lost."""
    return event_id.removesuffix(_LOST) if event_id.endswith(_LOST) else None


def attempt_of_usage(event_id: str) -> str:
    """The attempt in the id of a usage event, see `usage_id`."""
    return event_id.rpartition("/")[0]


def completion_id(task_id: str) -> str:
    """Id of a task's one terminal state."""
    return f"{task_id}/completed"


def dead_letter_id(topic: str, partition: int, offset: int) -> str:
    """Id of all dead letters of one record, whichever service wrote them; the topic with its prefix."""
    return f"{topic}/{partition}/{offset}"


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256, in hex, over parts that are delimited from each other."""
    delimited: list[bytes] = []
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        delimited += (len(data).to_bytes(8, "big"), data)
    return hashlib.sha256(b"".join(delimited)).hexdigest()


def route_key(
    *, tenant: str, session: str | None, role: str | None, model: str | None, messages: Iterable[tuple[str, bytes]]
) -> str:
    """Key of all records of a task.

    The session if there is one, so that its tasks keep their order; else a digest of tenant, role, model and prompt,
    so that equal prompts share a partition. `messages` are pairs of role and content.
    """
    if session is not None:
        return f"s:{tenant}/{session}"
    content = [part for role_name, data in messages for part in (role_name.encode(), data)]
    return "p:" + digest([tenant, role or "", model or "", *content])[:32]
