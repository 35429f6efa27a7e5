"""Bugs of running attempts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from headrace_contracts.events import Outcome
from headrace_contracts.topics import USAGE_RECORDED
from headrace_models.worker import runner
from headrace_models.worker.runner import AttemptRunner
from headrace_streams.errors import AppendUncertain, TransientError

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _done_before_ack(patches: Patches) -> None:
    async def append(self: Any, publication: Any) -> None:
        self._publisher.send(publication)
        await asyncio.sleep(0)

    patches.put(AttemptRunner, "_append", append)


def _failures_are_free(patches: Patches) -> None:
    async def report(self: Any, record: Any, run: Any, ended: Any) -> None:
        if ended.outcome not in (Outcome.ANSWERED, Outcome.REFUSED):
            ended = replace(ended, asked=False)
        await original(self, record, run, ended)

    original = patches.put(AttemptRunner, "_report", report)


def _usage_not_awaited(patches: Patches) -> None:
    async def append(self: Any, publication: Any) -> None:
        if publication.spec is USAGE_RECORDED:
            asyncio.ensure_future(original(self, publication))  # noqa: RUF006 - the bug
        else:
            await original(self, publication)

    original = patches.put(AttemptRunner, "_append", append)


def _given_up_on_uncertainty(patches: Patches) -> None:
    async def append(self: Any, publication: Any) -> None:
        try:
            await self._publisher.send(publication)
        except (TransientError, AppendUncertain):
            return

    patches.put(AttemptRunner, "_append", append)


def _executions_share_an_id(patches: Patches) -> None:
    patches.put(runner, "usage_id", lambda attempt, _execution: attempt)


BUGS = (
    Bug("done_before_ack", "an attempt counts as done before its report is acknowledged", _done_before_ack),
    Bug("failures_are_free", "no usage is recorded of failed attempts", _failures_are_free),
    Bug("usage_not_awaited", "an attempt counts as done before its usage is acknowledged", _usage_not_awaited),
    Bug("given_up_on_uncertainty", "a report that may be lost is not repeated", _given_up_on_uncertainty, hint=18),
    Bug("executions_share_an_id", "two executions of an attempt are one to the ledger", _executions_share_an_id),
)
