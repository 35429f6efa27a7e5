"""One window of load on one system, while others that run are idle, and the rest that it is given after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace_bench.children import Child

from headrace_gateway_bench.figures import MeasuredWindow, Setup, settled
from headrace_gateway_bench.processes import Parts, machine_cpu_seconds, since
from headrace_gateway_bench.systems import CHAT, Gateway

IDLE_SECONDS = 5.0
REST_SECONDS = 15.0
"""A system that has not come to rest by then is measured all the same: the next window has its own warm-up."""

_READING_SECONDS = 1.0
_ROOM_SECONDS = 120.0
_BEGIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Reading:
    """Processor time until now: of the system's parts, upstream, callers, the other systems, the whole machine."""

    own: Mapping[str, float]
    upstream: Mapping[str, float]
    load: Mapping[str, float]
    others: float
    machine: float


class Windows:
    """Has callers ask a system, and reads what all processes took meanwhile.

    Args:
        callers: The process with the callers, which is `load` run as a module.
        upstream: The process that answers for the models.
    """

    def __init__(self, callers: Child, upstream: Parts) -> None:
        self._callers = callers
        self._upstream = upstream
        self._load = Parts({"callers": callers.process.pid})

    async def measure(
        self,
        gateway: Gateway,
        others: Sequence[Parts],
        setup: Setup,
        number: int,
        warm_up: float,
        seconds: float,
        turns: Sequence[Mapping[str, str]] = (),
    ) -> MeasuredWindow:
        """A window of `seconds`, after `warm_up` seconds of the same load. Raises ContestantFailed.

        Args:
            others: Parts of the systems that run, and are not measured.
            number: That of the round.
            turns: Headers that requests have in turn, beside the gateway's.
        """
        opens_at = time.monotonic() + _BEGIN_SECONDS + warm_up
        request = {
            "host": gateway.host,
            "port": gateway.port,
            "path": CHAT,
            "headers": dict(gateway.headers),
            "turns": [dict(one) for one in turns],
            "model": gateway.model,
            "callers": setup.callers,
            "streamed": setup.mode == "streamed",
            "opens_at": opens_at,
            "closes_at": opens_at + seconds,
        }
        asked = asyncio.create_task(self._callers.round(request, warm_up + seconds + _ROOM_SECONDS))
        await asyncio.sleep(opens_at - time.monotonic())
        before, opened = self._read(gateway.parts, others), time.monotonic()
        await asyncio.sleep(opens_at + seconds - time.monotonic())
        after, closed = self._read(gateway.parts, others), time.monotonic()
        used = since(after.own, before.own)
        load, upstream = (
            sum(since(now, then).values())
            for now, then in ((after.load, before.load), (after.upstream, before.upstream))
        )
        idle = max(after.others - before.others, 0.0)
        ours = sum(used.values()) + load + upstream + idle
        answer = await asked
        return MeasuredWindow(
            setup=setup,
            round=number,
            seconds=closed - opened,
            milliseconds=answer["milliseconds"],
            first_milliseconds=answer["first_milliseconds"],
            errors=answer["errors"],
            cpu_seconds=used,
            upstream_cpu_seconds=upstream,
            load_cpu_seconds=load,
            others_cpu_seconds=idle,
            elsewhere_cpu_seconds=max(after.machine - before.machine - ours, 0.0),
        )

    def _read(self, own: Parts, others: Sequence[Parts]) -> _Reading:
        idle = sum(sum(parts.cpu_seconds().values()) for parts in others)
        return _Reading(
            own.cpu_seconds(), self._upstream.cpu_seconds(), self._load.cpu_seconds(), idle, machine_cpu_seconds()
        )


async def idle_cores(parts: Parts) -> dict[str, float]:
    """Processors that each part keeps busy, after it has had time to end what an earlier load left it to do."""
    await asyncio.sleep(IDLE_SECONDS)
    before, began = parts.cpu_seconds(), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    used, seconds = since(parts.cpu_seconds(), before), time.monotonic() - began
    return {part: used_seconds / seconds for part, used_seconds in used.items()}


async def rest(parts: Parts, idle: float) -> None:
    """Wait until it is as idle as this many busy processors, or for `REST_SECONDS`."""
    rates: list[float] = []
    deadline = time.monotonic() + REST_SECONDS
    before, began = parts.cpu_seconds(), time.monotonic()
    while not settled(rates, idle) and time.monotonic() < deadline:
        await asyncio.sleep(_READING_SECONDS)
        now, at = parts.cpu_seconds(), time.monotonic()
        rates.append(sum(since(now, before).values()) / (at - began))
        before, began = now, at
