"""Backoff before a model is retried."""

from __future__ import annotations

import hashlib

from headrace_router.decide.policy import Retry


def backoff(task_id: str, number: int, tries: int, retry: Retry) -> int:
    """Milliseconds before the attempt after attempt `number`, the `tries`th at its model.

    Doubles from `base` up to `cap`, with jitter between half of that and the whole, so that tasks that failed together
    do not retry together. The jitter follows from the ids: the same decision made again gives the same delay.
    """
    full = min(retry.cap, retry.base << min(tries - 1, 30))
    seed = hashlib.blake2b(f"{task_id}/{number}".encode(), digest_size=4).digest()
    share = int.from_bytes(seed, "big") / 0xFFFFFFFF
    return round(full * (0.5 + share / 2))
