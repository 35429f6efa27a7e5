"""Turns topics and schemas into docs/events.md."""

from __future__ import annotations

from typing import Any

from headrace_contracts.tools.schemas import SchemaSet
from headrace_contracts.topics import TOPICS, TopicSpec


def events_page(schemas: SchemaSet) -> str:
    """The reference page for teams that consume or produce events."""
    lines = [
        "# Events",
        "",
        "Generated from `schemas/` and `headrace_contracts.topics` by `make generate`; edit those instead.",
        "",
        "Topic names have the installation's prefix, by default `headrace.`. Values are Avro in the",
        "Confluent wire format; each subject is the topic's name with `-value`. Compatibility is `FULL_TRANSITIVE`:",
        "every version can read what any other wrote. Headers are CloudEvents 1.0 in binary mode (`ce_id`, `ce_type`,",
        "`ce_source`, `ce_time`, `ce_subject`, `ce_tenant`) and W3C `traceparent`. Producers must use",
        "`partitioner=murmur2_random`, the Java default. A repeated event has the same `ce_id`.",
        "",
        "## Topics",
        "",
        "| topic | key | partitions | cleanup | retention | record | written by | read by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    main = [spec for spec in TOPICS.values() if not spec.name.endswith(".dlq")]
    lines += [_topic_row(spec) for spec in main]
    with_dead_letters = ", ".join(f"`{spec.name}`" for spec in main if spec.dead_letters)
    lines += [
        "",
        f"These topics have a dead-letter topic with the suffix `.dlq` (retention 30 days): {with_dead_letters}.",
        "",
        "## Records",
    ]
    for name in sorted(schemas.types):
        lines += ["", f"### {name}", "", schemas.types[name]["doc"], ""]
        lines += _fields(schemas.types[name])
    return "\n".join(lines) + "\n"


def _topic_row(spec: TopicSpec) -> str:
    short = spec.record.__name__
    link = f"[{short}](#{spec.record.FULL_NAME.lower().replace('.', '')})"
    cells = [
        f"`{spec.name}`<br>{spec.doc}",
        spec.key,
        f"{spec.partitions}{' (task group)' if spec.copartitioned else ''}",
        spec.cleanup,
        _duration(spec.retention_ms),
        link,
        ", ".join(spec.writers),
        ", ".join(spec.readers),
    ]
    return "| " + " | ".join(cells) + " |"


def _duration(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "newest per key"
    hours = milliseconds // 3_600_000
    return f"{hours // 24} d" if hours >= 24 else f"{hours} h"


def _fields(schema: dict[str, Any]) -> list[str]:
    if schema["type"] == "enum":
        symbols = ", ".join(f"`{symbol}`" for symbol in schema["symbols"])
        return [f"One of {symbols}; an unknown one reads as `{schema['default']}`."]
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in schema["fields"]:
        default = "" if "default" not in field else f"`{field['default']!r}`".replace("None", "null")
        rows.append(f"| `{field['name']}` | {_type(field['type'])} | {default} | {field['doc']} |")
    return rows


def _type(node: Any) -> str:
    if isinstance(node, list):
        return " or ".join(_type(branch) for branch in reversed(node))
    if isinstance(node, dict):
        if node["type"] == "array":
            return f"list of {_type(node['items'])}"
        if node["type"] == "map":
            return f"map of {_type(node['values'])}"
        return str(node.get("logicalType", node["type"]))
    if "." in node:
        return f"[{node.rsplit('.', 1)[-1]}](#{node.lower().replace('.', '')})"
    return str(node)
