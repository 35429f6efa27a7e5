"""Assembles the part of a worker that puts attempts into batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import AttemptRequested
from headrace_contracts.groups import CLOUD_BATCHES
from headrace_contracts.topics import PROVIDER_BATCHES, WORK_CLOUD_BATCH
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.handling import EngineOptions, TopicLane
from headrace_streams.parallel import ParallelConsumer
from headrace_streams.ports import Log
from headrace_streams.publishing import Publisher

from headrace_models.worker.batches.batch_log import BatchLog
from headrace_models.worker.batches.choosing import BatchOptions
from headrace_models.worker.batches.gathering import Gatherer
from headrace_models.worker.batches.observing import BatchObserver
from headrace_models.worker.batches.running import ProviderBatchRunner
from headrace_models.worker.batches.settling import Settler
from headrace_models.worker.batches.taking import BatchClient, BatchTaker, CallOf, Refusals
from headrace_models.worker.batches.work_records import WorkRecords
from headrace_models.worker.runner import AttemptRunner

_MOST_AT_ONCE: Final = 1_000
"""Batches that a worker looks after: each is a sleeping task. How many there are, `BatchOptions.most_open` limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSetup:
    """How a worker uses batches.

    Attributes:
        clients: All providers with a batch API, by name.
        switched_on: Those to which new batches may go.
        chance: A random number from 0 to 1.
    """

    clients: Mapping[str, BatchClient]
    switched_on: AbstractSet[str]
    options: BatchOptions
    chance: Callable[[], float]
    observer: BatchObserver = field(default_factory=BatchObserver)


@dataclass(frozen=True, slots=True)
class BatchWork:
    """The parts, for the service to place in its life cycle."""

    taker: BatchTaker
    gatherer: Gatherer
    log: BatchLog
    runner: ProviderBatchRunner
    consumer: ParallelConsumer


def assemble_batches(
    setup: BatchSetup,
    attempts: AttemptRunner,
    *,
    log: Log,
    codec: Codec,
    publisher: Publisher,
    dead_letters: DeadLetterSink,
    clock_ms: Callable[[], int],
    new_id: Callable[[], str],
    may_leave: Callable[[AttemptRequested], bool],
    is_cancelled: Callable[[str, str], bool],
    call_of: CallOf,
    topic_prefix: str,
    worker: str,
    instance_id: str | None,
    most_attempts: int,
) -> BatchWork:
    """The parts, not connected to anything yet.

    Args:
        may_leave: Whether an attempt may be part of a batch that is about to be submitted.
        call_of: See `taking.CallOf`.
        instance_id: Makes the member of the consumer group a static one.
        most_attempts: As many as wait for their batch at a time at most; a batch cannot have more.
    """
    options = replace(setup.options, most_attempts=min(setup.options.most_attempts, most_attempts))
    refusals = Refusals({})
    batches = BatchLog(log, codec, publisher)
    gatherer = Gatherer(batches, options, clock_ms=clock_ms, new_id=new_id, worker=worker)
    settler = Settler(
        attempts, WorkRecords(log, topic_prefix), options,
        codec=codec, dead_letters=dead_letters, call_of=call_of, may_leave=may_leave, is_cancelled=is_cancelled,
        clock_ms=clock_ms, observer=setup.observer,
    )  # fmt: skip
    runner = ProviderBatchRunner(
        setup.clients, batches, settler, options, refusals,
        codec=codec, clock_ms=clock_ms, chance=setup.chance, worker=worker, observer=setup.observer,
    )  # fmt: skip
    taker = BatchTaker(
        {name: client for name, client in setup.clients.items() if name in setup.switched_on},
        gatherer, options, refusals,
        topic=topic_prefix + WORK_CLOUD_BATCH.name, call_of=call_of, clock_ms=clock_ms, is_cancelled=is_cancelled,
    )  # fmt: skip
    consumer = ParallelConsumer(
        log,
        topic_prefix + CLOUD_BATCHES.name,
        [TopicLane(topic_prefix + PROVIDER_BATCHES.name)],
        runner.handle,
        dead_letters=dead_letters,
        # A batch goes on at whoever has it next: nothing is won by waiting for it.
        options=EngineOptions(max_in_flight=_MOST_AT_ONCE, drain_seconds=0.0),
        instance_id=instance_id,
    )
    return BatchWork(taker, gatherer, batches, runner, consumer)
