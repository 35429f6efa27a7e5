"""Schemas of the beginning of a record.

Avro writes a record's fields one after the other with nothing around them, so a reader that knows the schema of a value
can decode its first fields and ignore the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import fastavro
from fastavro.types import Schema

_MARKS = ("__fastavro_parsed__", "__named_schemas")


def prefix_schema(written: Schema, paths: Collection[str]) -> Schema:
    """The schema that reads a written value up to the last of these fields.

    A path is the name of a field, or two names joined by a dot for a field of a nested record (or of a record in a
    union). Paths that the written schema does not have are ignored.
    """
    return fastavro.parse_schema(_cut(written, paths))


def _cut(written: Any, paths: Collection[str]) -> Any:
    if isinstance(written, list):
        return [_cut(branch, paths) for branch in written]
    if not isinstance(written, dict) or written.get("type") != "record":
        return written
    wanted = {path.split(".")[0] for path in paths}
    fields = written["fields"]
    last = max((index for index, field in enumerate(fields) if field["name"] in wanted), default=-1)
    kept = [dict(field) for field in fields[: last + 1]]
    if kept:
        name = kept[-1]["name"]
        # Only the last field to be read may be read in part.
        inner = [path.partition(".")[2] for path in paths if path.startswith(f"{name}.")]
        if inner and name not in paths:
            kept[-1]["type"] = _cut(kept[-1]["type"], inner)
    return {**{key: value for key, value in written.items() if key not in _MARKS}, "fields": kept}
