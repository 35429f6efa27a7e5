"""Codes of records: they fit the record that they were made for, and nothing else."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from headrace_contracts.record_mac import MAC_HEADER, RecordMac
from hypothesis import given
from hypothesis import strategies as st

MAC = RecordMac("the secret of an installation")
_PART = st.none() | st.binary(max_size=40)


@given(st.text(min_size=1, max_size=20), _PART, _PART)
def test_a_record_fits_its_own_code(topic: str, key: bytes | None, value: bytes | None) -> None:
    headers = [("ce_id", b"x"), (MAC_HEADER, MAC.of(topic, key, value))]
    assert MAC.fits(topic, key, value, headers)


@given(st.tuples(st.text(max_size=6), _PART, _PART), st.tuples(st.text(max_size=6), _PART, _PART))
def test_different_records_have_different_codes(
    one: tuple[str, bytes | None, bytes | None], other: tuple[str, bytes | None, bytes | None]
) -> None:
    assert (MAC.of(*one) == MAC.of(*other)) == (one == other)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(MAC_HEADER, None)],
        [(MAC_HEADER, b"")],
        [(MAC_HEADER, MAC.of("t", b"k", b"other"))],
        [(MAC_HEADER, RecordMac("another secret").of("t", b"k", b"v"))],
        [(MAC_HEADER, MAC.of("t", b"k", b"v"))] * 2,
        [(MAC_HEADER, MAC.of("t", b"k", b"v").upper())],
        [("Headrace_Mac", MAC.of("t", b"k", b"v"))],
    ],
    ids=["none", "null", "empty", "another value's", "another secret's", "two", "spelt otherwise", "another header"],
)
def test_other_codes_do_not_fit(headers: list[tuple[str, bytes | None]]) -> None:
    assert not MAC.fits("t", b"k", b"v", headers)


def test_the_code_can_be_computed_by_anybody_who_has_the_secret() -> None:
    key = hmac.new(b"the secret of an installation", b"headrace record mac 1", hashlib.sha256).digest()
    framed = (1).to_bytes(8, "big") + b"t" + (1).to_bytes(8, "big") + b"k" + (-1).to_bytes(8, "big", signed=True)
    assert MAC.of("t", b"k", None) == hmac.new(key, framed, hashlib.sha256).hexdigest().encode()


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(MAC)
