"""Writes the files of results of a batch, and ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from headrace_contracts.ids import new_id
from headrace_runtime.database import DatabaseAway
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import internal_error

from headrace_intake.adapters.batch_lines import BatchLines
from headrace_intake.adapters.batch_store import BatchStore, set_batch
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.file_store import FileRanges, FileStore, insert_chunk, insert_file
from headrace_intake.adapters.problems import problem_of
from headrace_intake.batching.submitting import draft_of_line
from headrace_intake.decide.batches.endpoints import ENDPOINTS
from headrace_intake.decide.batches.life import BatchEvent, BatchStatus, after
from headrace_intake.decide.batches.records import CHUNK_BYTES, RESULTS, StoredBatch, StoredFile
from headrace_intake.decide.batches.results import BatchUsage, EndedLine, LineResult, refusal_document, result_of

_TIMES: Final = {
    BatchStatus.COMPLETED: "completed_at",
    BatchStatus.EXPIRED: "expired_at",
    BatchStatus.CANCELLED: "cancelled_at",
}

_log = get_logger("headrace.intake.batches")


class ResultFile:
    """A file that grows by lines, chunk by chunk, and is shown when the batch ends."""

    def __init__(self, batches: BatchStore, batch: StoredBatch, name: str, now_ms: int, kept_ms: int) -> None:
        self._batches = batches
        self._batch = batch
        self.file = StoredFile(
            file_id="file-" + new_id().replace("-", ""),
            tenant=batch.tenant,
            purpose=RESULTS,
            filename=f"{batch.batch_id}_{name}.jsonl",
            bytes=0,
            created_at=now_ms,
            expires_at=now_ms + kept_ms,
        )
        self.size = 0
        self._held = bytearray()
        self._chunks = 0

    async def add(self, line: bytes) -> None:
        """Append a line. Raises DatabaseAway, LeaseLost."""
        self._held += line
        self.size += len(line)
        while len(self._held) >= CHUNK_BYTES:
            await self._store(CHUNK_BYTES)

    async def flush(self) -> str | None:
        """Store what is left; the file's id, None if it is empty. Raises DatabaseAway, LeaseLost."""
        if self._held:
            await self._store(len(self._held))
        return self.file.file_id if self._chunks else None

    async def _store(self, size: int) -> None:
        async with self._batches.leased(self._batch) as connection:
            if not self._chunks:
                await insert_file(connection, self.file)
            await insert_chunk(connection, self.file.file_id, self._chunks, bytes(self._held[:size]))
        del self._held[:size]
        self._chunks += 1


class BatchFinishing:
    """Ends batches whose lines have ended.

    Args:
        kept_ms: How long files of results are kept, unless the batch says less.
    """

    def __init__(
        self, batches: BatchStore, lines: BatchLines, files: FileStore, clock: Callable[[], int], *, kept_ms: int
    ) -> None:
        self._batches = batches
        self._lines = lines
        self._files = files
        self._clock = clock
        self._kept_ms = kept_ms

    async def run(self, batch: StoredBatch) -> None:
        """Write the files, and show them with the batch's end, in one transaction. Raises DatabaseAway, LeaseLost.

        Files of an attempt that was broken off are never shown, and removed with those of uploads.
        """
        now = self._clock()
        kept_ms = self._kept_ms if batch.output_seconds is None else min(self._kept_ms, batch.output_seconds * 1000)
        outputs = ResultFile(self._batches, batch, "output", now, kept_ms)
        errors = ResultFile(self._batches, batch, "error", now, kept_ms)
        usage = BatchUsage()
        last = 0
        ranges = FileRanges(self._files, batch.input_file_id)
        while page := await self._lines.results(batch, last):
            for line in page:
                await asyncio.sleep(0)  # a page of lines must not hold up those who wait for an answer
                result = await _result_of(line, batch, ranges)
                usage.add(None if line.view is None else line.view.usage)
                await (outputs if result.succeeded else errors).add(dumps(result.document).encode() + b"\n")
            last = page[-1].number
        files = {name: await file.flush() for name, file in (("output_file_id", outputs), ("error_file_id", errors))}
        event = (
            BatchEvent.RESULTS_OF_EXPIRED_WRITTEN if batch.ending is BatchStatus.EXPIRED else BatchEvent.RESULTS_WRITTEN
        )
        status, ended_at = after(batch.status, event), self._clock()
        async with self._batches.leased(batch) as connection:
            for file in (outputs, errors):
                await connection.execute(
                    "UPDATE intake.files SET complete = true, bytes = $2 WHERE file_id = $1",
                    file.file.file_id, file.size,
                )  # fmt: skip
            # What callers wrote is in their files now, and goes with them.
            await connection.execute("DELETE FROM intake.batch_lines WHERE batch_id = $1", batch.batch_id)
            await set_batch(
                connection, batch, status=status, usage=json.dumps(usage.document()), **files,
                **{_TIMES[status]: ended_at},
            )  # fmt: skip


async def _result_of(line: EndedLine, batch: StoredBatch, ranges: FileRanges) -> LineResult:
    endpoint = ENDPOINTS[batch.endpoint]
    try:
        draft = None
        if endpoint.told_again and line.view is not None:
            draft = draft_of_line(await ranges.read(line.start, line.size), batch.endpoint, batch.headers)
        return result_of(line, endpoint, problem_of, draft)
    except DatabaseAway:
        raise
    except Exception:  # noqa: BLE001 - one line must not keep its batch from ending
        _log.exception("a result of a batch cannot be shown", line=line.number)
        return result_of(replace(line, refusal=refusal_document(internal_error())), endpoint, problem_of)
