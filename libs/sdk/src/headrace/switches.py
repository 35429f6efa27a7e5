"""Kill switches: what is switched off, and switching it."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_contracts.events import SwitchedOff, SwitchKind
from headrace_contracts.switches import switch_key
from headrace_contracts.topics import SWITCHES

from headrace.connecting import Cluster
from headrace.nodes import newest_events
from headrace.operating import publish, remove


async def switched_off(cluster: Cluster) -> Mapping[str, SwitchedOff]:
    """Everything that is switched off, by `kind/name`; also what is on again since its time has passed.

    Raises TransientError, RegistryUnavailable.
    """
    (found,) = await newest_events(cluster, (SWITCHES,))
    return {key: off for key, off in sorted(found.items()) if key == switch_key(off)}


async def switch_off(
    cluster: Cluster, kind: SwitchKind, name: str, *, reason: str, who: str, now_ms: int, until_ms: int | None = None
) -> SwitchedOff:
    """Switch something off, until it is switched on or until a time in milliseconds since the epoch.

    Raises StreamsError, ContractError.
    """
    off = SwitchedOff(kind=kind, name=name, reason=reason, until=until_ms, switched_by=who, switched_at=now_ms)
    await publish(cluster, SWITCHES, switch_key(off), off, now_ms)
    return off


async def switch_on(cluster: Cluster, key: str) -> None:
    """Switch something on again. Raises StreamsError."""
    await remove(cluster, SWITCHES, key)
