"""Bugs of running attempts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from headrace_contracts.events import Outcome, TaskCancelled
from headrace_contracts.topics import TASKS_CANCELLED, USAGE_RECORDED
from headrace_models import ollama_listing
from headrace_models.errors import ProviderError
from headrace_models.ports import CallUsage
from headrace_models.worker import runner
from headrace_models.worker.cancellations import Cancellations
from headrace_models.worker.paid_calls import NOTHING_EARLIER, PaidCalls, SettledAttempt
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner
from headrace_router import commands
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.holding import DecodedInLanes

from headrace_testing.simulation import ledger
from headrace_testing.simulation.planted.bugs import Bug, Patches


def _done_before_ack(patches: Patches) -> None:
    async def append(self: Any, make: Any, event_id: str) -> None:
        self._publisher.send_record(make())
        await asyncio.sleep(0)

    patches.put(AttemptRunner, "_append", append)


def _failures_are_free(patches: Patches) -> None:
    async def report(self: Any, record: Any, run: Any, ended: Any) -> None:
        if ended.outcome not in (Outcome.ANSWERED, Outcome.REFUSED):
            ended = replace(ended, asked=False)
        await original(self, record, run, ended)

    original = patches.put(AttemptRunner, "_report", report)


def _usage_not_awaited(patches: Patches) -> None:
    async def append(self: Any, make: Any, event_id: str) -> None:
        if make().topic.endswith(USAGE_RECORDED.name):
            asyncio.ensure_future(original(self, make, event_id))  # noqa: RUF006 - the bug
        else:
            await original(self, make, event_id)

    original = patches.put(AttemptRunner, "_append", append)


def _given_up_on_uncertainty(patches: Patches) -> None:
    async def append(self: Any, make: Any, event_id: str) -> None:
        try:
            await self._publisher.send_record(make())
        except (TransientError, AppendUncertain):
            return

    patches.put(AttemptRunner, "_append", append)


def _executions_share_an_id(patches: Patches) -> None:
    patches.put(runner, "usage_id", lambda attempt, _execution: attempt)


def _slot_kept_on_error(patches: Patches) -> None:
    def release(self: Any, endpoint: Any, ended: Any, model: str) -> None:
        if not isinstance(ended, ProviderError):
            original(self, endpoint, ended, model)

    original = patches.put(Pool, "release", release)


def _usage_forgotten_on_error(patches: Patches) -> None:
    async def report(self: Any, record: Any, run: Any, ended: Any) -> None:
        if ended.outcome not in (Outcome.ANSWERED, Outcome.REFUSED):
            ended = replace(ended, usage=CallUsage())
        await original(self, record, run, ended)

    original = patches.put(AttemptRunner, "_report", report)


def _remote_counts_as_local(patches: Patches) -> None:
    patches.put(ollama_listing, "runs_elsewhere", lambda _entry: False)


def _outside_cancellations_believed(patches: Patches) -> None:
    def init(self: Any, log: Any, codec: Any, _spec: Any, **named: Any) -> None:
        original(self, log, codec, TASKS_CANCELLED, **named)
        self._decoded = DecodedInLanes("requests", codec, TaskCancelled, lambda record: record.partition, self._take)

    original = patches.put(Cancellations, "__init__", init)


def _called_before_announced(patches: Patches) -> None:
    async def announced(self: Any, run: Any, key: Any) -> bool:
        if run.announcement is None:
            run.announcement = asyncio.ensure_future(self._announce(run, key))
        return True

    patches.put(PaidCalls, "announced", announced)


def _earlier_not_looked_up(patches: Patches) -> None:
    async def settle(self: Any, record: Any, request: Any) -> SettledAttempt:
        return NOTHING_EARLIER

    patches.put(PaidCalls, "settle", settle)


def _reports_not_reused(patches: Patches) -> None:
    async def settle(self: Any, record: Any, request: Any) -> SettledAttempt:
        found: SettledAttempt = await original(self, record, request)
        return replace(found, ended=False)

    original = patches.put(PaidCalls, "settle", settle)


def _known_is_lost_too(patches: Patches) -> None:
    patches.put(ledger, "rivals", lambda entry: ("", entry.event_id))


def _repeats_look_new(patches: Patches) -> None:
    patches.put(commands, "REPEATED", "headrace_other")


BUGS = (
    Bug("called_before_announced", "a call is made before it is announced", _called_before_announced, hint=3),
    Bug("earlier_not_looked_up", "what an earlier worker has begun is not looked up", _earlier_not_looked_up, hint=60),
    Bug("reports_not_reused", "an attempt that is reported is run again", _reports_not_reused, hint=139),
    Bug("known_is_lost_too", "an execution stays possibly billed once its cost is known", _known_is_lost_too, hint=8),
    Bug("repeats_look_new", "a repeated attempt looks as if it was new", _repeats_look_new, hint=53),
    Bug("done_before_ack", "an attempt counts as done before its report is acknowledged", _done_before_ack),
    Bug("failures_are_free", "no usage is recorded of failed attempts", _failures_are_free),
    Bug("usage_not_awaited", "an attempt counts as done before its usage is acknowledged", _usage_not_awaited),
    Bug("given_up_on_uncertainty", "a report that may be lost is not repeated", _given_up_on_uncertainty, hint=8),
    Bug("executions_share_an_id", "two executions of an attempt are one to the ledger", _executions_share_an_id),
    Bug("slot_kept_on_error", "a slot is not given back when the call fails", _slot_kept_on_error),
    Bug("usage_forgotten_on_error", "what a failed call consumed is not recorded", _usage_forgotten_on_error),
    Bug(
        "outside_cancellations_believed",
        "a worker reads requests to cancel that the router has not taken",
        _outside_cancellations_believed,
        hint=1,
    ),
    Bug(
        "remote_counts_as_local",
        "a model that runs elsewhere counts as the node's own",
        _remote_counts_as_local,
        hint=3,
    ),
)
