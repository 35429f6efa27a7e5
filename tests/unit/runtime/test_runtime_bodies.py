"""Bodies: content codings, and JSON that everybody reads in the same way."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import Any

import pytest
from headrace_runtime.bodies import DEEPEST, expect_utf8, parse_json, place_of, undo_coding
from headrace_runtime.problems import Problem
from headrace_testing.bad_bodies import BAD_BODIES
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 1_048_576
TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


def read(body: bytes, coding: str = "", charset: str | None = None) -> Any:
    expect_utf8(charset)
    return parse_json(undo_coding(body, coding, LIMIT))


@pytest.mark.parametrize("name", [name for name, bad in BAD_BODIES.items() if "Content-Type" not in bad.headers])
def test_a_bad_body_is_refused_with_what_is_wrong_and_where(name: str) -> None:
    bad = BAD_BODIES[name]
    with pytest.raises(Problem) as refused:
        read(bad.body, bad.headers.get("Content-Encoding", ""))
    assert (refused.value.status, refused.value.kind, refused.value.param) == (bad.status, bad.kind, bad.param)
    assert refused.value.detail.endswith(".")
    json.dumps(refused.value.to_openai(), ensure_ascii=False).encode()  # the refusal itself can be sent
    if bad.status == 415:
        assert refused.value.headers["Accept-Encoding"] == "gzip, deflate, identity"


@given(JSON)
def test_what_is_plain_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    escaped, plain = json.dumps(value).encode(), json.dumps(value, ensure_ascii=False, indent=1).encode()
    assert read(escaped) == read(plain) == read(b"\xef\xbb\xbf" + plain) == json.loads(plain)


@pytest.mark.parametrize("pair", ["\U0001f600", "\U00010000", "\U0010ffff"])
def test_a_pair_written_as_two_escapes_is_one_character(pair: str) -> None:
    written = json.dumps([pair, {pair: pair}])
    assert written.count("\\u") == 6
    assert read(written.encode()) == [pair, {pair: pair}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("-" + "9" * 308, -int("9" * 308)),
        ("1e-999999", 0.0),
        ("0." + "1" * 300, 1 / 9),
        ("123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_large_and_exact_numbers_stay_what_they_are(text: str, value: float) -> None:
    found = read(text.encode())
    assert type(found) is type(value)
    assert math.isclose(found, value, rel_tol=1e-15)


def test_the_deepest_body_is_read_and_one_level_more_is_not() -> None:
    assert read(b"[" * DEEPEST + b"]" * DEEPEST)
    with pytest.raises(Problem, match="too deeply"):
        read(b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1))


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("", b'{"a": 1}'),
        ("identity", b'{"a": 1}'),
        ("gzip", gzip.compress(b'{"a": 1}', mtime=0)),
        ("GZip ", gzip.compress(b'{"a": 1}', mtime=0)),
        ("x-gzip", gzip.compress(b'{"a": 1}', mtime=0)),
        ("gzip", gzip.compress(b'{"a"', mtime=0) + gzip.compress(b": 1}", mtime=0)),
        ("deflate", zlib.compress(b'{"a": 1}')),
        ("deflate", zlib.compress(b'{"a": 1}', wbits=-15)),
    ],
    ids=["empty", "identity", "gzip", "in capitals", "x-gzip", "two members", "zlib", "raw deflate"],
)
def test_codings_are_undone(coding: str, packed: bytes) -> None:
    assert read(packed, coding) == {"a": 1}


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_the_limit_holds_for_the_unpacked_body_to_the_byte(size: int, pack: Any) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    if size > LIMIT:
        with pytest.raises(Problem) as refused:
            undo_coding(pack(b" " * size), coding, LIMIT)
        assert (refused.value.status, refused.value.extra) == (413, {"limit_bytes": LIMIT})
    else:
        assert len(undo_coding(pack(b" " * size), coding, LIMIT)) == size


@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br"]))
def test_arbitrary_bytes_are_json_or_a_problem(body: bytes, coding: str) -> None:
    for sent in (body, gzip.compress(body, mtime=0)[: len(body)], zlib.compress(body)):
        try:
            read(sent, coding)
        except Problem as problem:
            assert problem.status in (400, 415)  # noqa: PT017 - both ends are right


@pytest.mark.parametrize("charset", [None, "utf-8", "UTF8", '"utf-8"', "US-ASCII", "utf_8"])
def test_utf8_has_several_names(charset: str | None) -> None:
    assert read(b"1", charset=charset) == 1


def test_a_path_in_an_error_is_short_and_printable() -> None:
    assert place_of(()) == "(body)"
    assert place_of(("messages", 0, "content")) == "messages.0.content"
    assert len(place_of(("x" * 100_000,))) < 100
    assert place_of(("a\n\ud83d",)) == r"a\n\ud83d"
