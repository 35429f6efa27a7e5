"""What a task is counted with wherever tasks are held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

_TASK_BYTES: Final = 2_000
"""Of a task beside what it says: its names, its attempts, its places in indexes."""
_MESSAGE_BYTES: Final = 200
_LABEL_BYTES: Final = 100
_VALUE_BYTES: Final = 16


def task_bytes(messages: Iterable[int], options: int, labels: Mapping[str, str]) -> int:
    """Bytes that a task is counted with: about what it takes in memory, the same in every process.

    Args:
        messages: Bytes that each of its messages holds: of its content, and of its parts and its name (`held_bytes`).
        options: Bytes of what it asks beyond messages and sampling (`held_bytes`).
    """
    said = sum(size + _MESSAGE_BYTES for size in messages)
    labelled = sum(len(name.encode()) + len(value.encode()) + _LABEL_BYTES for name, value in labels.items())
    return said + options + labelled + _TASK_BYTES


def held_bytes(value: Any) -> int:
    """Bytes of a part of an event, of its class or as plain Avro data: the same for both; 0 for what is absent."""
    if not value:
        return 0
    if isinstance(value, bytes | str):
        return len(value)
    if is_dataclass(value):
        return sum(held_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(map(held_bytes, value.values()))
    if isinstance(value, tuple | list):
        return sum(held_bytes(item) + _VALUE_BYTES for item in value)
    return _VALUE_BYTES
