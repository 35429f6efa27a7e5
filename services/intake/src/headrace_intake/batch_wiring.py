"""Assembles what works on files and batches, for `wiring`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace_runtime.database import Database

from headrace_intake.adapters.batch_lines import BatchLines
from headrace_intake.adapters.batch_store import BatchStore
from headrace_intake.adapters.file_store import FileStore
from headrace_intake.adapters.uploads import Uploads
from headrace_intake.batching.finishing import BatchFinishing
from headrace_intake.batching.runner import LEASE_SECONDS, BatchParts, BatchRunner
from headrace_intake.batching.submitting import BatchSubmission
from headrace_intake.batching.validating import BatchValidation
from headrace_intake.service import Intake
from headrace_intake.settings import IntakeSettings

_MS_IN_A_DAY: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Batching:
    """What the APIs of files and batches need, and the part that works on batches."""

    files: FileStore
    uploads: Uploads
    batches: BatchStore
    runner: BatchRunner


def batching(settings: IntakeSettings, database: Database, intake: Intake, clock: Callable[[], int]) -> Batching:
    """Opens no connection."""
    kept_ms = int(settings.history_days * _MS_IN_A_DAY)
    files = FileStore(database, most_bytes=settings.file_bytes_per_tenant, most_files=settings.files_per_tenant)
    batches = BatchStore(database, most_live=settings.batches_per_tenant, lease_seconds=LEASE_SECONDS)
    lines = BatchLines(
        batches,
        most_live=settings.batch_live_tasks_per_tenant,
        most_live_bytes=settings.batch_live_bytes_per_tenant,
    )
    parts = BatchParts(
        batches=batches,
        lines=lines,
        files=files,
        validation=BatchValidation(
            batches,
            lines,
            files,
            clock,
            longest_line=settings.body_limit_bytes,
            most_lines=settings.batch_lines,
        ),
        submission=BatchSubmission(intake, lines, files),
        finishing=BatchFinishing(batches, lines, files, clock, kept_ms=kept_ms),
    )
    runner = BatchRunner(database, parts, intake, clock, at_once=settings.batches_at_once)
    uploads = Uploads(files, clock, limit_bytes=settings.file_limit_bytes, kept_ms=kept_ms)
    return Batching(files, uploads, batches, runner)
