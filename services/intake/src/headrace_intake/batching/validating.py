"""Checks the input file of a batch, and stores its lines."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Final

from headrace_contracts.content import ContentSealed

from headrace_intake.adapters.batch_lines import BatchLines
from headrace_intake.adapters.batch_store import BatchStore, set_batch
from headrace_intake.adapters.file_store import FileGone, FileStore, chunks_of
from headrace_intake.decide.batches.life import BatchEvent, after
from headrace_intake.decide.batches.lines import (
    MOST_ERRORS,
    CheckedLine,
    LineError,
    LineSplitter,
    RawLine,
    check_line,
)
from headrace_intake.decide.batches.records import StoredBatch, StoredFile

_DIGEST_BYTES: Final = 16


class BatchValidation:
    """Turns a batch that is `validating` into one that is in progress, or has failed.

    Args:
        longest_line: Most bytes of a line.
        most_lines: Most lines of a batch.
    """

    def __init__(
        self,
        batches: BatchStore,
        lines: BatchLines,
        files: FileStore,
        clock: Callable[[], int],
        *,
        longest_line: int,
        most_lines: int,
    ) -> None:
        self._batches = batches
        self._lines = lines
        self._files = files
        self._clock = clock
        self._longest_line = longest_line
        self._most_lines = most_lines

    async def run(self, batch: StoredBatch, file: StoredFile | None) -> None:
        """Check the whole file. Raises DatabaseAway, LeaseLost."""
        await self._lines.clear(batch)
        try:
            total, errors = (0, [_gone()]) if file is None else await self._read(batch, file)
        except (FileGone, ContentSealed):
            total, errors = 0, [_gone()]
        event = BatchEvent.FILE_INVALID if errors else BatchEvent.FILE_VALID
        status, now = after(batch.status, event), self._clock()
        async with self._batches.leased(batch) as connection:
            if not errors:
                await set_batch(connection, batch, status=status, in_progress_at=now, total=total)
                return
            found = json.dumps([error.document() for error in errors])
            await connection.execute("DELETE FROM intake.batch_lines WHERE batch_id = $1", batch.batch_id)
            await set_batch(connection, batch, status=status, failed_at=now, errors=found)

    async def _read(self, batch: StoredBatch, file: StoredFile) -> tuple[int, list[LineError]]:
        splitter = LineSplitter(self._longest_line)
        seen: set[bytes] = set()
        errors: list[LineError] = []
        for number in range(chunks := chunks_of(file.bytes)):
            data = await self._files.chunk(file.file_id, number)
            # On a thread: a chunk of short lines takes 20 ms.
            good, wrong = await asyncio.to_thread(
                _checked, splitter, data, batch.endpoint, seen, last=number + 1 == chunks
            )
            errors += wrong[: MOST_ERRORS - len(errors)]
            if len(seen) > self._most_lines:
                return 0, [LineError("too_many_tasks", f"A batch has at most {self._most_lines} requests.")]
            if len(errors) >= MOST_ERRORS:
                return 0, errors
            if not errors:
                await self._lines.add(batch, good)
        if not seen and not errors:
            return 0, [LineError("empty_file", "The batch input file has no requests.")]
        return len(seen), errors


def _checked(
    splitter: LineSplitter, data: bytes, endpoint: str, seen: set[bytes], *, last: bool
) -> tuple[list[CheckedLine], list[LineError]]:
    raw: Iterable[RawLine] = [*splitter.feed(data), *(splitter.end() if last else ())]
    good: list[CheckedLine] = []
    wrong: list[LineError] = []
    for line in raw:
        checked = check_line(line, endpoint)
        if isinstance(checked, LineError):
            wrong.append(checked)
            continue
        digest = hashlib.sha256(checked.custom_id.encode()).digest()[:_DIGEST_BYTES]
        if digest in seen:
            what = "The custom_id of this request is that of an earlier one: it must be unique within a batch."
            wrong.append(LineError("duplicate_custom_id", what, "custom_id", line.number))
            continue
        seen.add(digest)
        good.append(checked)
    return good, wrong


def _gone() -> LineError:
    return LineError("input_file_not_found", "The input file has been deleted or has expired.", "input_file_id")
