"""The supervisor on small processes of its own: order, restarts, giving up, and stopping."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from headrace_devstack import supervisor as supervisor_module
from headrace_devstack.errors import FreeThePort, ReadThePartLog
from headrace_devstack.parts.part import NotHealthyYet, Process, ProcessCommand, SetupStep, StackPart
from headrace_devstack.restart import RestartPolicy
from headrace_devstack.supervisor import Condition, PartEvent, Supervisor, layers

POLICY = RestartPolicy(first=0.05, factor=2.0, longest=0.2, forget_after=60.0, tries_before_healthy=2)


class Events:
    """Remembers events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.seen: list[PartEvent] = []
        self._more = asyncio.Event()

    def __call__(self, event: PartEvent) -> None:
        self.seen.append(event)
        self._more.set()

    def conditions(self, part: str) -> list[Condition]:
        return [event.condition for event in self.seen if event.part == part]

    async def wait(self, part: str, condition: Condition, times: int = 1) -> PartEvent:
        async with asyncio.timeout(30):
            while self.conditions(part).count(condition) < times:
                self._more.clear()
                await self._more.wait()
        return [event for event in self.seen if event.part == part and event.condition is condition][times - 1]


async def fine() -> None:
    """A check that always passes."""


def process(
    folder: Path,
    name: str,
    script: str = "exec sleep 60",
    *,
    check: Callable[[], Awaitable[None]] = fine,
    prepare: Callable[[], Awaitable[None]] = fine,
    after: tuple[str, ...] = (),
    stop_seconds: float = 5.0,
    start_seconds: float = 5.0,
) -> Process:
    command = ProcessCommand(
        argv=("/bin/sh", "-c", script),
        environment=dict(os.environ),
        log=folder / f"{name}.log",
        folder=folder,
        stop_seconds=stop_seconds,
    )
    return Process(name, command, check, prepare=prepare, after=after, start_seconds=start_seconds)


@asynccontextmanager
async def supervised(parts: Sequence[StackPart]) -> AsyncIterator[tuple[Supervisor, Events]]:
    events = Events()
    supervisor = Supervisor(parts, events, POLICY)
    try:
        yield supervisor, events
    finally:
        await supervisor.stop()
        assert all(status.pid is None for status in supervisor.status())


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = next(status.pid for status in supervisor.status() if status.name == name)
    assert pid is not None
    return pid


async def test_parts_start_after_those_they_need_and_stop_before_them(tmp_path: Path) -> None:
    order: list[str] = []

    async def step() -> str:
        order.append("step")
        return "done"

    async def prepare() -> None:
        order.append("prepare app")

    parts: list[StackPart] = [
        process(tmp_path, "app", after=("step",), prepare=prepare),
        SetupStep("step", step, after=("store",)),
        process(tmp_path, "store"),
    ]
    async with supervised(parts) as (supervisor, events):
        await supervisor.start()
        healthy = [event.part for event in events.seen if event.condition is Condition.HEALTHY]
        assert healthy == ["store", "step", "app"]
        assert order == ["step", "prepare app"]
        assert (await events.wait("step", Condition.HEALTHY)).detail == "done"
    stopped = [event.part for event in events.seen if event.condition is Condition.STOPPED]
    assert stopped == ["app", "store"]


async def test_start_waits_for_the_check(tmp_path: Path) -> None:
    ready_at = time.monotonic() + 0.3

    async def check() -> None:
        if time.monotonic() < ready_at:
            raise NotHealthyYet("not yet")

    async with supervised([process(tmp_path, "slow", check=check)]) as (supervisor, events):
        await supervisor.start()
        assert time.monotonic() >= ready_at
        assert (await events.wait("slow", Condition.HEALTHY)).seconds >= 0.25


async def test_a_killed_part_is_started_again_and_said_so(tmp_path: Path) -> None:
    async with supervised([process(tmp_path, "part"), process(tmp_path, "other")]) as (supervisor, events):
        await supervisor.start()
        first, other = pid_of(supervisor, "part"), pid_of(supervisor, "other")
        os.kill(first, signal.SIGKILL)
        told = await events.wait("part", Condition.RESTARTING)
        await events.wait("part", Condition.HEALTHY, times=2)
        assert told.detail == "was ended by signal 9"
        assert told.seconds == POLICY.first
        assert pid_of(supervisor, "part") != first
        assert pid_of(supervisor, "other") == other
        assert [status.restarts for status in supervisor.status()] == [1, 0]


async def test_delays_grow_while_a_part_keeps_ending(tmp_path: Path) -> None:
    async with supervised([process(tmp_path, "part")]) as (supervisor, events):
        await supervisor.start()
        for times in range(1, 5):
            os.kill(pid_of(supervisor, "part"), signal.SIGKILL)
            await events.wait("part", Condition.HEALTHY, times=times + 1)
        told = [event.seconds for event in events.seen if event.condition is Condition.RESTARTING]
        assert told == [0.05, 0.1, 0.2, 0.2]


async def test_a_part_that_cannot_start_fails_the_start_with_the_end_of_its_log(tmp_path: Path) -> None:
    async def never() -> None:
        raise NotHealthyYet("never")

    part = process(tmp_path, "broken", "echo the disk is on fire; exit 3", check=never)
    async with supervised([part, process(tmp_path, "needs it", after=("broken",))]) as (supervisor, events):
        with pytest.raises(ReadThePartLog) as raised:
            await supervisor.start()
        assert "exit code 3" in raised.value.problem
        assert "the disk is on fire" in raised.value.problem
        assert str(tmp_path / "broken.log") in raised.value.remedy
        assert events.conditions("needs it") == []


async def test_a_part_that_is_not_healthy_in_time_is_ended_and_given_up(tmp_path: Path) -> None:
    async def never() -> None:
        raise NotHealthyYet("never")

    part = process(tmp_path, "hangs", check=never, start_seconds=0.2)
    async with supervised([part]) as (supervisor, _):
        with pytest.raises(ReadThePartLog, match="was not healthy within 0 s"):
            await supervisor.start()


async def test_a_failed_preparation_fails_the_start(tmp_path: Path) -> None:
    async def prepare() -> None:
        raise FreeThePort("port 1 is taken", "free it")

    async with supervised([process(tmp_path, "ok"), process(tmp_path, "not", prepare=prepare)]) as (supervisor, _):
        with pytest.raises(FreeThePort):
            await supervisor.start()


async def test_a_failed_step_fails_the_start(tmp_path: Path) -> None:
    async def step() -> str:
        raise FreeThePort("port 1 is taken", "free it")

    async with supervised([process(tmp_path, "ok"), SetupStep("step", step, after=("ok",))]) as (supervisor, _):
        with pytest.raises(FreeThePort):
            await supervisor.start()


async def test_a_part_that_answers_no_longer_is_reported_and_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "CHECKS_EVERY", 0.02)
    problem: list[str] = []

    async def check() -> None:
        if problem:
            raise NotHealthyYet(problem[0])

    async with supervised([process(tmp_path, "part", check=check)]) as (supervisor, events):
        await supervisor.start()
        pid = pid_of(supervisor, "part")
        problem.append("answers 503")
        assert (await events.wait("part", Condition.UNHEALTHY)).detail == "answers 503"
        problem.clear()
        await events.wait("part", Condition.HEALTHY, times=2)
        assert pid_of(supervisor, "part") == pid


async def test_one_that_will_not_stop_is_killed_with_its_children(tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; touch {tmp_path}/ready; while :; do wait; done"

    async def check() -> None:
        if not (tmp_path / "ready").exists():
            raise NotHealthyYet("not yet")

    part = process(tmp_path, "stubborn", script, check=check, stop_seconds=0.2)
    async with supervised([part]) as (supervisor, events):
        await supervisor.start()
        child = psutil.Process(int((tmp_path / "child").read_text()))
    assert (await events.wait("stubborn", Condition.STOPPED)).detail == "killed after 0 s"
    assert psutil.wait_procs([child], timeout=5)[1] == []


async def test_stopping_while_starting_leaves_nothing(tmp_path: Path) -> None:
    launched = asyncio.Event()

    async def never() -> None:
        launched.set()
        raise NotHealthyYet("never")

    async with supervised([process(tmp_path, "part", check=never)]) as (supervisor, _):
        starting = asyncio.create_task(supervisor.start())
        await launched.wait()
        assert pid_of(supervisor, "part")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting


def test_layers_follow_the_needs(tmp_path: Path) -> None:
    a, b, c = process(tmp_path, "a"), process(tmp_path, "b", after=("a",)), process(tmp_path, "c", after=("a", "b"))
    assert layers([c, b, a]) == [[a], [b], [c]]


def test_parts_that_wait_for_each_other_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\['a', 'b'\]"):
        layers([process(tmp_path, "a", after=("b",)), process(tmp_path, "b", after=("a",))])


def test_parts_that_wait_for_none_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nobody"):
        Supervisor([process(tmp_path, "a", after=("nobody",))], Events())


async def test_a_part_that_cannot_be_launched_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "gone-for-a-while"
    folder.mkdir()
    async with supervised([process(folder, "part")]) as (supervisor, events):
        await supervisor.start()
        folder.rename(tmp_path / "elsewhere")  # neither log nor working directory: launching fails
        os.kill(pid_of(supervisor, "part"), signal.SIGKILL)
        told = await events.wait("part", Condition.RESTARTING, times=2)
        assert told.detail.startswith("could not be launched: ")
        (tmp_path / "elsewhere").rename(folder)
        await events.wait("part", Condition.HEALTHY, times=2)
