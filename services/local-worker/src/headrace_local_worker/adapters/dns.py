"""Nodes by SRV records, looked up again when an answer's time to live is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.SRV import SRV

from headrace_local_worker.decide.nodes import NodeSpec
from headrace_local_worker.decide.srv_records import (
    SrvName,
    SrvTarget,
    again_seconds,
    nodes_of_targets,
    stands_seconds,
)

_ANSWER_SECONDS: Final = 5.0


class DnsNodes:
    """The targets of some SRV records as a source of nodes.

    A name that is not found is no answer: a resolver that cannot reach its network says so, too. What was known stays
    in use until an answer comes; one with the target `.` says that there are no nodes.

    Args:
        default_slots: Of nodes whose entry names none.
        tell: Called with what is wrong, None when all names are answered.
        make_resolver: Called for each look-up, so that a machine that changes its network asks the right servers.
    """

    name: Final = "dns"
    peers: Final[Collection[str]] = ()

    def __init__(
        self,
        names: Sequence[SrvName],
        default_slots: int,
        tell: Callable[[str | None], None],
        make_resolver: Callable[[], dns.asyncresolver.Resolver] = dns.asyncresolver.Resolver,
    ) -> None:
        self._names = names
        self._default_slots = default_slots
        self._tell = tell
        self._make_resolver = make_resolver
        self.nodes: Mapping[str, NodeSpec] | None = None
        self._found: dict[str, Mapping[str, NodeSpec]] = {}
        self._problems: dict[str, str] = {}

    async def follow(self, changed: Callable[[], None]) -> None:
        """See `NodeSource`."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._names:
                tasks.create_task(self._keep_asking(name, changed))

    async def close(self) -> None:
        """Nothing is held between look-ups."""

    async def _keep_asking(self, name: SrvName, changed: Callable[[], None]) -> None:
        failures = 0
        while True:
            try:
                targets, ttl_seconds = await self._ask(name.name)
            except (dns.exception.DNSException, OSError) as error:
                failures += 1
                self._problems[name.name] = (
                    f"{name.name} is not answered ({type(error).__name__}); its last nodes are used"
                )
                wait = again_seconds(failures)
            else:
                failures = 0
                self._problems.pop(name.name, None)
                self._found[name.name] = nodes_of_targets(name, targets, self._default_slots)
                self.nodes = {node: spec for found in self._found.values() for node, spec in found.items()}
                wait = stands_seconds(ttl_seconds)
                changed()
            self._tell("; ".join(sorted(self._problems.values())) or None)
            await asyncio.sleep(wait)

    async def _ask(self, name: str) -> tuple[list[SrvTarget], float]:
        answer = await self._make_resolver().resolve(name, dns.rdatatype.SRV, search=False, lifetime=_ANSWER_SECONDS)
        targets = [SrvTarget(record.target.to_text(), record.port) for record in answer if isinstance(record, SRV)]
        return targets, answer.chaining_result.minimum_ttl
