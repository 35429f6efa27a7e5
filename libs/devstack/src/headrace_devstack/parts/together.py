"""The services as work within this process: one thread with an event loop of its own, for all of them.

The supervisor stays on its own loop, so it answers Ctrl-C and tells of a service that blocks the others' loop. What is
lost against a process per service: work that blocks the loop or the interpreter holds all services up, and what ends
the process ends the whole stack.
"""

import asyncio
import contextlib
import ctypes
import os
import sys
import threading
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib import import_module

from headrace_devstack.descriptions import ServiceDescription
from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.part import Hosted, SetupStep
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.parts.service import START_SECONDS, STOP_SECONDS, api_address, environment_of
from headrace_devstack.parts.simulator import simulator_url
from headrace_devstack.ports import LOOPBACK, PortPlan

CODE = "code"
"""The step that loads the services, while Kafka starts."""
_LOADED_FOR = {"ANTHROPIC_API_KEY": "headrace_models.anthropic"}
_M_ARENA_MAX = -8
_ARENAS = 2
_END_SECONDS = 5.0

Work = Callable[[asyncio.Event], Awaitable[int]]
"""Goes on until it fails or the event is set; returns an exit code."""


class ServiceThread:
    """The thread and event loop that all services share."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def running(self, folder: DataFolder) -> Iterator[None]:
        """From start to end of the thread; what still runs on it then is abandoned."""
        # Imported here and below: where each service has its process, this one needs none of it.
        from headrace_runtime.hosting import ServiceLogs, collect_tasks, process_for_services
        from headrace_runtime.main import loop_factory

        use_few_arenas()
        loop = self._loop = (loop_factory() or asyncio.new_event_loop)()
        collect_tasks(loop)
        thread = threading.Thread(target=loop.run_forever, name="services", daemon=True)
        with process_for_services(
            ServiceLogs(folder.log, folder.log("services")),
            name="headrace-up",
            format="human" if os.environ.get("HEADRACE_LOG_FORMAT") == "human" else "json",
            level=_level(os.environ.get("HEADRACE_LOG_LEVEL", "info")),
        ):
            thread.start()
            try:
                yield
            finally:
                loop.call_soon_threadsafe(loop.stop)
                thread.join(_END_SECONDS)

    async def run(self, work: Work, stop: asyncio.Event) -> int:
        """Run this on the services' loop until `stop`, an event of the caller's loop; its exit code."""
        assert self._loop is not None, "only while it runs"
        stop_there = asyncio.Event()

        async def begin() -> int:
            return await work(stop_there)

        running = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(begin(), self._loop))
        stopping = asyncio.create_task(stop.wait())
        either: tuple[asyncio.Future[typing.Any], ...] = (running, stopping)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            self._loop.call_soon_threadsafe(stop_there.set)
            return await running
        finally:
            stopping.cancel()
            running.cancel()


def use_few_arenas() -> None:
    """Let the threads of the Kafka clients share the C library's memory instead of keeping some each."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, _ARENAS)


def code_step(services: Sequence[ServiceDescription], variables: Mapping[str, str]) -> SetupStep:
    """Loads the services' code, so that they can start at once when topics and database are there.

    `variables` tell what else they will load when they are built: on their loop that would hold all of them up.
    """
    modules = [f"{service.package}.wiring" for service in services]
    modules += [module for variable, module in _LOADED_FOR.items() if variables.get(variable)]

    async def load() -> str:
        await asyncio.to_thread(lambda: list(map(import_module, modules)))
        return f"{len(services)} services loaded into this process"

    return SetupStep(CODE, load)


def hosted_service(
    thread: ServiceThread,
    folder: DataFolder,
    ports: PortPlan,
    service: ServiceDescription,
    environment: Mapping[str, str],
    *,
    note: str,
) -> Hosted:
    """One service within this process, configured and checked as one in a process of its own."""
    variables = environment_of(ports, service, environment)

    async def live(stop: asyncio.Event) -> int:
        from headrace_runtime.hosting import run_hosted

        build = import_module(f"{service.package}.wiring").build
        # Every service's `build` takes its settings, and says so.
        settings_class = typing.get_type_hints(build)["settings"]
        return await run_hosted(settings_class, build, variables, stop)

    async def run(stop: asyncio.Event) -> int:
        return await thread.run(live, stop)

    return Hosted(
        name=service.name,
        run=run,
        check=lambda: http_ok(f"http://{LOOPBACK}:{ports.ops(service.name)}/readyz"),
        log=folder.log(service.name),
        after=(CODE, "topics", "postgres"),
        address=api_address(ports, service),
        note=note,
        start_seconds=START_SECONDS,
        stop_seconds=STOP_SECONDS,
    )


def hosted_simulator(
    thread: ServiceThread, folder: DataFolder, ports: PortPlan, stands_for: tuple[str, ...], speed: str
) -> Hosted:
    """The simulator within this process."""
    log = folder.part("simulator") / "requests.jsonl"

    async def live(stop: asyncio.Event) -> int:
        from headrace_models.simulator.pace import Speed
        from headrace_models.simulator.server import Simulator, SimulatorConfig
        from headrace_runtime.logging import speak_as

        speak_as("headrace-simulator", "simulator")
        config = SimulatorConfig(host=LOOPBACK, port=ports.simulator, speed=Speed.parse(speed), log=log)
        async with Simulator(config):
            await stop.wait()
        return 0

    async def run(stop: asyncio.Event) -> int:
        return await thread.run(live, stop)

    return Hosted(
        name="simulator",
        run=run,
        check=lambda: http_ok(f"{simulator_url(ports)}/healthz"),
        log=folder.log("simulator"),
        address=simulator_url(ports),
        note=f"stands in for {', '.join(stands_for)}",
    )


def _level(text: str) -> typing.Literal["debug", "info", "warning", "error"]:
    match text:
        case "debug" | "warning" | "error":
            return text
        case _:
            return "info"
