"""API keys and rate limits: pure parts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from headrace_runtime.access import (
    KEY_RANDOM_BYTES,
    ApiKey,
    NotRecognised,
    Scope,
    hash_secret,
    make_key,
    parse_key,
    recognise,
)
from headrace_runtime.rate_limit import Bucket, take, used_up
from hypothesis import given
from hypothesis import strategies as st

PEPPER = "pepper-for-tests"


@dataclass(frozen=True)
class Stored:
    key_id: str
    tenant: str
    secret_hash: str
    scopes: list[str] = field(default_factory=lambda: ["tasks"])
    requests_per_minute: int | None = None
    revoked_at: int | None = None


def _stored(key: ApiKey) -> Stored:
    return Stored(key.key_id, "acme", hash_secret(PEPPER, key.secret))


@given(st.binary(min_size=KEY_RANDOM_BYTES, max_size=KEY_RANDOM_BYTES))
def test_a_made_key_parses_back_and_is_recognised(random_bytes: bytes) -> None:
    key = make_key(random_bytes)
    assert parse_key(str(key)) == key
    assert str(key).startswith(f"hr_{key.key_id}_")
    caller = recognise(str(key), {key.key_id: _stored(key)}, PEPPER, 0)
    assert (caller.tenant, caller.key_id, caller.scopes) == ("acme", key.key_id, frozenset({"tasks"}))


def test_the_number_of_random_bytes_is_checked() -> None:
    with pytest.raises(ValueError, match="40 random bytes"):
        make_key(b"short")


def test_a_key_does_not_show_its_secret_by_accident() -> None:
    key = make_key(bytes(range(KEY_RANDOM_BYTES)))
    assert key.secret not in repr(key)


@pytest.mark.parametrize("text", ["", "hr_", "hr_a_b", "sk-abc", "hr_" + "a" * 16 + "_" + "1" * 48, "hr_é_x"])
def test_what_is_not_a_key_is_not_parsed(text: str) -> None:
    assert parse_key(text) is None
    with pytest.raises(NotRecognised):
        recognise(text, {}, PEPPER, 0)


def test_unknown_wrong_revoked_and_foreign_keys_are_not_recognised() -> None:
    key = make_key(bytes(KEY_RANDOM_BYTES))
    wrong = ApiKey(key.key_id, key.secret[:-1] + "b")
    stored = _stored(key)
    for text, table, pepper in (
        (str(key), {}, PEPPER),
        (str(wrong), {key.key_id: stored}, PEPPER),
        (str(key), {key.key_id: stored}, "another-pepper"),
        (str(key), {key.key_id: replace(stored, revoked_at=1000)}, PEPPER),
    ):
        with pytest.raises(NotRecognised):
            recognise(text, table, pepper, 1000)
    assert recognise(str(key), {key.key_id: replace(stored, revoked_at=1001)}, PEPPER, 1000).tenant == "acme"


def test_scopes_limit_and_admin_has_them_all() -> None:
    key = make_key(bytes(KEY_RANDOM_BYTES))
    ordinary = recognise(str(key), {key.key_id: _stored(key)}, PEPPER, 0)
    assert ordinary.may(Scope.TASKS)
    assert not ordinary.may(Scope.COSTS)
    assert not ordinary.may(Scope.ADMIN)
    admin = recognise(str(key), {key.key_id: replace(_stored(key), scopes=["admin"])}, PEPPER, 0)
    assert all(admin.may(scope) for scope in Scope)


def test_the_hash_is_keyed_and_stable() -> None:
    assert hash_secret("p", "s") == hash_secret("p", "s")
    assert hash_secret("p", "s") != hash_secret("q", "s")
    assert len(hash_secret("p", "s")) == 64


def test_a_bucket_gives_its_burst_then_refuses_and_says_when() -> None:
    bucket: Bucket | None = None
    for remaining in (2, 1, 0):
        bucket, decision = take(bucket, 3, now=100.0)
        assert decision.allowed
        assert decision.remaining == remaining
    bucket, decision = take(bucket, 3, now=100.0)
    assert not decision.allowed
    assert decision.retry_after_seconds == 20
    assert decision.headers() == {
        "RateLimit-Policy": '"key";q=3;w=60',
        "RateLimit": '"key";r=0;t=60',
        "Retry-After": "20",
    }
    _, decision = take(bucket, 3, now=119.0)
    assert not decision.allowed
    _, decision = take(bucket, 3, now=120.0)
    assert decision.allowed
    assert "Retry-After" not in decision.headers()


@given(
    st.integers(1, 600),
    st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=200),
)
def test_no_window_ever_lets_through_more_than_burst_plus_rate(rate: int, gaps: list[float]) -> None:
    bucket: Bucket | None = None
    now, allowed = 0.0, 0
    for gap in gaps:
        now += gap
        bucket, decision = take(bucket, rate, now)
        allowed += decision.allowed
        if not decision.allowed:
            later = now + decision.retry_after_seconds
            assert take(bucket, rate, later)[1].allowed
    assert allowed <= rate + now * rate / 60 + 1e-6


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    bucket, _ = take(None, 1, now=100.0)
    assert not take(bucket, 1, now=10.0)[1].allowed


def test_a_rate_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        take(None, 0, 0.0)


def test_a_quota_without_a_window_is_told_by_what_it_counts() -> None:
    assert used_up("open-bytes", 1_000, "content-bytes", 7) == {
        "RateLimit-Policy": '"open-bytes";q=1000;qu="content-bytes"',
        "RateLimit": '"open-bytes";r=0;t=7',
        "Retry-After": "7",
    }
