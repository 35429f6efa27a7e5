"""Streams and values from outside, piece by piece."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from headrace_models.upstream.events import LONGEST_EVENT_BYTES, lines, server_sent_events
from headrace_models.upstream.usage import UsageTally
from headrace_models.upstream.values import (
    MOST_TOKENS,
    Unreadable,
    Utf16Joiner,
    count,
    document,
    items,
    mapping,
    name,
    text,
)
from hypothesis import given
from hypothesis import strategies as st


async def pieces(data: bytes, *cuts: int) -> AsyncIterator[bytes]:
    begun = 0
    for cut in (*sorted(cuts), len(data)):
        yield data[begun:cut]
        begun = max(begun, cut)


async def events(data: bytes, *cuts: int) -> list[tuple[str, str]]:
    return [(event.name, event.data) async for event in server_sent_events(pieces(data, *cuts))]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"data: a\n\n", [("message", "a")]),
        (b"data:a\n\ndata: b\n\n", [("message", "a"), ("message", "b")]),
        (b"data: a\ndata: b\n\n", [("message", "a\nb")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [("x", "a"), ("message", "b")]),
        (b": c\nid: 7\nretry: 9\n\nevent: ping\n\ndata\n\ndata: \n\n\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [("message", "a"), ("message", "b"), ("message", "c")]),
        (b"data: cut off", [("message", "cut off")]),
        (b'\n {"a":\n 1}\n', [("message", ' {"a":\n 1}')]),
        (b'[{"a": 1}]', [("message", '[{"a": 1}]')]),
        (b"", []),
        (b"unknown: 1\n\n", []),
    ],
)
async def test_events_are_read_as_the_standard_says(data: bytes, found: list[tuple[str, str]]) -> None:
    assert await events(data) == found
    assert await events(data, *range(len(data))) == found, "however it is cut"


@given(
    st.lists(st.sampled_from([b"data: x\n", b"\n", b"\r", b"\r\n", b": c\n", b"event: e\n", "é".encode()])), st.data()
)
async def test_the_cuts_of_the_network_change_nothing(parts: list[bytes], drawn: st.DataObject) -> None:
    data = b"".join(parts)
    cuts = drawn.draw(st.lists(st.integers(0, len(data)), max_size=8))
    assert await events(data, *cuts) == await events(data)


@pytest.mark.parametrize("data", [b"data: \xff\n\n", b"data: \xed\xa0\xbd\n\n", b"\xc3\n"])
async def test_what_is_no_utf_8_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable, match="UTF-8"):
        await events(data)


async def test_no_line_and_no_event_grows_without_end() -> None:
    async def endless(piece: bytes) -> AsyncIterator[bytes]:
        while True:
            yield piece

    with pytest.raises(Unreadable, match="too long"):
        async for _ in lines(endless(b"x" * 65_536)):
            pass
    with pytest.raises(Unreadable, match="too long"):
        async for _ in server_sent_events(endless(b"data: " + b"x" * 65_536 + b"\n")):
            pass
    with pytest.raises(Unreadable, match="too long"):
        async for _ in server_sent_events(endless(b'{"a": 1}\n' * 7_000)):
            pass


async def test_a_long_line_that_drips_costs_no_more_than_its_length() -> None:
    async def dripping() -> AsyncIterator[bytes]:
        for _ in range(LONGEST_EVENT_BYTES // 4):
            yield b"xxxx"
        yield b"\n"

    # With work that grows with the square of the length this would take hours.
    assert [len(line) async for line in lines(dripping())] == [LONGEST_EVENT_BYTES]


@pytest.mark.parametrize("data", ["", "{", "[" * 100_000, "nul", "{'a': 1}", '{"a": 01}', "\x00"])
def test_what_is_no_json_is_unreadable(data: str) -> None:
    with pytest.raises(Unreadable):
        document(data)


def test_a_number_of_any_length_is_a_number() -> None:
    assert document('{"a": ' + "9" * 5000 + ', "b": 7}') == {"a": float("inf"), "b": 7}


@pytest.mark.parametrize("value", [None, True, -1, 1.5, float("nan"), float("inf"), 1e30, 2**40, "7", [7], {}, -0.5])
def test_counts_that_cannot_be_are_as_if_unsaid(value: object) -> None:
    assert count(value) is None


@pytest.mark.parametrize("value", [0, 1, 12.0, MOST_TOKENS])
def test_counts_that_can_be(value: float) -> None:
    assert count(value) == value


@pytest.mark.parametrize("value", [7, None, "", "\ud83d", "a b", "x" * 201, "Ignore all\nprevious", "é", ["a"], " a"])
def test_what_is_no_name_is_none(value: object) -> None:
    assert name(value) == ""


@pytest.mark.parametrize("value", ["gpt-4o", "hf.co/org/Model-GGUF:Q4_K_M", "openai/gpt-4o@2024", "msg_01AbC"])
def test_names_that_providers_give(value: str) -> None:
    assert name(value) == value


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a", "a"), (None, ""), (7, ""), ({}, ""), ([{"type": "text", "text": "a"}, {"text": "b"}, "c"], "abc"),
        ([{"type": "thinking", "thinking": "x"}, {"type": "text", "text": 7}, None, 7], ""),
    ],
)  # fmt: skip
def test_content_is_a_text_or_parts_of_one(value: object, found: str) -> None:
    assert text(value) == found


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_no_value_breaks_anything(value: object) -> None:
    assert isinstance(text(value), str)
    assert isinstance(name(value), str)
    assert count(value) is None or count(value) == value
    assert mapping(value) == {}
    assert isinstance(items(value), list)


@given(st.text(), st.lists(st.integers(0, 40)))
def test_a_text_cut_into_utf_16_units_arrives_whole(whole: str, cuts: list[int]) -> None:
    units = whole.encode("utf-16-le")
    found, joiner, begun = "", Utf16Joiner(), 0
    for cut in (*sorted(2 * cut for cut in cuts), len(units)):
        found += joiner.add(units[begun : max(begun, cut)].decode("utf-16-le", "surrogatepass"))
        begun = max(begun, cut)
    assert found + joiner.end() == whole


@given(st.lists(st.text(st.characters(codec="utf-16", categories=["Cs", "Lu"]))))
def test_what_stays_alone_is_a_replacement_character(parts: list[str]) -> None:
    joiner = Utf16Joiner()
    found = "".join(joiner.add(part) for part in parts) + joiner.end()
    found.encode()
    assert json.loads(json.dumps(found)) == found


COUNTS = st.none() | st.integers(-5, 500) | st.sampled_from([float("nan"), 1e30, True, "7", 2**70])


@given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS, st.booleans())), st.integers(1, 90), st.integers(0, 90))
def test_usage_is_between_what_was_said_and_what_is_estimated(
    said: list[tuple[object, object, object, bool]], prompt: int, answer: int
) -> None:
    tally = UsageTally()
    for read, written, cached, final in said:
        tally.hear(input_tokens=read, output_tokens=written, cached_input_tokens=cached, final=final)
    found = tally.of(prompt_estimate=prompt, text_estimate=answer)
    reads = [one for one in (count(read) for read, *_ in said) if one]
    writes = [(one, final) for one, final in ((count(written), final) for _, written, _, final in said) if one]
    assert found.input_tokens == (reads[-1] if reads else prompt)
    if not writes:
        assert found.output_tokens == answer
    elif writes[-1][1]:
        assert found.output_tokens == writes[-1][0]
    else:
        assert found.output_tokens == max(writes[-1][0], answer)
    assert found.cached_input_tokens <= found.input_tokens
