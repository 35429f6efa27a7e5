"""Streams pieces of an answer to the waiting caller: at once when they come slowly, batched when they come fast."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from headrace_contracts.content import plain
from headrace_contracts.events import AttemptRequested, ReplyKind, TaskReply
from headrace_contracts.topics import TASKS_REPLIES
from headrace_streams.errors import Overloaded, StreamsError
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata

from headrace_models.answer import SpokenPiece
from headrace_models.worker.answers import piece_of

_log = logging.getLogger(__name__)


class DeltaWriter:
    """Writes the pieces of one execution to the waiting caller's partition.

    A piece is sent at once unless the one before it was sent less than `interval_seconds` ago; then it waits for the
    rest of that time, and is sent together with those that follow meanwhile.
    """

    def __init__(
        self,
        publisher: Publisher,
        request: AttemptRequested,
        execution_id: str,
        *,
        clock_ms: Callable[[], int],
        interval_seconds: float,
        traceparent: str | None,
    ) -> None:
        self._publisher = publisher
        self._request = request
        self._execution_id = execution_id
        self._clock_ms = clock_ms
        self._interval = interval_seconds
        self._traceparent = traceparent
        self._loop = asyncio.get_running_loop()
        self._waiting: list[str] = []
        self._pieces: list[SpokenPiece] = []
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sequence = 0
        self._pending_appends: set[asyncio.Future[RecordMetadata]] = set()
        self._broken = False

    def restart(self) -> None:
        """Announce that another attempt begins, so that readers discard the text of an earlier one."""
        self._send(ReplyKind.RESTARTED, "restarted", "")

    def write(self, piece: str) -> None:
        """The next piece of the text."""
        if any(waiting.kind != "reasoning" for waiting in self._pieces):
            self._flush_now()
        self._waiting.append(piece)
        self._schedule()

    def write_piece(self, piece: SpokenPiece) -> None:
        """The next piece that is not text of the first answer."""
        if piece.kind == "reasoning" and (self._waiting or any(other.kind != "reasoning" for other in self._pieces)):
            self._flush_now()
        if self._pieces and (joined := _joined(self._pieces[-1], piece)) is not None:
            self._pieces[-1] = joined
        else:
            self._pieces.append(piece)
        self._schedule()

    def _flush_now(self) -> None:
        """What one record holds is read as reasoning, then text, then everything else: another order takes several."""
        self.cancel()
        self._flush()

    def _schedule(self) -> None:
        if self._timer is not None:
            return
        wait = self._next_at - self._loop.time()
        if wait <= 0:
            self._flush()
        else:
            self._timer = self._loop.call_later(wait, self._flush)

    async def close(self) -> None:
        """Write what is buffered; returns when all pieces are durable, so that none follows the end of the task."""
        self.cancel()
        if self._waiting or self._pieces:
            self._flush()
            self.cancel()
        if self._pending_appends:
            await asyncio.wait(self._pending_appends)

    def cancel(self) -> None:
        """Write nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush(self) -> None:
        self._timer = None
        if self._broken or not (self._waiting or self._pieces):
            return
        if self._send(ReplyKind.DELTA, str(self._sequence), "".join(self._waiting), self._pieces):
            self._sequence += 1
            self._waiting.clear()
            self._pieces.clear()
        else:
            self._timer = self._loop.call_later(self._interval, self._flush)
        self._next_at = self._loop.time() + self._interval

    def _send(self, kind: ReplyKind, name: str, text: str, pieces: Iterable[SpokenPiece] = ()) -> bool:
        """Returns whether the producer accepted it."""
        request = self._request
        now = self._clock_ms()
        reply = TaskReply(
            task_id=request.task_id,
            tenant=request.tenant,
            kind=kind,
            attempt=request.number,
            execution_id=self._execution_id,
            sequence=self._sequence,
            text=plain(text) if kind is ReplyKind.DELTA else None,
            pieces=tuple(piece_of(piece) for piece in pieces),
            reply_token=request.reply_token,
            emitted_at=now,
        )
        publication = Publication(
            spec=TASKS_REPLIES,
            event=reply,
            event_id=f"{request.attempt_id}/{self._execution_id}/{name}",
            key=request.task_id.encode(),
            tenant=request.tenant,
            time_ms=now,
            partition=request.reply_partition,
            subject=request.task_id,
            traceparent=self._traceparent,
        )
        try:
            future = self._publisher.send(publication)
        except Overloaded:
            return False
        self._pending_appends.add(future)
        future.add_done_callback(self._sent)
        return True

    def _sent(self, future: asyncio.Future[RecordMetadata]) -> None:
        self._pending_appends.discard(future)
        error = None if future.cancelled() else future.exception()
        if isinstance(error, StreamsError):
            # A gap would garble the text; the end of the task carries the whole answer anyway.
            self._broken = True
            _log.warning("streaming of %s stopped: %s", self._request.attempt_id, error)


def _joined(first: SpokenPiece, next_one: SpokenPiece) -> SpokenPiece | None:
    """Both as one piece; None if they belong to different parts."""
    if (first.kind, first.choice, first.part) != (next_one.kind, next_one.choice, next_one.part):
        return None
    return replace(first, text=first.text + next_one.text, signature=first.signature + next_one.signature)
