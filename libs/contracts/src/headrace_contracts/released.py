"""All versions of the schemas of the topics that were ever released, and the present ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from headrace_contracts.events._released import RELEASED
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.schema_texts import fingerprint_of, without_logical_types


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """A version of a record's schema.

    Attributes:
        name: Full name of the record.
        version: "current", or the number of a release.
        text: As registered.
        fingerprint: See `schema_texts.fingerprint_of`.
    """

    name: str
    version: str
    text: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name} ({self.version})"


@cache
def versions_of(full_name: str) -> tuple[SchemaVersion, ...]:
    """The versions that differ in what they write, the newest first."""
    found: dict[str, SchemaVersion] = {}
    texts = [("current", SCHEMAS[full_name])]
    texts += [(f"release {number}", text) for number, text in sorted(RELEASED.get(full_name, {}).items(), reverse=True)]
    for version, text in texts:
        fingerprint = fingerprint_of(without_logical_types(json.loads(text)))
        found.setdefault(fingerprint, SchemaVersion(full_name, version, text, fingerprint))
    return tuple(found.values())


def version_with(full_name: str, fingerprint: str) -> SchemaVersion | None:
    """The version with this fingerprint."""
    return next((each for each in versions_of(full_name) if each.fingerprint == fingerprint), None)
