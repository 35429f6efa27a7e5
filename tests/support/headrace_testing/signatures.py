"""Records signed rightly and wrongly, for the services that verify who has written them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace_contracts.events import AccessKey
from headrace_contracts.producer_signature import SIGNATURE_HEADER, SigningKey
from headrace_contracts.record_mac import MAC_HEADER, RecordMac
from headrace_contracts.topics import TOPICS
from headrace_runtime.metrics import Metrics
from headrace_runtime.producers import ProducerVerification, SignatureFlaw
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

SECRET = "a secret for tests of signatures"
MAC = RecordMac(SECRET)

MINE, OTHERS, REVOKED, COSTS, ADMIN, RETIRING, NEW = (letter * 16 for letter in "abcdefg")

Headers = list[tuple[str, bytes]]
Signing = Callable[[str, bytes | None, bytes | None], Headers]


def access_key(key_id: str, tenant: str = "acme", *scopes: str, revoked_at: int | None = None) -> AccessKey:
    return AccessKey(
        key_id=key_id, tenant=tenant, secret_hash="0" * 64, scopes=scopes or ("tasks", "skills"), created_at=0,
        revoked_at=revoked_at,
    )  # fmt: skip


def keys() -> dict[str, AccessKey]:
    """The keys of an installation: tenant acme's, and one of mallory's."""
    return {
        MINE: access_key(MINE),
        OTHERS: access_key(OTHERS, "mallory"),
        REVOKED: access_key(REVOKED, revoked_at=1),
        COSTS: access_key(COSTS, "acme", "costs", "preferences"),
        ADMIN: access_key(ADMIN, "acme", "admin"),
        RETIRING: access_key(RETIRING, revoked_at=2**53),
    }


def verification(
    known: Mapping[str, AccessKey], unsigned: Any = "refuse", *, secret: str | None = SECRET, prefix: str = "headrace.",
    patience_seconds: float = 0.2,
) -> ProducerVerification:  # fmt: skip
    """A verification with a short wait for new keys."""
    return ProducerVerification(
        None if secret is None else SecretStr(secret),
        unsigned,
        known,
        Metrics("test", CollectorRegistry()),
        prefix,
        lambda: time.time_ns() // 1_000_000,
        patience_seconds=patience_seconds,
    )


def signed(key_id: str) -> Signing:
    """As the holder of this key signs."""
    return signed_with(SigningKey.of(SECRET, key_id))


def signed_with(signing_key: SigningKey) -> Signing:
    """As the holder of this signing key signs."""
    return lambda topic, key, value: [signing_key.header(topic, key, value)]


def _raw(text: str) -> Signing:
    return lambda topic, key, value: [(SIGNATURE_HEADER, text.encode())]


TAKEN: Mapping[str, Signing] = {
    "signed": signed(MINE),
    "signed by an admin of the tenant": signed(ADMIN),
    "key to be revoked later": signed(RETIRING),
    "our own service's": lambda topic, key, value: [MAC.header(topic, key, value)],
}


@dataclass(frozen=True, slots=True)
class Forgery:
    """A record that is not to be taken, and why not."""

    headers: Signing
    flaw: SignatureFlaw


_MISFIT = SignatureFlaw.DOES_NOT_FIT
_SUBMISSIONS = tuple(spec.name for spec in TOPICS.values() if spec.scope is not None)


def forgeries(*, mine: SigningKey, others: SigningKey, revoked: SigningKey, costs: SigningKey) -> dict[str, Forgery]:
    """Every way in which a record that names the tenant of `mine` is not to be taken.

    Args:
        mine: Of the tenant.
        others: Of another one.
        revoked: Of the tenant, and revoked.
        costs: Of the tenant, without the scopes of submissions.
    """

    def as_sent(changed: Signing) -> Forgery:
        return Forgery(changed, _MISFIT)

    return {
        "no header": Forgery(lambda topic, key, value: [], SignatureFlaw.UNSIGNED),
        "another tenant's key": Forgery(signed_with(others), SignatureFlaw.OTHER_TENANT),
        "revoked key": Forgery(signed_with(revoked), SignatureFlaw.KEY_REVOKED),
        "scope missing": Forgery(signed_with(costs), SignatureFlaw.SCOPE_MISSING),
        "another topic": as_sent(lambda topic, key, value: [mine.header(topic + ".other", key, value)]),
        "another topic of submissions": as_sent(lambda topic, key, value: [mine.header(_other(topic), key, value)]),
        "topic without its prefix": as_sent(
            lambda topic, key, value: [mine.header(topic.split(".", 1)[1], key, value)]
        ),
        "changed value": as_sent(lambda topic, key, value: [mine.header(topic, key, (value or b"") + b"x")]),
        "another record key": as_sent(lambda topic, key, value: [mine.header(topic, b"other", value)]),
        "two signatures": as_sent(lambda topic, key, value: [mine.header(topic, key, value)] * 2),
        "signatures of two keys": as_sent(
            lambda topic, key, value: [others.header(topic, key, value), mine.header(topic, key, value)]
        ),
        "a good signature and a bad code": as_sent(
            lambda topic, key, value: [mine.header(topic, key, value), (MAC_HEADER, b"0" * 64)]
        ),
        "another installation's key": as_sent(signed_with(SigningKey.of("another secret", mine.key_id))),
        "one's own key under another's id": as_sent(signed_with(SigningKey(mine.key_id, others.code))),
        "another installation's code": as_sent(
            lambda topic, key, value: [RecordMac("another secret").header(topic, key, value)]
        ),
        "empty": as_sent(_raw("")),
        "no code": as_sent(_raw(f"v1 {mine.key_id}")),
        "another version": as_sent(_raw(f"v2 {mine.key_id} {'0' * 64}")),
        "odd key id": as_sent(_raw(f"v1 ../../etc/passwd {'0' * 64}")),
    }


def _other(topic: str) -> str:
    """Another topic that takes submissions, with the same prefix."""
    for name in _SUBMISSIONS:
        if topic.endswith(name):
            return topic.removesuffix(name) + next(other for other in _SUBMISSIONS if other != name)
    return topic


FORGERIES: Mapping[str, Forgery] = {
    **forgeries(
        mine=SigningKey.of(SECRET, MINE),
        others=SigningKey.of(SECRET, OTHERS),
        revoked=SigningKey.of(SECRET, REVOKED),
        costs=SigningKey.of(SECRET, COSTS),
    ),
    "unknown key": Forgery(signed("z" * 16), SignatureFlaw.KEY_UNKNOWN),
}
