"""Token buckets of keys and tenants: bursts up to a minute's worth, then an even rate.

Pure: takes state and time, returns the decision and the new state. `RequestRates` holds the buckets of one process.

Several processes of a service take from a bucket of the same key each, and tell each other once a second what they let
through (`shared_rates`), which the others take off theirs. So N processes together let through what one would, and at
most what N - 1 of them let through before the others hear of it: with reports D seconds old, in T seconds
`rate * (1 min + T) + (N - 1) * min(rate * (1 min + D), what is asked within D)` requests. It is owed, not forgiven: the
average over a longer time is the rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cachetools import LRUCache

_MOST_BUCKETS: Final = 100_000
"""Beyond this number, the bucket unused for longest is dropped, which counts as full again."""
_BURSTS_OWED: Final = 2
"""For each other process, a bucket owes no more than so many full ones: a burst, and the rate of a minute unheard."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens left at a moment (seconds on any monotonic clock); below 0 what others took beyond them."""

    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class RateLimitDecision:
    """Whether the request is allowed, and what to report to its caller."""

    allowed: bool
    limit: int
    """Requests per minute."""
    remaining: int
    reset_seconds: int
    """Seconds until the bucket is full again."""
    retry_after_seconds: int
    """0 if allowed; else whole seconds until the next request can succeed."""
    policy: str = "key"
    """Whose rate it is: "key" or "tenant"."""

    def headers(self) -> dict[str, str]:
        """`RateLimit-Policy` and `RateLimit` as structured fields (IETF httpapi draft), `Retry-After` on refusal."""
        told = {
            "RateLimit-Policy": f'"{self.policy}";q={self.limit};w=60',
            "RateLimit": f'"{self.policy}";r={self.remaining};t={self.reset_seconds}',
        }
        if not self.allowed:
            told["Retry-After"] = str(self.retry_after_seconds)
        return told


def used_up(policy: str, quota: int, unit: str, seconds: int) -> dict[str, str]:
    """`RateLimit-Policy`, `RateLimit` and `Retry-After` of a refusal because a quota without a time window is used up.

    Args:
        policy: Name of the quota.
        unit: What it counts: "concurrent-requests", "content-bytes" or "requests", as the IETF draft names them.
        seconds: Whole seconds until a request can succeed, as far as known; at least 1.
    """
    return {
        "RateLimit-Policy": f'"{policy}";q={quota};qu="{unit}"',
        "RateLimit": f'"{policy}";r=0;t={seconds}',
        "Retry-After": str(seconds),
    }


def take(
    bucket: Bucket | None, requests_per_minute: int, now: float, policy: str = "key"
) -> tuple[Bucket, RateLimitDecision]:
    """Take one token from `bucket` (None: a full one) at `now`; `policy` says whose it is.

    Raises ValueError when `requests_per_minute` is not positive.
    """
    if requests_per_minute <= 0:
        raise ValueError("requests_per_minute must be positive; revoke a key that may do nothing")
    capacity = float(requests_per_minute)
    per_second = requests_per_minute / 60
    available = _available(bucket, requests_per_minute, now)
    allowed = available >= 1
    left = available - 1 if allowed else available
    decision = RateLimitDecision(
        allowed=allowed,
        limit=requests_per_minute,
        remaining=max(int(left), 0),
        reset_seconds=math.ceil((capacity - left) / per_second),
        retry_after_seconds=0 if allowed else max(1, math.ceil((1 - left) / per_second)),
        policy=policy,
    )
    return Bucket(left, now), decision


def taken_elsewhere(
    bucket: Bucket | None, requests_per_minute: int, count: int, *, age_seconds: float, others: int, now: float
) -> Bucket:
    """The bucket (None: a full one) at `now`, after other processes took `count` tokens, `age_seconds` ago at the most.

    Args:
        others: How many other processes there are. More than they can have let through unheard is not believed.
    """
    capacity = float(requests_per_minute)
    if bucket is None:
        # Nothing was taken here, so that it has filled up since.
        count = max(count - int(age_seconds * requests_per_minute / 60), 0)
    tokens = _available(bucket, requests_per_minute, now) - min(count, _BURSTS_OWED * requests_per_minute)
    return Bucket(max(tokens, -_BURSTS_OWED * capacity * others), now)


def _available(bucket: Bucket | None, requests_per_minute: int, now: float) -> float:
    capacity = float(requests_per_minute)
    if bucket is None:
        return capacity
    return min(capacity, bucket.tokens + max(0.0, now - bucket.at) * requests_per_minute / 60)


class RatedKey(Protocol):
    """What is known of an API key whose requests are limited; a `Caller` is one, and an `AccessKey`."""

    @property
    def key_id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def requests_per_minute(self) -> int | None: ...


class RequestRates:
    """The buckets of one process: of keys, and of tenants for all their keys together.

    Args:
        key_rate: Requests per minute of a key that has no rate of its own; None for no limit.
        tenant_rate: Of a tenant; None for no limit.
    """

    def __init__(
        self,
        key_rate: int | None = None,
        tenant_rate: Callable[[str], int | None] = lambda tenant: None,
        *,
        most_buckets: int = _MOST_BUCKETS,
    ) -> None:
        self._key_rate = key_rate
        self._tenant_rate = tenant_rate
        self._buckets: LRUCache[tuple[str, str], Bucket] = LRUCache(most_buckets)
        self._let_through: dict[str, int] = {}

    def take(self, key: RatedKey, now: float) -> RateLimitDecision | None:
        """One request at `now` (seconds on a monotonic clock): the stricter of the two decisions, None without limits.

        A request that one of them refuses takes nothing from the other.
        """
        taken = {name: take(self._buckets.get(name), rate, now, name[0]) for name, rate in self._rates_of(key)}
        if not taken:
            return None
        decisions = [decision for _, decision in taken.values()]
        if all(decision.allowed for decision in decisions):
            for name, (bucket, _) in taken.items():
                self._buckets[name] = bucket
            self._let_through[key.key_id] = self._let_through.get(key.key_id, 0) + 1
            return min(decisions, key=lambda decision: decision.remaining)
        refused = [decision for decision in decisions if not decision.allowed]
        return max(refused, key=lambda decision: decision.retry_after_seconds)

    def taken_elsewhere(self, key: RatedKey, count: int, *, age_seconds: float, others: int, now: float) -> None:
        """Another process let through `count` requests; see `taken_elsewhere`."""
        for name, rate in self._rates_of(key):
            self._buckets[name] = taken_elsewhere(
                self._buckets.get(name), rate, count, age_seconds=age_seconds, others=others, now=now
            )

    def newly_let_through(self, most: int) -> dict[str, int]:
        """How many requests of each key were let through here since they were last told; the `most` busiest keys first,
        the others with the next call."""
        busiest = sorted(self._let_through, key=self._let_through.__getitem__, reverse=True)[:most]
        return {key_id: self._let_through.pop(key_id) for key_id in busiest}

    def _rates_of(self, key: RatedKey) -> list[tuple[tuple[str, str], int]]:
        rates = [
            (("key", key.key_id), key.requests_per_minute or self._key_rate),
            (("tenant", key.tenant), self._tenant_rate(key.tenant)),
        ]
        return [(name, rate) for name, rate in rates if rate is not None]
