"""The offset map against a model that remembers everything: whatever happens, no commit passes unfinished work."""

from __future__ import annotations

from contextlib import suppress

import pytest
from headrace_streams.offsets import (
    METADATA_LIMIT,
    OffsetMetadataUnreadable,
    OffsetTracker,
    Range,
    decode,
    encode,
)
from headrace_streams.records import OffsetAndMetadata
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, list[Range]]:
    position = draw(st.integers(0, 2**62))
    found: list[Range] = []
    at = position
    for skip, run in draw(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), max_size=300)):
        found.append((at + skip, at + skip + run))
        at += skip + run
    return position, found


@settings(deadline=None)
@given(ranges())
def test_what_fits_comes_back_whole(case: tuple[int, list[Range]]) -> None:
    position, finished = case
    text = encode(position, finished, 100_000)
    assert list(decode(OffsetAndMetadata(position, text))) == finished
    assert text.isascii()
    assert text.isprintable()


@settings(deadline=None)
@given(ranges(), st.integers(20, METADATA_LIMIT))
def test_what_does_not_fit_keeps_its_lowest_ranges(case: tuple[int, list[Range]], limit: int) -> None:
    position, finished = case
    text = encode(position, finished, limit)
    assert len(text) <= limit
    kept = list(decode(OffsetAndMetadata(position, text)))
    assert kept == finished[: len(kept)]


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.integers(1, 40)),
        st.tuples(st.just("pass"), st.integers(1, 40)),
        st.tuples(st.just("gap"), st.integers(1, 300)),
        st.tuples(st.just("finish"), st.integers(0, 10_000)),
        st.tuples(st.just("take over"), st.just(0)),
    ),
    max_size=120,
)


class _Model:
    """The log, and who has done what, without any cleverness."""

    def __init__(self, start: int, limit: int) -> None:
        self.log: list[int] = []
        self.next_offset = start
        self.read = 0
        self.done: set[int] = set()
        self.open: list[int] = []
        self.limit = limit
        self.tracker = OffsetTracker(start, limit=limit)

    def receive(self) -> None:
        if self.read == len(self.log):
            self.log.append(self.next_offset)
            self.next_offset += 1
        offset = self.log[self.read]
        if not self.tracker.fits(offset):
            return
        self.read += 1
        if self.tracker.received(offset):
            self.open.append(offset)
        else:
            assert offset in self.done, "an unfinished record was skipped"

    def pass_over(self, count: int) -> None:
        """Do some records at once, as they come, where the tracker says that this may be."""
        while len(self.log) < self.read + count:
            self.log.append(self.next_offset)
            self.next_offset += 1
        ahead = self.log[self.read : self.read + count]
        if self.tracker.passes(ahead[0]):
            assert not self.open, "what is open stands before them"
            assert self.done.isdisjoint(ahead), "what is done already would be done again"
            self.tracker.pass_to(ahead[-1])
            self.done.update(ahead)
            self.read += count

    def finish(self, choice: int) -> None:
        if self.open:
            offset = self.open.pop(choice % len(self.open))
            self.tracker.finished(offset)
            self.done.add(offset)

    def take_over(self) -> None:
        """A new owner starts from what was committed; what was open is forgotten."""
        progress = self.checked_progress()
        self.tracker = OffsetTracker(progress.next_offset, decode(progress), limit=self.limit)
        self.open = []
        self.read = sum(1 for offset in self.log if offset < progress.next_offset)

    def checked_progress(self) -> OffsetAndMetadata:
        progress = self.tracker.committable()
        assert progress is not None
        assert len(progress.metadata) <= self.limit
        below = [offset for offset in self.log if offset < progress.next_offset]
        assert self.done.issuperset(below), "the commit passes unfinished work"
        named = {offset for start, end in decode(progress) for offset in range(start, end)}
        assert named <= self.done, "the map calls something finished that is not"
        return progress


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 1000), st.sampled_from([24, 40, 80, METADATA_LIMIT]))
def test_no_commit_passes_unfinished_work(steps: list[Step], start: int, limit: int) -> None:
    model = _Model(start, limit)
    for name, amount in steps:
        if name == "receive":
            for _ in range(amount):
                model.receive()
        elif name == "pass":
            model.pass_over(amount)
        elif name == "gap":
            model.next_offset += amount
        elif name == "finish":
            model.finish(amount)
        else:
            model.take_over()
        model.checked_progress()
    while model.open or model.read < len(model.log):
        model.finish(0)
        if model.read < len(model.log):
            model.receive()
    final = model.checked_progress()
    assert final.metadata == ""
    assert not model.log or final.next_offset == model.log[-1] + 1


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([40, 80, 200]))
def test_within_one_assignment_nothing_finished_is_ever_left_out(data: st.DataObject, limit: int) -> None:
    """`fits` promises room for the worst order of finishing; so the map is complete at every moment."""
    tracker = OffsetTracker(0, limit=limit)
    open_offsets: list[int] = []
    finished: set[int] = set()
    offset = 0
    for jump in data.draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 2, 50]), min_size=1, max_size=400)):
        if tracker.fits(offset):
            assert tracker.received(offset)
            open_offsets.append(offset)
            offset += jump
    order = data.draw(st.permutations(open_offsets))
    for done in order:
        tracker.finished(done)
        finished.add(done)
        progress = tracker.committable()
        assert progress is not None
        named = {one for start, end in decode(progress) for one in range(start, end)}
        assert named == {one for one in finished if one > progress.next_offset}


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(0, 100))
def test_foreign_metadata_is_refused_or_harmless(text: str, next_offset: int) -> None:
    try:
        found = decode(OffsetAndMetadata(next_offset, text))
    except OffsetMetadataUnreadable:
        return
    assert all(next_offset <= start < end for start, end in found) or found == ()


def test_metadata_of_another_position_is_refused() -> None:
    text = encode(10, [(12, 15)])
    with pytest.raises(OffsetMetadataUnreadable, match="belongs to offset 10"):
        decode(OffsetAndMetadata(11, text))


@settings(deadline=None)
@given(ranges().filter(lambda case: bool(case[1])), st.data())
def test_damaged_metadata_is_refused_or_says_the_same(case: tuple[int, list[Range]], data: st.DataObject) -> None:
    position, finished = case
    text = encode(position, finished, 100_000)
    index = data.draw(st.integers(0, len(text) - 1))
    damaged = data.draw(
        st.sampled_from([text[:index], text[:index] + "~" + text[index + 1 :], text + text[index]]).filter(
            lambda damaged: damaged not in ("", text)
        )
    )
    # Base 85 can spell the last bytes in more than one way.
    with suppress(OffsetMetadataUnreadable):
        assert list(decode(OffsetAndMetadata(position, damaged))) == finished


def test_a_log_that_begins_anew_below_the_committed_offset_is_read() -> None:
    tracker = OffsetTracker(500, [(502, 510)])
    assert tracker.received(3)
    assert not tracker.received(3)
    progress = tracker.committable()
    assert progress is not None
    assert progress == OffsetAndMetadata(3, "")
