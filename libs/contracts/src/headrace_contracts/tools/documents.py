"""Turns topics and schemas into docs/events.md."""

from __future__ import annotations

import json
from typing import Any, Final

from headrace_contracts import limits, narrowing
from headrace_contracts.content_topics import holds_content
from headrace_contracts.sites import LONGEST_SITE
from headrace_contracts.tools.schemas import SchemaSet, repository
from headrace_contracts.topics import TOPICS, TopicSpec

_EXAMPLES: Final = "docs/examples/route-key"


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
        "`partitioner=murmur2_random`, the Java default. A repeated event has the same `ce_id`. An attempt of a task",
        "without a session has the header `headrace_unordered`: it need not run in the order of its key. One that may",
        "have been published before has the header `headrace_repeated`.",
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
        "Local workers of a site read topics of their own: `work.local.<site>.interactive` and",
        "`work.local.<site>.batch`, which are like `work.local.interactive` and `work.local.batch`, share their",
        "dead-letter topics, and exist for each site in `HEADRACE_SITES`. A site's name has",
        f"1 to {LONGEST_SITE} lower-case letters, digits and hyphens, and is not `interactive` or `batch`.",
        "",
        "Anyone who reads is the Kafka user `observer`, or `content-reader` where records hold texts of people or",
        "models (a `Content`, at any depth). Dead letters are such texts: each holds a whole record, whatever was in",
        "it.",
        "",
        f"These topics have a dead-letter topic with the suffix `.dlq` (retention 30 days): {with_dead_letters}.",
        "",
        *_producing(),
        "",
        "## Records",
    ]
    for name in sorted(schemas.types):
        lines += ["", f"### {name}", "", schemas.types[name]["doc"], ""]
        lines += _fields(schemas.types[name])
    return "\n".join(lines) + "\n"


def _producing() -> list[str]:
    """What a team that produces tasks needs to know."""
    vectors = json.loads((repository() / _EXAMPLES / "vectors.json").read_text("utf-8"))
    return [
        "## Producing tasks",
        "",
        "The smallest task is a `TaskSubmitted` with `task_id` (a new UUIDv7), `tenant`, one message (`role` `user`,",
        "`content` with `cipher` `none` and the text in UTF-8 as `data`) and `submitted_at`; all other fields have",
        "defaults. Its key is the route key below. Its end is the `TaskCompleted` with its `task_id` in",
        "`tasks.completed`, in the same partition, exactly once. `POST /v1/tasks` does just this, with these limits.",
        "",
        "Headers are optional. `traceparent` continues a trace; a malformed one is as if absent. `ce_id` is kept with",
        f"the decision; one that is empty, has control characters or more than {limits.LONGEST_EVENT_ID} characters is",
        "replaced by topic, partition and offset.",
        "",
        "### Limits",
        "",
        "| field | must be |",
        "|---|---|",
        f"| `task_id` | 1 to {limits.LONGEST_NAME} printable ASCII characters, "
        "without space and slash; best a UUIDv7 |",
        "| `tenant` | 1 to 64 letters, digits, dots, underscores and hyphens, a letter or digit first |",
        "| `kind`, `key_id`, `role`, `model`, `preferred_provider`, `session`, `subject` | "
        f"if given, 1 to {limits.LONGEST_NAME} characters without control characters |",
        f"| `user` | at most {limits.LONGEST_NAME} characters without control characters |",
        "| `model`, `role` | a model or a role, not both; the model `auto` is none, `role:x` is the role x |",
        f"| `labels` | at most {limits.MOST_LABELS}; names as above, values of at most {limits.LONGEST_TEXT} characters"
        " without NUL |",
        f"| `messages` | 1 to {limits.MOST_MESSAGES}, one of them with a text; roles {', '.join(limits.SPEAKERS)} |",
        f"| `sampling` | `max_output_tokens` 1 to {limits.MOST_OUTPUT_TOKENS}; `temperature` 0 to "
        f"{limits.HIGHEST_TEMPERATURE:g}; `top_p` 0 to 1; at most {limits.MOST_STOPS} `stop` texts of 1 to "
        f"{limits.LONGEST_STOP} characters |",
        f"| `routing` | at most {narrowing.MOST_NAMES} names in a list; a strategy that there is; prices of 0 to "
        f"{narrowing.HIGHEST_PRICE_DOLLARS} dollars; speeds above 0 |",
        f"| `budget_nanodollars` | 0 to {limits.MOST_BUDGET_DOLLARS} dollars |",
        "| `submitted_at` | milliseconds since the epoch, from the year 2000 to a day ahead of the router's clock |",
        "| `deadline_at` | likewise, to 31 days ahead; one that has passed ends the task as `expired` |",
        "| `reply_partition` | a partition of `tasks.replies`; leave it null, replies are for intake |",
        f"| record key | at most {limits.LARGEST_KEY} bytes; null is allowed, but puts equal tasks on any partition |",
        "",
        "### What becomes of the rest",
        "",
        "- A task that breaks a limit ends as `failed`, with `failure.code` `invalid_request` and the",
        "  field's name first",
        "  in `failure.message`. The bad field is empty, or has its default, in all that follows; a key that is too",
        "  large is replaced by `k:` and its digest.",
        "- A task or an answer that is larger than a topic takes (`max.message.bytes`, before compression) ends as",
        "  `failed` with `record_too_large`.",
        "- A record that cannot be decoded, a task whose `task_id` breaks its limit, and a request to",
        "  cancel that breaks a",
        "  limit (`task_id`, `tenant`, `requested_at` as above; `requested_by` as `user`; `reason` at most",
        f"  {limits.LONGEST_TEXT} characters without NUL) are kept in the topic's dead letters: nobody",
        "  could be answered.",
        "- A second task with the id of an earlier one changes nothing, if its key leads to the same partition. With",
        "  another key it is a task of its own, and the id ends twice, each time with the same `ce_id`: make a new id",
        "  for each task, and repeat one with its first key. Intake reports ids of two tasks in its log and in",
        "  `headrace_intake_task_ids_reused_total`.",
        "- Replies are best effort. One that `tasks.replies` does not take is left out; the end is in",
        "  `tasks.completed`.",
        "",
        "### Route key",
        "",
        "With a session: `s:`, the tenant, `/`, the session. Without one: `p:` and the first 32",
        "hexadecimal digits of the",
        "SHA-256 over these parts, each preceded by its length in bytes as 8 bytes, most significant",
        "first: tenant, role,",
        "model (each in UTF-8; empty if there is none), then role and text of each message. Fields count as they are",
        "written to the record. The partition follows from the key by murmur2, as in Java's default partitioner.",
        f"`{_EXAMPLES}` has this in Python, Java and Go, and these vectors as JSON:",
        "",
        "| tenant | session | role | model | messages | key | partition of 6 |",
        "|---|---|---|---|---|---|---|",
        *[_vector_row(vector) for vector in vectors],
    ]


def _vector_row(vector: dict[str, Any]) -> str:
    said = "; ".join(f"{role}: {json.dumps(text, ensure_ascii=False)}" for role, text in vector["messages"])
    cells = [vector["tenant"], *(vector[name] or "" for name in ("session", "role", "model")), said, vector["key"]]
    shown = " | ".join(f"`{cell}`" if cell else "" for cell in cells)
    return f"| {shown} | {vector['partition_of_6']} |"


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
        ", ".join(_reader(reader, spec) for reader in spec.readers),
    ]
    return "| " + " | ".join(cells) + " |"


def _reader(reader: str, spec: TopicSpec) -> str:
    """A reader; "anyone" with the Kafka user that is for such readers."""
    if reader != "anyone":
        return reader
    return "anyone (`content-reader`)" if holds_content(spec) else "anyone (`observer`)"


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
