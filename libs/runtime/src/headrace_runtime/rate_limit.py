"""A token bucket per key: bursts up to a minute's worth, then an even rate.

Pure: takes state and time, returns the decision and the new state. `RateLimiter` holds the buckets of one process, so
limits apply per process: behind N intakes a key can reach N times its rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

_MOST_BUCKETS: Final = 100_000
"""Beyond this number, the bucket unused for longest is dropped, which counts as full again."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens left at a moment (seconds on any monotonic clock)."""

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

    def headers(self) -> dict[str, str]:
        """`RateLimit-Policy` and `RateLimit` as structured fields (IETF httpapi draft), `Retry-After` on refusal."""
        told = {
            "RateLimit-Policy": f'"key";q={self.limit};w=60',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_seconds}',
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


def take(bucket: Bucket | None, requests_per_minute: int, now: float) -> tuple[Bucket, RateLimitDecision]:
    """Take one token from `bucket` (None: a full one) at `now`.

    Raises ValueError when `requests_per_minute` is not positive.
    """
    if requests_per_minute <= 0:
        raise ValueError("requests_per_minute must be positive; revoke a key that may do nothing")
    capacity = float(requests_per_minute)
    per_second = requests_per_minute / 60
    available = capacity if bucket is None else min(capacity, bucket.tokens + max(0.0, now - bucket.at) * per_second)
    allowed = available >= 1
    left = available - 1 if allowed else available
    decision = RateLimitDecision(
        allowed=allowed,
        limit=requests_per_minute,
        remaining=int(left),
        reset_seconds=math.ceil((capacity - left) / per_second),
        retry_after_seconds=0 if allowed else max(1, math.ceil((1 - left) / per_second)),
    )
    return Bucket(left, now), decision


class RateLimiter:
    """The buckets of one process, by key id."""

    def __init__(self, most_buckets: int = _MOST_BUCKETS) -> None:
        self._buckets: LRUCache[str, Bucket] = LRUCache(most_buckets)

    def take(self, key_id: str, requests_per_minute: int, now: float) -> RateLimitDecision:
        """One request of `key_id` at `now` (seconds on a monotonic clock)."""
        self._buckets[key_id], decision = take(self._buckets.get(key_id), requests_per_minute, now)
        return decision
