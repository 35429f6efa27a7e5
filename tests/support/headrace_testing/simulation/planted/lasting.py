"""Bugs that show only when one place is in trouble for long."""

from __future__ import annotations

import asyncio
from typing import Any

from headrace_contracts.events import CommandKind, TaskSubmitted
from headrace_contracts.written_schemas import WrittenSchemas
from headrace_router import inputs, supervisor
from headrace_router.commands import PartitionCommands
from headrace_router.decide.model import Cancelled, Submitted
from headrace_router.input_logs import InputLogs
from headrace_router.service import _Membership
from headrace_router.supervisor import PartitionSupervisor
from headrace_streams.errors import RecordTooLarge, TransientError
from headrace_streams.memory import reader
from headrace_streams.watching import LogWatch

from headrace_testing.simulation.chaos import PARTITIONS_AT_FIRST
from headrace_testing.simulation.planted.bugs import Bug, Patches


def _one_takeover_at_a_time(patches: Patches) -> None:
    """A partition that cannot be taken over keeps all others from being routed."""

    async def attempt(self: Any) -> None:
        await original(self)
        if self.router is None:
            for other in list(_alive):
                if other is not self:
                    other.suspend("another partition is in trouble")
        _alive.add(self)

    _alive: set[Any] = set()
    original = patches.put(PartitionSupervisor, "_attempt", attempt)


def _never_retried(patches: Patches) -> None:
    async def live(self: Any) -> None:
        await self._attempt()
        self.tried.set()
        await asyncio.Event().wait()

    patches.put(PartitionSupervisor, "_live", live)


def _refusal_is_an_outage(patches: Patches) -> None:
    def failed(self: Any, item: Any, error: BaseException) -> None:
        original(self, item, TransientError(str(error)) if isinstance(error, RecordTooLarge) else error)

    original = patches.put(PartitionCommands, "_failed", failed)


def _admission_left_out(patches: Patches) -> None:
    def admitted(task: TaskSubmitted, key: Any, partition: int, traceparent: Any, now: int) -> Submitted:
        return Submitted(task, b"none" if key is None else key, partition, traceparent)

    patches.put(inputs, "admitted_task", admitted)


def _cancellations_not_admitted(patches: Patches) -> None:
    patches.put(inputs, "admitted_cancellation", lambda cancellation, _now: Cancelled(cancellation))


def _event_id_copied(patches: Patches) -> None:
    patches.put(inputs, "event_id_of", lambda found, otherwise: otherwise if found is None else found)


def _position_kept(patches: Patches) -> None:
    def judged(self: Any, described: Any, positions: Any, bounds: Any) -> Any:
        return original(self, described, {}, {})

    original = patches.put(LogWatch, "_judged", judged)


def _added_never_routed(patches: Patches) -> None:
    def inputs_by_number(self: Any) -> Any:
        return {number: names for number, names in original(self).items() if number < PARTITIONS_AT_FIRST}

    original = patches.put(_Membership, "_inputs_by_number", inputs_by_number)


def _uncommitted_bounds(patches: Patches) -> None:
    """Readers wait for what an open transaction keeps from them."""

    async def bounds_of(cluster: Any, network: Any, client: str, partitions: Any) -> Any:
        found = await original(cluster, network, client, partitions)
        return {name: (first, cluster.partition(name).end) for name, (first, _) in found.items()}

    original = patches.put(reader, "bounds_of", bounds_of)


def _ends_with_its_partition(patches: Patches) -> None:
    """Whatever ends the routing of one partition ends the process."""

    def stop_routing(self: Any, event: Any, reason: str) -> None:
        original(self, event, reason)
        self._consumer._failure = self._consumer._failure or ValueError(reason)
        self._consumer._cursors.changed.set()

    original = patches.put(supervisor.PartitionSupervisor, "_stop_routing", stop_routing)


def _never_looked_again(patches: Patches) -> None:
    async def look(_self: Any, _routers: Any) -> Any:
        return {}

    patches.put(InputLogs, "look", look)


def _stale_ids(patches: Patches) -> None:
    """Services believe for ever what the registry said at their start."""

    async def check(_self: Any) -> None:
        return None

    patches.put(WrittenSchemas, "check", check)


def _left_out_without_schema(patches: Patches) -> None:
    """What cannot be encoded because the registry has lost its schema is taken for a defect."""

    def made(self: Any, of: Any, entry: Any, command: Any) -> Any:
        item = original(self, of, entry, command)
        if item is None or item.record is not None or item.kind is CommandKind.COMPLETE:
            return item
        self._count_down(of)
        return None

    original = patches.put(PartitionCommands, "_made", made)


BUGS = (
    Bug(
        "one_takeover_at_a_time",
        "a partition in trouble stops the others",
        _one_takeover_at_a_time,
        hint=91,
    ),
    Bug("never_retried", "a suspended partition is never taken over again", _never_retried, hint=8),
    Bug("refusal_is_an_outage", "what a topic refuses for its size is tried for ever", _refusal_is_an_outage, hint=3),
    Bug("admission_left_out", "tasks of outsiders are taken as they are", _admission_left_out, hint=4),
    Bug("cancellations_not_admitted", "any request to cancel is taken", _cancellations_not_admitted, hint=4),
    Bug("event_id_copied", "any header is copied into the journal", _event_id_copied, hint=4),
    Bug("position_kept", "positions are kept though their topic was created again", _position_kept, hint=502),
    Bug("never_looked_again", "a running router does not compare its positions", _never_looked_again, hint=329),
    Bug("added_never_routed", "added partitions are not routed", _added_never_routed, hint=40),
    Bug("uncommitted_bounds", "a start waits for what an open transaction holds back", _uncommitted_bounds, hint=652),
    Bug("stale_ids", "ids that the registry has lost are written on", _stale_ids, hint=8),
    Bug("left_out_without_schema", "commands without a schema are left out", _left_out_without_schema, hint=265),
    Bug("ends_with_its_partition", "trouble of one partition ends the process", _ends_with_its_partition),
)
