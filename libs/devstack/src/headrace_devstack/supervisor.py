"""Runs the parts: starts them in order, watches them, restarts those that exit, and stops them in reverse order.

Each part has one task with these steps: wait for its dependencies, prepare, launch, wait until healthy, watch, and
restart when it exits, as decided by `restart.on_exit`. Everything of interest to the user is emitted as an event.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from headrace_devstack.errors import ReadThePartLog
from headrace_devstack.parts.part import LastingPart, NotHealthyYet, SetupStep, StackPart
from headrace_devstack.restart import RestartPolicy, RestartState, StopRestarting, on_exit, start_patience
from headrace_devstack.runs import PartRun, launched

FIRST_CHECKS_EVERY = 0.1  # seconds, until a part is healthy
CHECKS_EVERY = 5.0
LAST_LINES = 15


class Condition(Enum):
    """The state of a part."""

    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PartEvent:
    """A change of a part; ``seconds`` is how long it took (becoming healthy, stopping) or will take (restarting)."""

    part: str
    condition: Condition
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PartStatus:
    """The current state of a part."""

    name: str
    condition: Condition
    pid: int | None
    restarts: int
    lasting: bool
    """Whether it goes on until it is stopped: not a step of the start."""


class Supervisor:
    """Starts, watches and stops a set of parts; one use."""

    def __init__(
        self,
        parts: Sequence[StackPart],
        emit: Callable[[PartEvent], None],
        policy: RestartPolicy | None = None,
    ) -> None:
        self._runs = {part.name: _RunningPart(part) for part in parts}
        self._emit = emit
        self._policy = policy or RestartPolicy()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        unknown = {need for part in parts for need in part.after} - self._runs.keys()
        if unknown:
            raise ValueError(f"parts wait for unknown parts: {sorted(unknown)}")

    async def start(self) -> None:
        """Start all parts; returns when all are healthy. The caller must stop the supervisor even if this raises.

        Raises:
            ReadThePartLog: a part could not be started.
            DevstackError: a part's preparation failed.
        """
        self._tasks = {name: asyncio.create_task(self._run(run), name=name) for name, run in self._runs.items()}
        healthy = asyncio.create_task(self._all_healthy())
        try:
            while not healthy.done():
                await asyncio.wait([healthy, *self._watchers()], return_when=asyncio.FIRST_COMPLETED)
                self._raise_failure()
        finally:
            healthy.cancel()

    async def watch(self) -> None:
        """Wait forever, or until a part cannot be kept running.

        Raises:
            DevstackError: why it cannot.
        """
        while watchers := self._watchers():
            await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()

    async def stop(self) -> None:
        """Stop all parts, dependencies last, each within its time limit."""
        for layer in reversed(layers([run.part for run in self._runs.values()])):
            await asyncio.gather(*(self._stop(self._runs[part.name]) for part in layer))

    def status(self) -> list[PartStatus]:
        """The current state of all parts."""
        return [
            PartStatus(
                name=run.part.name,
                condition=run.condition,
                pid=run.now.pid if run.now and run.now.returncode is None else None,
                restarts=run.restarts.total,
                lasting=not isinstance(run.part, SetupStep),
            )
            for run in self._runs.values()
        ]

    async def _all_healthy(self) -> None:
        for run in self._runs.values():
            await run.healthy.wait()

    def _watchers(self) -> list[asyncio.Task[None]]:
        return [task for task in self._tasks.values() if not task.done()]

    def _raise_failure(self) -> None:
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _run(self, run: "_RunningPart") -> None:
        for need in run.part.after:
            await self._runs[need].healthy.wait()
        started = time.monotonic()
        self._change(run, Condition.STARTING)
        if isinstance(run.part, SetupStep):
            detail = await run.part.run()
            self._change(run, Condition.HEALTHY, time.monotonic() - started, detail)
            return
        await run.part.prepare()
        while True:
            healthy_for, ending = await self._run_once(run, run.part, started)
            run.restarts, decision = on_exit(run.restarts, self._policy, healthy_for=healthy_for)
            if isinstance(decision, StopRestarting):
                raise ReadThePartLog(
                    f"{run.part.name} could not be started: it {ending}.{_last_lines(run.part)}",
                    f"read its whole log, {run.part.log}.",
                )
            self._change(run, Condition.RESTARTING, decision.seconds, ending)
            await asyncio.sleep(decision.seconds)
            started = time.monotonic()
            self._change(run, Condition.STARTING)

    async def _run_once(self, run: "_RunningPart", part: LastingPart, started: float) -> tuple[float | None, str]:
        """One run of a part: how long it was healthy (None: never), and how it ended."""
        patience = start_patience(part.start_seconds, run.restarts)
        try:
            now = run.now = await launched(part)
        except OSError as error:  # no space for its log, or no process available: may be temporary
            return None, f"could not be launched: {error}"
        exited = asyncio.create_task(now.wait())
        try:
            if not await self._until_healthy(part, exited, deadline=started + patience):
                if exited.done():
                    return None, _ending(exited.result())
                await now.end()
                return None, f"was not healthy within {patience:.0f} s"
            healthy_at = time.monotonic()
            self._change(run, Condition.HEALTHY, healthy_at - started)
            while not exited.done():
                await asyncio.wait([exited], timeout=CHECKS_EVERY)
                if not exited.done():
                    await self._check_again(run, part)
            return time.monotonic() - healthy_at, _ending(exited.result())
        finally:
            exited.cancel()

    async def _until_healthy(self, part: LastingPart, exited: asyncio.Task[int], deadline: float) -> bool:
        while not exited.done() and time.monotonic() < deadline:
            try:
                await part.check()
            except (NotHealthyYet, OSError):
                await asyncio.wait([exited], timeout=FIRST_CHECKS_EVERY)
            else:
                # Something else may have answered on that port while this one was exiting.
                return not exited.done()
        return False

    async def _check_again(self, run: "_RunningPart", part: LastingPart) -> None:
        try:
            await part.check()
        except (NotHealthyYet, OSError) as problem:
            if run.condition is Condition.HEALTHY:
                self._change(run, Condition.UNHEALTHY, detail=str(problem))
        else:
            if run.condition is Condition.UNHEALTHY:
                self._change(run, Condition.HEALTHY, detail="answers again")

    async def _stop(self, run: "_RunningPart") -> None:
        task = self._tasks.get(run.part.name)
        if task is None:
            return
        started = time.monotonic()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        now, part = run.now, run.part
        if now is None or now.returncode is not None or isinstance(part, SetupStep):
            run.condition = Condition.STOPPED
            return
        self._change(run, Condition.STOPPING)
        by_itself = await now.end()
        detail = "" if by_itself else f"{'killed' if now.pid else 'abandoned'} after {part.stop_seconds:.0f} s"
        self._change(run, Condition.STOPPED, time.monotonic() - started, detail)

    def _change(self, run: "_RunningPart", condition: Condition, seconds: float = 0.0, detail: str = "") -> None:
        run.condition = condition
        if condition is Condition.HEALTHY:
            run.healthy.set()
        self._emit(PartEvent(run.part.name, condition, seconds, detail))


class _RunningPart:
    """The supervisor's state of a running part."""

    def __init__(self, part: StackPart) -> None:
        self.part = part
        self.condition = Condition.WAITING
        self.healthy = asyncio.Event()
        self.now: PartRun | None = None
        self.restarts = RestartState()


def layers(parts: Sequence[StackPart]) -> list[list[StackPart]]:
    """Group parts into layers, each part in a later layer than all it waits for.

    Raises:
        ValueError: some wait for each other.
    """
    left, placed, result = list(parts), set[str](), list[list[StackPart]]()
    while left:
        layer = [part for part in left if placed.issuperset(part.after)]
        if not layer:
            raise ValueError(f"parts wait for each other: {sorted(part.name for part in left)}")
        result.append(layer)
        placed.update(part.name for part in layer)
        left = [part for part in left if part.name not in placed]
    return result


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _last_lines(part: LastingPart) -> str:
    try:
        with part.log.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 8_000))
            lines = log.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    except FileNotFoundError:
        return ""
    return " The last lines of its log:\n" + "\n".join(f"    {line}" for line in lines)
