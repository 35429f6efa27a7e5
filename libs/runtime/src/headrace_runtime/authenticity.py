"""Which signed records, and which replies, a service takes; see `headrace_contracts.record_mac` and `.reply_tokens`.

authenticity = Authenticity(settings.key_pepper, settings.unsigned_records, metrics)
keys = Table(..., admits=authenticity.admits)
"""

from __future__ import annotations

import time
from typing import Final, Literal

from headrace_contracts.record_mac import MAC_HEADER, RecordMac
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_streams.records import Record
from pydantic import SecretStr

from headrace_runtime.logging import get_logger
from headrace_runtime.metrics import Metrics

UnsignedRecords = Literal["refuse", "accept"]

_SAY_AGAIN_SECONDS: Final = 10.0

_log = get_logger("headrace.runtime.authenticity")


class Authenticity:
    """Tells records of our own services from others.

    Args:
        secret: The installation's secret. Without it nothing can be told, and every record is taken.
        unsigned: Whether to take records without a code: those of releases that wrote none.
    """

    def __init__(self, secret: SecretStr | None, unsigned: UnsignedRecords, metrics: Metrics) -> None:
        self.mac = RecordMac(secret.get_secret_value()) if secret is not None else None
        self.reply_tokens = ReplyTokens(secret.get_secret_value()) if secret is not None else None
        self.accepts_unsigned = unsigned == "accept"
        self._counter = metrics.for_subsystem("log").counter(
            "forged_records", "Signed records and replies that no service of this installation has written.", ("topic",)
        )
        self._said_at: dict[str, float] = {}

    def admits(self, record: Record) -> bool:
        """Whether to take a record of a signed topic; one that is not taken is counted, and told now and then."""
        if self.mac is None:
            return True
        if self.accepts_unsigned and all(name != MAC_HEADER for name, _ in record.headers):
            return True
        if self.mac.fits(record.topic, record.key, record.value, record.headers):
            return True
        self.tell(record)
        return False

    def tell(self, record: Record) -> None:
        """Count a record that is not taken, and tell of it now and then."""
        self._counter.labels(record.topic).inc()
        now = time.monotonic()
        # There may be any number of them.
        if now - self._said_at.get(record.topic, -_SAY_AGAIN_SECONDS) >= _SAY_AGAIN_SECONDS:
            self._said_at[record.topic] = now
            _log.error(
                "ignored a record that no service of this installation has signed: somebody else can write to the "
                "topic, or HEADRACE_KEY_PEPPER differs between services, or one has none",
                record=f"{record.topic_partition}@{record.offset}",
            )
