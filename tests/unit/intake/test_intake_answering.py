"""The updates that APIs relay: they end with the task, or with the error that the caller is told in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from headrace_contracts.events import TaskStatus
from headrace_intake.adapters.answering import Update, Updates
from headrace_intake.decide.chat_answers import ChatError
from headrace_intake.decide.replies import Delta, Restarted
from headrace_intake.decide.views import TaskView
from headrace_intake.following import Said, TaskEnd
from headrace_streams.errors import TransientError

END = TaskEnd(TaskView(task_id="t", tenant="acme", submitted_at=1_000, status=TaskStatus.SUCCEEDED))
TEXT = Delta("a", 1)


class SaidStream:
    """A task that says all this, and then fails, or nothing more for ever, or ends."""

    def __init__(self, said: Sequence[Delta | Restarted | TaskEnd], then: Exception | str | None = None) -> None:
        self.closed = False
        self.read = 0
        self.stream = self._said(said, then)

    async def _said(
        self, said: Sequence[Delta | Restarted | TaskEnd], then: Exception | str | None
    ) -> AsyncGenerator[Said, None]:
        try:
            for what in said:
                self.read += 1
                yield Said(what, None)
            if isinstance(then, Exception):
                raise then
            if then == "silence":
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def collect(updates: Updates) -> list[Update | str]:
    """All updates; of an error its kind."""
    return [update.refusal.kind if isinstance(update, ChatError) else update async for update in updates]


async def test_the_end_of_the_task_is_the_last_update() -> None:
    source = SaidStream([TEXT, Restarted(2), END, TEXT])
    updates = Updates("t", source.stream, 5, {})
    assert await collect(updates) == [TEXT, Restarted(2), END]
    assert await collect(updates) == []
    assert source.read == 3
    await updates.aclose()
    assert source.closed


@pytest.mark.parametrize(
    ("then", "error"),
    [(TransientError("no leader"), "stream-broken"), ("silence", "answer-timeout"), (None, "answer-timeout")],
    ids=["broken", "silent", "ended"],
)
async def test_what_ends_a_stream_too_early_is_told_once(then: Exception | str | None, error: str) -> None:
    source = SaidStream([TEXT], then)
    updates = Updates("t", source.stream, 0.05, {})
    assert await collect(updates) == [TEXT, error]
    assert await collect(updates) == []
    await updates.aclose()


async def test_the_wait_begins_with_the_first_update_that_is_asked_for() -> None:
    updates = Updates("t", SaidStream([], "silence").stream, 0.1, {})
    assert await updates.early_end(0.05) is None
    began = asyncio.get_running_loop().time()
    assert await collect(updates) == ["answer-timeout"]
    assert asyncio.get_running_loop().time() - began >= 0.09
    await updates.aclose()


async def test_the_wait_is_for_the_end_and_not_for_each_update() -> None:
    async def endless() -> AsyncGenerator[Said, None]:
        while True:
            await asyncio.sleep(0.01)
            yield Said(TEXT, None)

    updates = Updates("t", endless(), 0.1, {})
    async with asyncio.timeout(30):
        assert (await collect(updates))[-1] == "answer-timeout"
    await updates.aclose()


async def test_an_early_end_is_known_before_it_is_iterated_over_and_is_still_the_first_update() -> None:
    ended = Updates("t", SaidStream([END]).stream, 5, {})
    assert await ended.early_end(5) is END.view
    assert await collect(ended) == [END]
    await ended.aclose()

    going = Updates("t", SaidStream([TEXT, END]).stream, 5, {})
    assert await going.early_end(5) is None
    assert await collect(going) == [TEXT, END]
    await going.aclose()


async def test_a_stream_that_cannot_be_read_is_an_error_while_there_can_be_a_status() -> None:
    source = SaidStream([], TransientError("no leader"))
    updates = Updates("t", source.stream, 5, {})
    with pytest.raises(TransientError):
        await updates.early_end(5)
    await updates.aclose()
    assert source.closed


async def test_it_can_be_closed_while_the_first_update_is_waited_for() -> None:
    source = SaidStream([], "silence")
    updates = Updates("t", source.stream, 5, {})
    assert await updates.early_end(0.01) is None
    await updates.aclose()
    assert source.closed
