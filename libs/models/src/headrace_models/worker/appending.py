"""Appends that are repeated until they are acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from headrace_streams.errors import AppendUncertain, Overloaded, TransientError
from headrace_streams.publishing import Publisher
from headrace_streams.records import ProducerRecord

_log = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0


async def append(publisher: Publisher, make: Callable[[], ProducerRecord], event_id: str) -> None:
    """Append until acknowledged. A repeat has the same event id, so that readers recognise it. Raises RecordRefused."""
    delay = _FIRST_DELAY_SECONDS
    while True:
        try:
            await publisher.send_record(make())
        except (TransientError, AppendUncertain, Overloaded) as error:
            _log.warning("%s could not be written yet, retrying: %s", event_id, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
        else:
            return
