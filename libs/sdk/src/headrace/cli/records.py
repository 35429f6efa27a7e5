"""Records and events as text: one line for a terminal, a document for programs."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

from headrace_contracts.topics import Event
from headrace_streams.records import Record
from rich.text import Text

from headrace.times import local_clock, local_iso


def shown_key(key: bytes | None) -> str:
    return "(no key)" if key is None else key.decode("utf-8", "replace")


def record_document(record: Record, event: Event) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": local_iso(record.timestamp_ms),
        "key": None if record.key is None else record.key.decode("utf-8", "replace"),
        "headers": {
            name: None if value is None else value.decode("utf-8", "replace") for name, value in record.headers
        },
        "event": event_document(event),
    }


def event_document(event: Event, *, content: bool = True) -> Any:
    """Avro's plain data; unsealed texts as text or, without `content`, as their sizes."""
    return _readable(event.to_avro(), content=content)


def _readable(value: Any, *, content: bool) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"cipher", "data"}:
            open_ = content and value["cipher"] == "none"
            return {"cipher": value["cipher"], "text": _text(value)} if open_ else _sealed(value)
        return {key: _readable(item, content=content) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item, content=content) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers, and whoever reads the line would refuse all of it.
        return str(value)
    return value


def _text(content: dict[str, Any]) -> str:
    return bytes(content["data"]).decode("utf-8", "replace")


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    return {"cipher": content["cipher"], "bytes": len(content["data"])}


def record_line(record: Record, event: Event) -> Text:
    when = local_clock(record.timestamp_ms)
    line = Text.assemble(
        (when, "dim"), f"  {record.partition}@{record.offset}  ", (shown_key(record.key), "cyan"), "  "
    )
    for name, value in event.to_avro().items():
        shown = local_clock(value) if name.endswith("_at") and isinstance(value, int) else _short(value)
        if shown:
            line.append(f"{name}=", "dim").append(f"{shown} ")
    return line


def _short(value: Any) -> str:
    """A field within a line: nothing if it is empty, its size if it is long."""
    if value is None or value is False or value in ("", 0, 0.0):
        return ""
    if isinstance(value, dict):
        if value.keys() == {"cipher", "data"}:
            return f"({len(value['data'])} bytes)"
        inner = ",".join(f"{key}:{_short(item)}" for key, item in value.items() if _short(item))
        return "" if not inner else "{" + inner + "}" if len(inner) <= 80 else f"{{{len(value)} fields}}"
    if isinstance(value, list | tuple):
        if not value:
            return ""
        with suppress(TypeError):
            joined = ",".join(value)
            if len(joined) <= 60:
                return joined
        return f"[{len(value)}]"
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value) if len(str(value)) <= 120 else str(value)[:117] + "…"
