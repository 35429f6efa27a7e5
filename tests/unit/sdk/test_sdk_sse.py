"""The parser of server-sent events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from headrace.sse import EventParser, ParsedEvent
from hypothesis import given
from hypothesis import strategies as st


def _parse(*chunks: bytes, last_id: str = "") -> list[ParsedEvent]:
    parser = EventParser(last_id)
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_of_the_specification_ends_a_line(end: str) -> None:
    text = end.join(["event: delta", "id: 4:1", 'data: {"a": 1}', "", "data: x", "", "", ": more"])
    assert _parse(text.encode()) == [ParsedEvent("delta", '{"a": 1}', "4:1"), ParsedEvent("message", "x", "4:1")]


def test_data_lines_are_joined_and_one_blank_is_taken_off() -> None:
    assert _parse(b"data:a\ndata:  b\ndata\n\n") == [ParsedEvent("message", "a\n b\n", "")]


def test_comments_and_events_without_data_tell_nothing() -> None:
    assert _parse(b": heartbeat\n\nevent: delta\n\ndata: x\n\n") == [ParsedEvent("message", "x", "")]


def test_the_last_id_stands_until_another_comes() -> None:
    events = _parse(b"data: a\n\nid: 7\ndata: b\n\nid\ndata: c\n\n", last_id="3")
    assert [event.last_id for event in events] == ["3", "7", ""]


def test_a_byte_order_mark_is_no_part_of_the_first_field() -> None:
    assert _parse("\ufeffdata: x\n\n".encode()) == [ParsedEvent("message", "x", "")]


def test_retry_is_kept_when_it_is_a_number() -> None:
    parser = EventParser()
    assert list(parser.feed(b"retry: 1500\nretry: soon\n")) == []
    assert parser.retry_ms == 1500


_STREAM = (
    "event: delta\r\nid: 1\r\ndata: Zürich — 東京\r\n\r\ndata: second\n\nevent: finished\rdata: 🎉\r\r: end".encode()
)


@given(cuts=st.lists(st.integers(0, len(_STREAM)), max_size=12))
def test_how_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(_STREAM)]
    chunks = [_STREAM[begin:end] for begin, end in pairwise(places)]
    assert _parse(*chunks) == _parse(_STREAM)
    assert [event.data for event in _parse(_STREAM)] == ["Zürich — 東京", "second", "🎉"]
