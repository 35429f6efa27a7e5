"""Signs what an earlier release has written without a code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headrace_contracts.events import AccessKey, Preferences
from headrace_contracts.ids import new_id
from headrace_contracts.topics import ACCESS_KEYS, PREFERENCES
from headrace_runtime.logging import get_logger
from headrace_streams.publishing import Publication

from headrace_intake.adapters.writing import Writer

_log = get_logger("headrace.intake.signing")


async def sign_all(
    keys: Mapping[str, AccessKey], preferences: Mapping[str, Preferences], writer: Writer, clock: Callable[[], int]
) -> None:
    """Write all keys and preferences once more, as they are; the writer signs them.

    Raises NotWritten, WriteUncertain, NeverWritable: do it again, repeats are harmless.
    """
    rows = [(ACCESS_KEYS, name, key) for name, key in keys.items()]
    rows += [(PREFERENCES, name, each) for name, each in preferences.items()]  # type: ignore[misc]
    for spec, name, event in rows:
        await writer.write(
            Publication(
                spec=spec,
                event=event,
                event_id=new_id(),
                key=name.encode(),
                tenant=event.tenant,
                time_ms=clock(),
                subject=name,
            )
        )
    if rows:
        _log.info("signed the records of an earlier release", keys=len(keys), preferences=len(preferences))
