"""Tokens of replies: each is of one attempt, or of the router for one task, of one tenant and one installation."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from headrace_contracts.reply_tokens import TOKEN_BYTES, ReplyTokens
from hypothesis import given
from hypothesis import strategies as st

SECRET = "the secret of an installation"
TOKENS = ReplyTokens(SECRET)
_NAME = st.text(alphabet="ab/1", max_size=5)


@pytest.mark.parametrize(("tenant", "task_id", "number"), [("acme", "0197", 1), ("bolt-2", "a task", 12), ("", "t", 3)])
def test_tokens_are_made_as_documented(tenant: str, task_id: str, number: int) -> None:
    def made(purpose: bytes, name: str) -> bytes:
        key = hmac.new(SECRET.encode(), purpose, hashlib.sha256).digest()
        said = len(tenant.encode()).to_bytes(8, "big") + tenant.encode() + name.encode()
        return hmac.new(key, said, hashlib.sha256).digest()[:16]

    assert TOKENS.of_attempt(tenant, task_id, number) == made(
        b"headrace reply token of an attempt 1", f"{task_id}/{number}"
    )
    assert TOKENS.of_router(tenant, task_id) == made(b"headrace reply token of a router 1", task_id)
    assert len(TOKENS.of_router(tenant, task_id)) == TOKEN_BYTES


@given(st.tuples(_NAME, _NAME, st.integers(1, 12)), st.tuples(_NAME, _NAME, st.integers(1, 12)))
def test_no_two_attempts_share_a_token(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    assert (TOKENS.of_attempt(*one) == TOKENS.of_attempt(*other)) == (one == other)
    assert (TOKENS.of_router(*one[:2]) == TOKENS.of_router(*other[:2])) == (one[:2] == other[:2])


@given(_NAME, _NAME, st.integers(1, 12))
def test_the_token_of_an_attempt_is_never_the_routers(tenant: str, task_id: str, number: int) -> None:
    given_away = TOKENS.of_attempt(tenant, task_id, number)
    assert given_away not in (TOKENS.of_router(tenant, task_id), TOKENS.of_router(tenant, f"{task_id}/{number}"))


@pytest.mark.parametrize("secret", ["another secret", SECRET + " ", SECRET.upper()])
def test_another_installation_has_other_tokens(secret: str) -> None:
    assert ReplyTokens(secret).of_attempt("acme", "t", 1) != TOKENS.of_attempt("acme", "t", 1)
    assert ReplyTokens(secret).of_router("acme", "t") != TOKENS.of_router("acme", "t")


def test_neither_secret_nor_key_shows_in_logs() -> None:
    assert SECRET not in repr(TOKENS)
