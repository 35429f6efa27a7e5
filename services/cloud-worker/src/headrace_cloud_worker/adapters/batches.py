"""The batch APIs of the providers, and which of them may get new batches."""

from __future__ import annotations

import random
from collections.abc import Sequence

from headrace_models.anthropic import Anthropic
from headrace_models.cloud import CLOUD_PROVIDERS
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import Provider
from headrace_models.worker.batches.assembling import BatchSetup
from headrace_models.worker.batches.choosing import BatchOptions
from headrace_models.worker.batches.observing import BatchObserver
from headrace_models.worker.batches.taking import BatchClient

from headrace_cloud_worker.settings import CloudWorkerSettings


def batch_setup(settings: CloudWorkerSettings, providers: Sequence[Provider], observer: BatchObserver) -> BatchSetup:
    """How this worker uses batches. All providers that may have a batch API are in it: batches that were submitted
    before one was switched off are brought to their end."""
    on = {known.name for known in CLOUD_PROVIDERS if settings.uses_batches_of(known)}
    return BatchSetup(
        clients={
            one.provider: BatchClient(one, one.batches())
            for one in providers
            if isinstance(one, OpenAICompatible | Anthropic)
        },
        switched_on=on | set(settings.openai_compatible_batches),
        options=BatchOptions(
            gather_seconds=settings.batch_gather_seconds,
            most_attempts=settings.batch_attempts,
            most_bytes=round(settings.batch_mebibytes * 1024 * 1024),
            least_seconds=settings.batch_least_seconds,
            reserve_seconds=settings.batch_reserve_seconds,
            look_seconds=settings.batch_look_seconds,
            longest_look_seconds=10 * settings.batch_look_seconds,
            most_open=settings.batches_open,
        ),
        chance=random.random,
        observer=observer,
    )
