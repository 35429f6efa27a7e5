"""Signing keys and signatures: what anybody can compute, and what nobody else can."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest
from headrace_contracts.producer_signature import SIGNATURE_HEADER, SigningKey, SigningKeyInvalid, parse_signature
from headrace_contracts.record_mac import framed
from hypothesis import given
from hypothesis import strategies as st

CLIENTS = Path(__file__).parents[3] / "docs" / "clients.md"
SECRET = "the secret of an installation"
_PART = st.none() | st.binary(max_size=40)
_IDS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=16, max_size=16)


@given(st.text(max_size=6), _PART, _PART)
def test_the_signature_can_be_computed_in_any_language(topic: str, key: bytes | None, value: bytes | None) -> None:
    code = hmac.new(SECRET.encode(), b"headrace signing key 1" + b"a" * 16, hashlib.sha256).hexdigest()
    signing_key = SigningKey.of(SECRET, "a" * 16)
    assert str(signing_key) == f"{'a' * 16}:{code}"
    parts = (topic.encode(), key, value)
    bytes_ = b"".join(
        (-1 if part is None else len(part)).to_bytes(8, "big", signed=True) + (part or b"") for part in parts
    )
    expected = hmac.new(code.encode(), bytes_, hashlib.sha256).hexdigest()
    assert signing_key.header(topic, key, value) == (SIGNATURE_HEADER, f"v1 {'a' * 16} {expected}".encode())
    assert bytes_ == framed(topic, key, value)


@given(st.tuples(st.text(max_size=6), _PART, _PART, _IDS), st.tuples(st.text(max_size=6), _PART, _PART, _IDS))
def test_different_records_and_keys_have_different_signatures(
    one: tuple[str, bytes | None, bytes | None, str], other: tuple[str, bytes | None, bytes | None, str]
) -> None:
    headers = [SigningKey.of(SECRET, key_id).header(topic, key, value) for topic, key, value, key_id in (one, other)]
    assert (headers[0] == headers[1]) == (one == other)


@given(_IDS)
def test_a_signing_key_survives_being_handed_out(key_id: str) -> None:
    signing_key = SigningKey.of(SECRET, key_id)
    assert SigningKey.parse(f" {signing_key}\n") == signing_key
    assert parse_signature(signing_key.header("t", None, b"v")[1]) == (key_id, signing_key._sign("t", None, b"v"))


@pytest.mark.parametrize(
    "text",
    ["", "a" * 16, f"{'a' * 16}:", f"{'a' * 15}:{'0' * 64}", f"{'a' * 16}:{'0' * 63}", f"{'A' * 16}:{'0' * 64}",
     f"{'a' * 16}:{'g' * 64}", f"hr_{'a' * 16}_{'a' * 48}"],
)  # fmt: skip
def test_what_is_no_signing_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(SigningKeyInvalid) as refused:
        SigningKey.parse(text)
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("value", [None, b"", b"v1", b"v1 " + b"a" * 16, b"v1 " + b"a" * 16 + b" " + b"0" * 65])
def test_what_is_no_signature_is_none(value: bytes | None) -> None:
    assert parse_signature(value) is None


def test_the_secret_part_is_not_shown() -> None:
    signing_key = SigningKey.of(SECRET, "a" * 16)
    assert signing_key.code not in repr(signing_key)


def test_the_example_in_the_documentation_is_right() -> None:
    text = CLIENTS.read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| (signing key|topic|key|value|signed bytes|header) \| `([^`]+)`", text, re.MULTILINE))
    signing_key = SigningKey.parse(found["signing key"])
    key, value = found["key"].encode(), bytes.fromhex(found["value"])
    assert framed(found["topic"], key, value).hex() == found["signed bytes"]
    name, signature = signing_key.header(found["topic"], key, value)
    assert f"{name}: {signature.decode()}" == found["header"]
