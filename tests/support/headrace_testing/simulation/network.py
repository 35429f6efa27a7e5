"""The connection between a simulated process and the cluster, on which anything may fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.memory import NetworkRequest, Operation

from headrace_testing.simulation.loop import VirtualLoop
from headrace_testing.simulation.plan import CRASHES, FREEZES, Fault, Plan
from headrace_testing.simulation.trace import Trace

T = TypeVar("T")

_FETCH_FAULTS = CRASHES | FREEZES | {Fault.SLOW, Fault.EXPELLED_IN_FLIGHT}
_FETCH = Operation.FETCH.value
_APPEND = Operation.APPEND.value
LONGEST_IN_FLIGHT_SECONDS = 2.0
"""A request arrives within this time or never: a connection without progress is closed."""
PATIENCE_SECONDS = 5.0
"""The longest that a client waits for a response: routers' delivery.timeout.ms. A request not sent in that time,
because the process was frozen, is not sent any more.
"""


class Endures(Protocol):
    """A process, as the network sees it."""

    @property
    def name(self) -> str: ...
    def crash(self) -> None: ...
    def freeze(self, seconds: float) -> None: ...
    def expel(self) -> None: ...


class Weather:
    """Which faults occur at I/O boundaries; shared by all processes of a simulation."""

    def __init__(self, plan: Plan, rng: random.Random, trace: Trace, loop: VirtualLoop) -> None:
        self._plan = plan
        self._rng = rng
        self._trace = trace
        self._loop = loop
        self._kinds: tuple[tuple[Fault, float], ...] = tuple(plan.boundary.items())
        self._total = sum(plan.boundary.values())
        self._crashes = plan.most_crashes
        self._freezes = plan.most_freezes
        self.calm = False

    def draw(self, operation: str, *, mortal: bool) -> Fault | None:
        """The fault of one operation, if any."""
        if self.calm or self._rng.random() >= self._total:
            return None
        at = self._rng.random() * self._total
        kind = self._kinds[-1][0]
        for kind, rate in self._kinds:  # noqa: B007 - the last one when rounding leaves a rest
            at -= rate
            if at < 0:
                break
        if operation == _FETCH and kind not in _FETCH_FAULTS:
            return None
        if kind in CRASHES:
            if not mortal or self._crashes == 0:
                return None
            self._crashes -= 1
        elif kind in FREEZES:
            if not mortal or self._freezes == 0:
                return None
            self._freezes -= 1
        self._trace.boundaries[kind.value, operation] += 1
        return kind

    def latency(self) -> float:
        """Seconds that a request takes."""
        return self._plan.latency_seconds * (0.5 + self._rng.random())

    def long(self) -> float:
        """Seconds that a slow request takes."""
        return self._rng.choice((0.05, 0.3, LONGEST_IN_FLIGHT_SECONDS)) * (0.5 + self._rng.random() / 2)

    def stillness(self) -> float:
        """Seconds that a process stays frozen: often longer than its session."""
        return self._rng.choice((0.5, 4.0, 12.0, 25.0)) * (0.5 + self._rng.random())

    def patience(self) -> float:
        """Seconds after which a client without a response times out."""
        return self._rng.uniform(LONGEST_IN_FLIGHT_SECONDS, PATIENCE_SECONDS)


class SimulatedNetwork:
    """Carries the requests of one process; see `headrace_streams.memory.Network`.

    Args:
        acting: Receives the client whose request the cluster is about to execute.
    """

    def __init__(
        self,
        process: Endures,
        loop: VirtualLoop,
        weather: Weather,
        trace: Trace,
        acting: Callable[[str], None],
        *,
        mortal: bool = True,
    ) -> None:
        self._process = process
        self._loop = loop
        self._weather = weather
        self._trace = trace
        self._acting = acting
        self._mortal = mortal

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        operation = request.operation
        where = str(request.partitions[0]) if len(request.partitions) == 1 else ""
        uncertain = AppendUncertain if operation is Operation.APPEND else TransientError
        return await self._carry(operation.value, where, perform, uncertain)

    async def database(self, what: str, perform: Callable[[], T]) -> T:
        """The connection to the database. Raises TransientError, also if the request has been executed."""
        return await self._carry("database", what, perform, TransientError)

    async def _carry(
        self, operation: str, where: str, perform: Callable[[], T], uncertain: Callable[[str], Exception]
    ) -> T:
        fault = self._weather.draw(operation, mortal=self._mortal)
        if fault is None and operation == _FETCH:
            await asyncio.sleep(0)
            return perform()
        about = f"{self._process.name} {operation} {where}"
        if fault is not None:
            self._trace.fault(fault.value, about)
        answer: asyncio.Future[T] = self._loop.create_future()
        later = self._weather.latency()
        match fault:
            case None:
                self._deliver_in(later, about, perform, answer)
            case Fault.CRASH_BEFORE:
                self._process.crash()
            case Fault.CRASH_IN_FLIGHT:
                self._deliver_in(self._weather.long(), about, perform, answer)
                self._process.crash()
            case Fault.CRASH_AFTER:
                self._deliver_in(later, about, perform, answer)
                self._loop.outside(later, self._process.crash)
            case Fault.FREEZE_BEFORE:
                asked = self._loop.time()
                self._process.freeze(self._weather.stillness())
                await asyncio.sleep(0)
                if operation == _APPEND and self._loop.time() - asked > PATIENCE_SECONDS:
                    raise TransientError("not sent in time (simulated)")
                return await self._carry(operation, where, perform, uncertain)
            case Fault.FREEZE_IN_FLIGHT:
                self._deliver_in(self._weather.long(), about, perform, answer)
                self._process.freeze(self._weather.stillness())
            case Fault.TRANSIENT:
                self._loop.outside(later, _fail, answer, TransientError("the cluster is unavailable (simulated)"))
            case Fault.LOST_REQUEST:
                self._loop.outside(self._weather.patience(), _fail, answer, uncertain("no answer (simulated)"))
            case Fault.LOST_ANSWER:
                self._deliver_in(self._weather.long(), about, perform, self._loop.create_future())
                self._loop.outside(self._weather.patience(), _fail, answer, uncertain("no answer (simulated)"))
            case Fault.EXPELLED_IN_FLIGHT:
                self._deliver_in(self._weather.long(), about, perform, answer)
                self._loop.outside(later, self._process.expel)
            case _:
                self._deliver_in(self._weather.long(), about, perform, answer)
        return await answer

    def _deliver_in(self, seconds: float, about: str, perform: Callable[[], T], answer: asyncio.Future[T]) -> None:
        self._loop.outside(seconds, self._deliver, about, perform, answer)

    def _deliver(self, about: str, perform: Callable[[], T], answer: asyncio.Future[T]) -> None:
        self._trace.note(about)
        self._acting(self._process.name)
        try:
            result = perform()
        except Exception as error:  # noqa: BLE001 - any error of the cluster is returned to the client
            _fail(answer, error)
        else:
            if not answer.done():
                answer.set_result(result)


def _fail(answer: asyncio.Future[T], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        # A dead process does not retrieve it, which is no error.
        answer.exception()
