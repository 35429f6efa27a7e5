"""Whether the producer of a record may speak for the tenant that the record names; see `producer_signature`.

verification = ProducerVerification(settings.key_pepper, settings.unsigned_submissions, keys, metrics, prefix, clock)
await verification.verify(record, event.tenant)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal

from headrace_contracts.producer_signature import SIGNATURE_HEADER, SigningKey, parse_signature
from headrace_contracts.record_mac import MAC_HEADER, RecordMac
from headrace_contracts.topics import TOPICS
from headrace_streams.records import Record
from pydantic import SecretStr

from headrace_runtime.access import KeyTable, Scope, is_revoked
from headrace_runtime.metrics import Metrics

UnsignedSubmissions = Literal["refuse", "accept"]

PATIENCE_SECONDS: Final = 2.0
"""How long a key that has just been created may take to get here."""

_LOOK_SECONDS: Final = 0.02
_MOST_UNKNOWN: Final = 10_000


class SignatureFlaw(StrEnum):
    """Why a record was not taken."""

    UNSIGNED = "unsigned"
    DOES_NOT_FIT = "signature does not fit"
    KEY_UNKNOWN = "key unknown"
    KEY_REVOKED = "key revoked"
    OTHER_TENANT = "key of another tenant"
    SCOPE_MISSING = "key lacks the scope"


class ProducerRefused(Exception):
    """The producer must sign the record with a key that may write it; as it is, it is never taken.

    Attributes:
        flaw: Why.
    """

    def __init__(self, flaw: SignatureFlaw, text: str) -> None:
        super().__init__(text)
        self.flaw = flaw


class KeyNotHereYet(Exception):
    """Check again after `ProducerVerification.key_settled`: the key was perhaps created a moment ago."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"key {key_id} is not in the table of keys yet")
        self.key_id = key_id


class ProducerVerification:
    """Tells records whose producer may speak for their tenant from others.

    A record is taken that a service of this installation has signed, or the holder of an API key of the tenant that has
    the topic's scope. Only a signature that fits makes anybody wait for its key, and only who was given that key can
    make one: no number of invented keys holds up a partition. A key that is still unknown after the wait is refused at
    once from then on.

    Args:
        secret: The installation's secret. Without it nothing can be told, and every record is taken.
        unsigned: Whether to take records that nobody has signed.
        keys: The table of API keys.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        secret: SecretStr | None,
        unsigned: UnsignedSubmissions,
        keys: KeyTable,
        metrics: Metrics,
        topic_prefix: str,
        clock: Callable[[], int],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._secret = None if secret is None else secret.get_secret_value()
        self._mac = RecordMac(self._secret or "")
        self._accepts_unsigned = unsigned == "accept"
        self._keys = keys
        self._clock = clock
        self._patience = patience_seconds
        self._scopes = {topic_prefix + spec.name: spec.scope for spec in TOPICS.values() if spec.scope is not None}
        # Loop times at which unknown keys were first met, oldest first.
        self._met_at: OrderedDict[str, float] = OrderedDict()
        self._counter = metrics.for_subsystem("log").counter(
            "refused_producers", "Records not taken, since their producer may not write them.", ("topic", "reason")
        )

    def check(self, record: Record, tenant: str) -> None:
        """Whether to take a record that names this tenant; records of topics without a scope are always taken.

        Raises ProducerRefused, KeyNotHereYet.
        """
        scope = self._scopes.get(record.topic)
        if self._secret is None or scope is None:
            return
        signatures = [(name, value) for name, value in record.headers if name in (MAC_HEADER, SIGNATURE_HEADER)]
        if not signatures:
            if self._accepts_unsigned:
                return
            raise ProducerRefused(
                SignatureFlaw.UNSIGNED,
                f"unsigned: send it with the header {SIGNATURE_HEADER}, made with the signing key of an API key of the "
                f"tenant that has the scope {scope}",
            )
        if len(signatures) > 1:
            raise ProducerRefused(
                SignatureFlaw.DOES_NOT_FIT,
                f"signature does not fit: there are {len(signatures)} headers {SIGNATURE_HEADER} or {MAC_HEADER}; send "
                "one",
            )
        name, value = signatures[0]
        if name == SIGNATURE_HEADER:
            self._check_key(self._signed_by(record, value), tenant, scope)
        elif not self._mac.fits(record.topic, record.key, record.value, record.headers):
            raise ProducerRefused(
                SignatureFlaw.DOES_NOT_FIT,
                f"signature does not fit: no service of this installation has made this {MAC_HEADER} for this topic, "
                f"key and value. Producers sign with {SIGNATURE_HEADER}; services need the same HEADRACE_KEY_PEPPER",
            )

    async def verify(self, record: Record, tenant: str) -> None:
        """`check`, after the wait for a key that was created a moment ago. Raises ProducerRefused."""
        while True:
            try:
                return self.check(record, tenant)
            except KeyNotHereYet as unknown:
                await self.key_settled(unknown.key_id)

    async def key_settled(self, key_id: str) -> None:
        """Returns when the key is known, or has been waited for long enough."""
        while self._keys.get(key_id) is None and self._may_still_come(key_id):  # noqa: ASYNC110 - tables tell nobody
            await asyncio.sleep(_LOOK_SECONDS)

    def count(self, record: Record, error: ProducerRefused) -> None:
        """Count a record that was not taken."""
        self._counter.labels(record.topic, error.flaw.value).inc()

    def _signed_by(self, record: Record, value: bytes | None) -> str:
        """Id of the key that has signed the record. Raises ProducerRefused."""
        signature = parse_signature(value)
        if signature is None:
            raise ProducerRefused(
                SignatureFlaw.DOES_NOT_FIT,
                f"signature does not fit: {SIGNATURE_HEADER} must read `v1 <key id> <64 hexadecimal digits>`",
            )
        key_id, code = signature
        assert self._secret is not None
        if not SigningKey.of(self._secret, key_id).fits(code, record.topic, record.key, record.value):
            raise ProducerRefused(
                SignatureFlaw.DOES_NOT_FIT,
                f"signature does not fit: key {key_id} has not signed this topic, key and value; sign the bytes that "
                "are sent, with the topic's whole name",
            )
        return key_id

    def _check_key(self, key_id: str, tenant: str, scope: str) -> None:
        key = self._keys.get(key_id)
        if key is None:
            if self._may_still_come(key_id):
                raise KeyNotHereYet(key_id)
            raise ProducerRefused(
                SignatureFlaw.KEY_UNKNOWN,
                f"key unknown: there is no key {key_id}; sign with one that `headrace keys list` shows",
            )
        if is_revoked(key, self._clock()):
            raise ProducerRefused(
                SignatureFlaw.KEY_REVOKED, f"key revoked: {key_id}; sign with another one of the tenant"
            )
        if key.tenant != tenant:
            raise ProducerRefused(
                SignatureFlaw.OTHER_TENANT,
                f"key of another tenant: {key_id}; name its tenant in the event, or sign with a key of that tenant",
            )
        if scope not in key.scopes and Scope.ADMIN not in key.scopes:
            raise ProducerRefused(
                SignatureFlaw.SCOPE_MISSING, f"key lacks the scope {scope}: {key_id}; sign with a key that has it"
            )

    def _may_still_come(self, key_id: str) -> bool:
        now = asyncio.get_running_loop().time()
        met_at = self._met_at.setdefault(key_id, now)
        while len(self._met_at) > _MOST_UNKNOWN:
            self._met_at.popitem(last=False)
        return now - met_at < self._patience
