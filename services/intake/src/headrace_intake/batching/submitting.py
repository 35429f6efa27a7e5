"""Submits lines of batches as tasks: the same event whoever does it, and however often."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headrace_contracts.content import ContentSealed
from headrace_runtime.access import Caller, Scope
from headrace_runtime.bodies import parse_json
from headrace_runtime.database import DatabaseAway
from headrace_runtime.decoding import LARGE_BYTES
from headrace_runtime.http import parse_model
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem, internal_error

from headrace_intake.adapters.batch_lines import BatchLines, LineToSubmit
from headrace_intake.adapters.file_store import FileGone, FileRanges, FileStore
from headrace_intake.adapters.problems import problem_of
from headrace_intake.adapters.responses import parse_item
from headrace_intake.adapters.writing import NeverWritable, NotWritten
from headrace_intake.decide.batches.endpoints import ENDPOINTS, taken_in_batch
from headrace_intake.decide.batches.records import StoredBatch
from headrace_intake.decide.batches.results import refusal_document
from headrace_intake.decide.drafts import Submitter, TaskDraft
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.refusals import Refusal
from headrace_intake.service import Intake, UncertainTask

API: Final = "batches"
_AT_ONCE: Final = 64

_log = get_logger("headrace.intake.batches")


@dataclass(slots=True)
class _Outcome:
    acknowledged: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    uncertain: int = 0


class BatchSubmission:
    """Submits claimed lines."""

    def __init__(self, intake: Intake, lines: BatchLines, files: FileStore) -> None:
        self._intake = intake
        self._lines = lines
        self._files = files

    async def run(self, batch: StoredBatch, lines: Sequence[LineToSubmit]) -> bool:
        """Submit lines, and note what became of them; False if it is not known of some whether Kafka has them.

        Raises DatabaseAway, LeaseLost.
        """
        if not lines:
            return True
        outcome = _Outcome()
        ranges = FileRanges(self._files, batch.input_file_id)
        room = asyncio.Semaphore(_AT_ONCE)
        sending: list[asyncio.Task[None]] = []
        try:
            for line in lines:
                await room.acquire()
                try:
                    draft = await self._draft(batch, line, ranges)
                except (Refusal, Problem) as error:
                    room.release()
                    self._refused(outcome, line, error)
                    continue
                except DatabaseAway:
                    raise
                except Exception:  # noqa: BLE001 - one line must not hold up its batch
                    room.release()
                    self._failed(outcome, batch, line)
                    continue
                sending.append(asyncio.create_task(self._submit(batch, line, draft, outcome, room)))
        finally:
            # Records that have been handed over cannot be recalled.
            if sending:
                await asyncio.wait(sending)
        for sent in sending:
            sent.result()
        await self._lines.submitted(batch, outcome.acknowledged, outcome.refused)
        return not outcome.uncertain

    async def _draft(self, batch: StoredBatch, line: LineToSubmit, ranges: FileRanges) -> TaskDraft:
        try:
            data = await ranges.read(line.start, line.size)
        except (FileGone, ContentSealed):
            raise Problem(410, "file-not-found", "The input file was deleted before it was this line's turn.") from None
        if len(data) < LARGE_BYTES:
            await asyncio.sleep(0)  # a page of lines must not hold up those who wait for an answer
            return draft_of_line(data, batch.endpoint, batch.headers)
        return await asyncio.to_thread(draft_of_line, data, batch.endpoint, batch.headers)

    async def _submit(
        self, batch: StoredBatch, line: LineToSubmit, draft: TaskDraft, outcome: _Outcome, room: asyncio.Semaphore
    ) -> None:
        scopes = frozenset({Scope.ADMIN if batch.by_admin else Scope.TASKS})
        origin = Submitter(
            task_id=line.task_id,
            tenant=batch.tenant,
            key_id=batch.key_id,
            now_ms=line.submitted_at,
            reply_partition=None,
        )
        try:
            await self._intake.accept_unwatched(
                API, Caller(batch.tenant, batch.key_id, scopes), draft, origin, batch.expires_at, repeated=line.repeated
            )
            outcome.acknowledged.append(line.number)
        except (Refusal, NeverWritable) as error:
            self._refused(outcome, line, error)
        except (NotWritten, UncertainTask) as error:
            outcome.uncertain += 1
            _log.warning(
                "a line of a batch is submitted again later", batch_id=batch.batch_id, line=line.number,
                reason=str(error),
            )  # fmt: skip
        except Exception:  # noqa: BLE001 - one line must not hold up its batch
            self._failed(outcome, batch, line)
        finally:
            room.release()

    @staticmethod
    def _failed(outcome: _Outcome, batch: StoredBatch, line: LineToSubmit) -> None:
        _log.exception("a line of a batch failed", batch_id=batch.batch_id, line=line.number)
        outcome.refused[line.number] = refusal_document(internal_error())

    @staticmethod
    def _refused(outcome: _Outcome, line: LineToSubmit, error: Refusal | Problem | NeverWritable) -> None:
        problem = error if isinstance(error, Problem) else problem_of(error)
        outcome.refused[line.number] = refusal_document(problem)


def draft_of_line(data: bytes, endpoint: str, headers: Mapping[str, str]) -> TaskDraft:
    """The draft of a line. Raises Refusal, Problem."""
    asks = ENDPOINTS[endpoint]
    body: dict[str, Any] = parse_json(data)["body"]
    return asks.draft(parse_model(taken_in_batch(asks, with_headers(body, headers)), asks.request), parse_item)
