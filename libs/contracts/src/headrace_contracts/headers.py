"""Record headers: CloudEvents in binary mode, and W3C trace context.

Names follow the Kafka protocol binding of CloudEvents 1.0 (prefix `ce_` for each attribute) and W3C Trace Context.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

Headers = tuple[tuple[str, bytes], ...]

REPLAY_OF: Final = "headrace_replay_of"
"""Header of a record that an operator has replayed from the dead letters: the dead letter's id."""
UNORDERED: Final = "headrace_unordered"
"""Header of a record that keeps no order with the others of its key, whatever its value. Without it, order is kept, so
that records of writers that do not know it are on the safe side."""
REPEATED: Final = "headrace_repeated"
"""Header of an attempt that may have been published before: whoever runs it looks up what has become of that."""
WEIGHT: Final = "headrace_weight"
"""Header of an attempt: its tenant's share of what is short, a whole number from 1 to `MOST_WEIGHT`. Without it, 1."""
MOST_WEIGHT: Final = 1_000
LANE_OF_CALL: Final = "X-Headrace-Lane"
"""HTTP header of a call of a node: `batch` for work that nobody waits for. Without it, interactive."""


def cloud_event(
    *,
    event_id: str,
    event_type: str,
    source: str,
    time_ms: int,
    tenant: str,
    subject: str | None = None,
    traceparent: str | None = None,
) -> Headers:
    """Headers of one event. `tenant` is an extension attribute, so that consumers can be fair without decoding."""
    stamp = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", stamp.encode()),
        ("ce_tenant", tenant.encode()),
        ("content-type", b"application/avro"),
    ]
    if subject is not None:
        headers.append(("ce_subject", subject.encode()))
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    return tuple(headers)


_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?")


def traceparent(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The W3C trace context, or None. What is malformed counts as missing: it would travel with all that follows."""
    found = header(headers, "traceparent")
    return found if found is not None and _TRACEPARENT.fullmatch(found) else None


def header(headers: Iterable[tuple[str, bytes | None]], name: str) -> str | None:
    """The last value of a header as text, or None."""
    found: bytes | None = None
    for key, value in headers:
        if key == name:
            found = value
    return None if found is None else found.decode("utf-8", "replace")


def weight_of(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """The weight of a record's tenant; 1 if it has none, or none that can be read."""
    told = header(headers, WEIGHT)
    # By the number of digits first: a long one would cost time, and Python refuses it.
    if told is None or not (told.isascii() and told.isdigit() and len(told) <= len(str(MOST_WEIGHT))):
        return 1
    return min(max(int(told), 1), MOST_WEIGHT)
