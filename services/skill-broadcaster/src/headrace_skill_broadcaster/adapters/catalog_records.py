"""The records that the owner of a catalog partition writes."""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import SkillPublished
from headrace_contracts.headers import header
from headrace_contracts.topics import SKILLS_CATALOG, SKILLS_FEED
from headrace_streams.publishing import Publication
from headrace_streams.records import ProducerRecord, Record, TopicPartition

from headrace_skill_broadcaster.decide.catalog import feed_event_id, feed_events, interest_key, skill_key

_FORGOTTEN: Final = "/forgotten"


def catalog_record(entry: SkillPublished, partition: int, traceparent: str | None = None) -> Publication:
    """A skill's state."""
    key = skill_key(entry.tenant, entry.name)
    return Publication(
        spec=SKILLS_CATALOG,
        event=entry,
        event_id=f"{key}/{entry.version}/{entry.submission_id}",
        key=key.encode(),
        tenant=entry.tenant,
        time_ms=entry.published_at,
        partition=partition,
        subject=entry.name,
        traceparent=traceparent,
    )


def feed_records(entry: SkillPublished, traceparent: str | None) -> list[Publication]:
    """What followers are told of a version."""
    return [
        Publication(
            spec=SKILLS_FEED,
            event=event,
            event_id=feed_event_id(event),
            key=interest_key(event.tenant, event.interest).encode(),
            tenant=event.tenant,
            time_ms=event.published_at,
            subject=event.name,
            traceparent=traceparent,
        )
        for event in feed_events(entry)
    ]


def tombstone(catalog: TopicPartition, key: str, version: int) -> ProducerRecord:
    """Removes a skill whose last version this was."""
    event_id = f"{key}/{version}{_FORGOTTEN}"
    return ProducerRecord(catalog.topic, None, key.encode(), catalog.partition, (("ce_id", event_id.encode()),))


def is_late(removal: Record, entry: SkillPublished | None) -> bool:
    """Whether a writer that had lost the partition removed a skill that has been published again since.

    Tombstones that operators write name no version, and remove whatever there is.
    """
    event_id = header(removal.headers, "ce_id") or ""
    if entry is None or not event_id.endswith(_FORGOTTEN):
        return False
    version = event_id.removesuffix(_FORGOTTEN).rpartition("/")[2]
    return version.isdecimal() and int(version) < entry.version
