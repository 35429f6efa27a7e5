"""Parts that run within the process of `headrace up`: restarted alone, stopped in order, abandoned when they hang."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import structlog
from headrace_devstack.errors import ReadThePartLog
from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.part import Hosted, NotHealthyYet, StackPart
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.parts.together import ServiceThread
from headrace_devstack.restart import RestartPolicy
from headrace_devstack.supervisor import Condition, PartEvent, Supervisor
from headrace_runtime.hosting import run_hosted
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics
from headrace_runtime.settings import ServiceSettings
from headrace_testing.waiting import eventually

POLICY = RestartPolicy(first=0.05, factor=2.0, longest=0.2, forget_after=60.0, tries_before_healthy=2)


class SteadySettings(ServiceSettings):
    service_name: ClassVar[str] = "steady"


class FragileSettings(ServiceSettings):
    service_name: ClassVar[str] = "fragile"


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[ServiceThread]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    (tmp_path / "logs").mkdir()
    thread = ServiceThread()
    with thread.running(DataFolder(tmp_path)):
        yield thread
    assert "services" not in {one.name for one in threading.enumerate()}
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


class Running:
    """A supervisor and what it has told."""

    def __init__(self, parts: list[StackPart]) -> None:
        self.events: list[PartEvent] = []
        self.supervisor = Supervisor(parts, self.events.append, POLICY)

    def conditions(self, part: str) -> list[Condition]:
        return [event.condition for event in self.events if event.part == part]


@pytest.fixture
async def started() -> AsyncIterator[Callable[[list[StackPart]], Running]]:
    made: list[Running] = []

    def make(parts: list[StackPart]) -> Running:
        made.append(Running(parts))
        return made[-1]

    yield make
    for one in made:
        await one.supervisor.stop()


def hosted(thread: ServiceThread, settings: type[ServiceSettings], port: int, part: Part, folder: Path) -> Hosted:
    """A real service with this part, checked over HTTP."""

    def build(_settings: ServiceSettings) -> Service:
        return Service([part], Metrics(settings.service_name))

    async def live(stop: asyncio.Event) -> int:
        return await run_hosted(settings, build, {"HEADRACE_OPS_PORT": str(port)}, stop)

    async def run(stop: asyncio.Event) -> int:
        return await thread.run(live, stop)

    log = folder / "logs" / f"{settings.service_name}.log"
    return Hosted(settings.service_name, run, lambda: http_ok(f"http://127.0.0.1:{port}/readyz"), log)


async def test_a_service_that_crashes_comes_back_and_the_others_go_on(
    thread: ServiceThread,
    started: Callable[[list[StackPart]], Running],
    unused_tcp_port_factory: Callable[[], int],
    tmp_path: Path,
) -> None:
    crash = threading.Event()
    runs, beats = [0], [0]
    others_runs = [0]

    async def fragile() -> None:
        runs[0] += 1
        while not crash.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        crash.clear()
        raise RuntimeError("a defect")

    async def steady() -> None:
        others_runs[0] += 1
        while True:
            beats[0] += 1
            await asyncio.sleep(0.01)

    running = started(
        [
            hosted(thread, FragileSettings, unused_tcp_port_factory(), Part("work", run=fragile), tmp_path),
            hosted(thread, SteadySettings, unused_tcp_port_factory(), Part("work", run=steady), tmp_path),
        ]
    )
    await running.supervisor.start()
    before = beats[0]
    crash.set()

    async def back() -> bool:
        return running.conditions("fragile").count(Condition.HEALTHY) == 2

    await eventually(back)
    told = next(event for event in running.events if event.condition is Condition.RESTARTING)
    assert (told.part, told.seconds, told.detail) == ("fragile", POLICY.first, "ended with exit code 1")
    assert (runs, others_runs) == ([2], [1])
    assert beats[0] > before
    assert running.conditions("steady") == [Condition.STARTING, Condition.HEALTHY]
    assert "a defect" in (tmp_path / "logs/fragile.log").read_text()
    assert "a defect" not in (tmp_path / "logs/steady.log").read_text()
    restarts = {status.name: (status.pid, status.restarts, status.lasting) for status in running.supervisor.status()}
    assert restarts == {"fragile": (None, 1, True), "steady": (None, 0, True)}


async def test_parts_stop_in_order_and_one_that_hangs_is_abandoned_in_time(
    thread: ServiceThread, started: Callable[[list[StackPart]], Running], tmp_path: Path
) -> None:
    ended: list[str] = []

    def part(name: str, *after: str, hangs: bool = False) -> Hosted:
        async def live(stop: asyncio.Event) -> int:
            await (asyncio.Event() if hangs else stop).wait()
            ended.append(name)
            return 0

        async def run(stop: asyncio.Event) -> int:
            return await thread.run(live, stop)

        async def fine() -> None:
            """Always."""

        return Hosted(name, run, fine, tmp_path / "logs" / f"{name}.log", after=after, stop_seconds=0.3)

    running = started([part("store"), part("hangs", "store", hangs=True), part("front", "hangs")])
    await running.supervisor.start()
    began = time.monotonic()
    await running.supervisor.stop()
    assert time.monotonic() - began < 5.0
    assert ended == ["front", "store"]
    told = {event.part: event.detail for event in running.events if event.condition is Condition.STOPPED}
    assert told == {"front": "", "hangs": "abandoned after 0 s", "store": ""}


async def test_one_that_cannot_start_fails_the_start_with_the_end_of_its_log(
    thread: ServiceThread, started: Callable[[list[StackPart]], Running], tmp_path: Path
) -> None:
    async def fail() -> None:
        raise RuntimeError("a defect from the start")

    async def never() -> None:
        raise NotHealthyYet("never")

    made = hosted(thread, FragileSettings, 0, Part("work", run=fail), tmp_path)
    running = started([Hosted(made.name, made.run, never, made.log)])
    with pytest.raises(ReadThePartLog, match="a defect from the start"):
        await running.supervisor.start()


async def test_a_blocked_loop_of_services_does_not_block_the_supervisor(
    thread: ServiceThread, started: Callable[[list[StackPart]], Running], tmp_path: Path
) -> None:
    release, blocked = threading.Event(), threading.Event()

    async def live(stop: asyncio.Event) -> int:
        blocked.set()
        release.wait(10)
        await stop.wait()
        return 0

    async def run(stop: asyncio.Event) -> int:
        return await thread.run(live, stop)

    async def fine() -> None:
        """Always."""

    running = started([Hosted("blocks", run, fine, tmp_path / "x.log")])
    await running.supervisor.start()
    await asyncio.to_thread(blocked.wait, 5)
    began = time.monotonic()
    await asyncio.sleep(0.01)
    assert time.monotonic() - began < 5.0
    release.set()
