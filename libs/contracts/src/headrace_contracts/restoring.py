"""Gives schemas back the ids that records name, in a registry that has lost them.

Two kinds of registries can: those with Confluent's import mode, and Apicurio, whose Confluent API ignores that mode, by
its own import of archives. Both were made for moving schemas between registries.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from headrace_contracts.errors import UnusableSchema
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.writer_schemas import writer_schema

_CONFLUENT_ON_APICURIO: Final = "/apis/ccompat/"
_APICURIO_API: Final = "/apis/registry/v3"
_ZIP: Final = {
    "Content-Type": "application/zip",
    "X-Registry-Preserve-ContentId": "true",
    "X-Registry-Preserve-GlobalId": "false",
}


@dataclass(frozen=True, slots=True)
class LostSchema:
    """A schema to be registered under an id.

    Attributes:
        schema_id: The id in the records.
        subject: The subject to add it to, with prefix.
        text: The schema.
        fingerprint: Its fingerprint.
    """

    schema_id: int
    subject: str
    text: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class NotRestored:
    """A schema that the registry did not take under its id, and why."""

    lost: LostSchema
    reason: str


async def restore(registry: SchemaRegistry, lost: Sequence[LostSchema]) -> list[NotRestored]:
    """Register these under their ids; returns those that are still not there. Raises RegistryUnavailable."""
    free, left = await _split(registry, lost)
    if not free:
        return left
    refusal = ""
    if (root := await _apicurio_root(registry)) is not None:
        refusal = await _import_archive(registry, root, free)
    else:
        for each in free:
            refusal = await _import_version(registry, each) or refusal
    free, given_away = await _split(registry, free)
    unheld = [NotRestored(each, refusal or "the registry took it, but not under this id") for each in free]
    return [*left, *given_away, *unheld]


async def _split(registry: SchemaRegistry, lost: Sequence[LostSchema]) -> tuple[list[LostSchema], list[NotRestored]]:
    """Those of which the registry has nothing under the id, and those whose id it has given to another schema."""
    free: list[LostSchema] = []
    given_away: list[NotRestored] = []
    for each in lost:
        holder = await _holder(registry, each)
        if holder is None:
            free.append(each)
        elif holder:
            reason = f"the registry has given this id to {holder}, and no id can be given twice"
            given_away.append(NotRestored(each, reason))
    return free, given_away


async def _holder(registry: SchemaRegistry, lost: LostSchema) -> str | None:
    """What the registry has under the id: "" if it is this schema, None if nothing."""
    try:
        text = await registry.schema(lost.schema_id)
        if text is None:
            return None
        found = writer_schema(text)
    except UnusableSchema as error:
        return f"a schema that is not ours ({error})"
    return "" if found.fingerprint == lost.fingerprint else found.name or "a schema that is no record"


async def _import_version(registry: SchemaRegistry, lost: LostSchema) -> str:
    """By Confluent's import mode; returns why it was refused, "" if it was not."""
    subject = quote(lost.subject, safe="")
    version = max(await registry.versions(lost.subject), default=0) + 1
    status, answer = await registry.call("PUT", f"/mode/{subject}?force=true", {"mode": "IMPORT"})
    if status >= 300:
        refused = f"the registry refuses the import mode ({status} {_words(answer)})"
        return f"{refused}: allow it (mode.mutability=true, and the right to change modes)"
    try:
        body = {"schema": lost.text, "id": lost.schema_id, "version": version}
        status, answer = await registry.call("POST", f"/subjects/{subject}/versions", body)
        return f"the registry refuses the import ({status} {_words(answer)})" if status >= 300 else ""
    finally:
        status, answer = await registry.call("DELETE", f"/mode/{subject}")
        if status >= 300:
            await registry.call("PUT", f"/mode/{subject}", {"mode": "READWRITE"})


def _words(answer: Any) -> str:
    return str(answer.get("message", "")) if isinstance(answer, dict) else ""


async def _apicurio_root(registry: SchemaRegistry) -> str | None:
    """Root of Apicurio's own API, if this is Apicurio."""
    base, found, _ = registry.url.partition(_CONFLUENT_ON_APICURIO)
    if not found:
        return None
    status, answer = await registry.call("GET", "/system/info", root=base + _APICURIO_API)
    return base + _APICURIO_API if status == 200 and isinstance(answer, dict) else None


def _white_space(number: int) -> str:
    """White space that no other number gives."""
    return "".join(" \n"[number >> bit & 1] for bit in range(number.bit_length() + 1))


async def _import_archive(registry: SchemaRegistry, root: str, lost: Sequence[LostSchema]) -> str:
    """By Apicurio's import; returns why it was refused, "" if it was not.

    It passes over what exists, and Apicurio keeps equal texts once, under one id: with other white space it is another
    text of the same schema. All go in one archive, because Apicurio gives out the ids after the highest imported one
    from the end of an import on: what is registered between two of them takes an id that the second one needs.
    """
    archive = _Archive()
    for subject in sorted({each.subject for each in lost}):
        archive.add(
            subject,
            await registry.versions(subject),
            [(each.schema_id, each.text + _white_space(each.schema_id)) for each in lost if each.subject == subject],
        )
    # By default only an empty registry takes it.
    path = "/admin/import?requireEmptyRegistry=false"
    status, answer = await registry.call("POST", path, archive.content(), root=root, headers=_ZIP)
    if status < 300:
        return ""
    detail = answer.get("detail", "") if isinstance(answer, dict) else ""
    return f"the registry refuses the import ({status} {detail}): it needs the right of an administrator"


class _Archive:
    """What Apicurio 3 exports and imports."""

    def __init__(self) -> None:
        self._now = time.time_ns() // 1_000_000
        self._files: dict[str, str] = {}
        self._put(
            "manifest.Manifest.json",
            systemVersion="3", systemName="Headrace", systemDescription="", exportVersion="3.0",
            exportedOn=self._now, exportedBy="", dbVersion="1",
        )  # fmt: skip

    def add(self, subject: str, present: Sequence[int], schemas: Sequence[tuple[int, str]]) -> None:
        """Add schemas, by id, to a subject that has the versions `present`."""
        common = {"groupId": None, "artifactId": subject, "owner": "", "modifiedBy": "", "labels": None, "name": None,
                  "description": None, "createdOn": self._now, "modifiedOn": self._now}  # fmt: skip
        # Slashes would make folders.
        folder = f"groups/default/artifacts/{quote(subject, safe='')}"
        numbers = range(max(present, default=0) + 1, max(present, default=0) + 1 + len(schemas))
        for number, (schema_id, text) in zip(numbers, sorted(schemas), strict=True):
            digest = hashlib.sha256(text.encode()).hexdigest()
            self._put(
                f"content/{digest}.Content.json",
                contentId=schema_id, canonicalHash=None, contentHash=digest, artifactType="AVRO",
                contentType="application/json", serializedReferences=None,
            )  # fmt: skip
            self._files[f"content/{digest}.Content.data"] = text
            self._put(
                f"{folder}/versions/{number}.ArtifactVersion.json",
                **common, globalId=schema_id, version=str(number), versionOrder=number, state="ENABLED",
                contentId=schema_id,
            )  # fmt: skip
        self._put(f"{folder}/MetaData.Artifact.json", **common, artifactType="AVRO")
        self._put(
            f"{folder}/branches/latest.Branch.json",
            groupId=None, artifactId=subject, branchId="latest", description=None, systemDefined=True, owner="",
            createdOn=self._now, modifiedBy="", modifiedOn=self._now, versions=[str(n) for n in (*present, *numbers)],
        )  # fmt: skip

    def content(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in self._files.items():
                archive.writestr(name, text)
        return buffer.getvalue()

    def _put(self, path: str, **document: Any) -> None:
        self._files[path] = json.dumps(document)
