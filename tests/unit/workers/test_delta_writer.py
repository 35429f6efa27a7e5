"""Pieces of an answer: at once when they come slowly, together when they come fast."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts import events, topics
from headrace_contracts.content import text_of
from headrace_models.answer import PieceKind, SpokenPiece
from headrace_models.worker.deltas import DeltaWriter
from headrace_streams.errors import Overloaded
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata
from headrace_testing.workers import WorkerBench, attempt, now_ms


@pytest.fixture
async def bench() -> WorkerBench:
    made = WorkerBench()
    await made.prepare()
    return made


def writer(bench: WorkerBench, interval_seconds: float, publisher: Publisher | None = None) -> DeltaWriter:
    return DeltaWriter(
        publisher or bench.publisher,
        attempt(stream=True, reply_partition=0),
        "execution-1",
        clock_ms=now_ms,
        interval_seconds=interval_seconds,
        traceparent=None,
    )


def texts(bench: WorkerBench) -> list[str]:
    replies: list[events.TaskReply] = bench.read(topics.TASKS_REPLIES)
    assert [reply.sequence for reply in replies] == list(range(len(replies)))
    return [text_of(reply.text) for reply in replies if reply.text is not None]


async def test_the_first_piece_goes_at_once_and_fast_ones_go_together(bench: WorkerBench) -> None:
    deltas = writer(bench, 0.15)
    for piece in "abcd":
        deltas.write(piece)
    await asyncio.sleep(0.01)
    assert texts(bench) == ["a"]
    await asyncio.sleep(0.35)
    assert texts(bench) == ["a", "bcd"]
    deltas.write("e")
    await asyncio.sleep(0.005)
    assert texts(bench) == ["a", "bcd", "e"], "a slow piece waits for nothing"
    await deltas.close()


async def test_closing_writes_what_waits_and_returns_when_it_is_on_disk(bench: WorkerBench) -> None:
    deltas = writer(bench, 60.0)
    deltas.write("a")
    deltas.write("b")
    deltas.write("c")
    await deltas.close()
    assert texts(bench) == ["a", "bc"]


class _Flaky(Publisher):
    """Refuses the first sends, or fails them later."""

    def __init__(self, bench: WorkerBench, refusals: int = 0, failures: int = 0) -> None:
        super().__init__(bench.producer, bench.codec, "test")
        self.refusals = refusals
        self.failures = failures

    def send(self, publication: Publication) -> asyncio.Future[RecordMetadata]:
        if self.refusals:
            self.refusals -= 1
            raise Overloaded("the queue is full")
        if self.failures:
            self.failures -= 1
            failed: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
            failed.set_exception(Overloaded("given up"))
            return failed
        return super().send(publication)


async def test_a_full_queue_loses_nothing(bench: WorkerBench) -> None:
    deltas = writer(bench, 0.005, _Flaky(bench, refusals=2))
    deltas.write("a")
    deltas.write("b")
    await asyncio.sleep(0.05)
    await deltas.close()
    assert texts(bench) == ["ab"]


async def test_after_a_lost_piece_nothing_more_is_streamed(bench: WorkerBench) -> None:
    deltas = writer(bench, 0.0, _Flaky(bench, failures=1))
    deltas.write("a")
    await asyncio.sleep(0)
    deltas.write("b")
    await deltas.close()
    assert texts(bench) == []


@pytest.mark.parametrize("spoken", ["rtc", "trc", "rtrtc", "ctr", "crtcrt", "rrttcc", "tctc"])
async def test_thoughts_text_and_calls_are_read_in_the_order_in_which_they_came(
    bench: WorkerBench, spoken: str
) -> None:
    deltas = writer(bench, 60.0)
    for number, kind in enumerate(spoken):
        if kind == "t":
            deltas.write(f"{kind}{number} ")
        else:
            name: PieceKind = "reasoning" if kind == "r" else "tool_call"
            deltas.write_piece(SpokenPiece(name, f"{kind}{number} ", part=number))
    await deltas.close()
    heard = ""
    replies: list[events.TaskReply] = bench.read(topics.TASKS_REPLIES)
    for reply in replies:
        thoughts = [piece for piece in reply.pieces if piece.kind is events.PartKind.REASONING]
        others = [piece for piece in reply.pieces if piece.kind is not events.PartKind.REASONING]
        said = [*(piece.content for piece in thoughts), reply.text, *(piece.content for piece in others)]
        heard += "".join(text_of(content) for content in said if content is not None)
    assert heard.split() == [f"{kind}{number}" for number, kind in enumerate(spoken)]
