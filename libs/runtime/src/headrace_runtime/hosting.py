"""Several services in one process: each with its own settings, health, metrics, ops server and log, on one event loop.

What a process has only one of is either the same for all of them (the event loop, how often threads switch, the format
and level of logs) or is found by the task that asks (who logs, where spans go). The figures that Prometheus's client
takes of the process itself (`process_*`, `python_*`) are those of all services together.

    logs = ServiceLogs(lambda service: folder / f"{service}.log", fallback=folder / "services.log")
    with process_for_services(logs, name="headrace-up"):
        collect_tasks(loop)
        code = await run_hosted(IntakeSettings, build, environment, stop_requested)
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeVar
from weakref import WeakSet

from headrace_runtime import tracing
from headrace_runtime.garbage import SurvivorFreezer
from headrace_runtime.lifecycle import EXIT_BAD_SETTINGS, Service
from headrace_runtime.logging import configure, get_logger, speak_as, speaker
from headrace_runtime.main import live, switch_threads_often
from headrace_runtime.settings import ServiceSettings, SettingsInvalid

S = TypeVar("S", bound=ServiceSettings)

_LEFT_SECONDS: Final = 2.0
"""Longest time that tasks which a service has left behind may take to end once they are cancelled."""

_tasks: ContextVar[WeakSet[asyncio.Task[Any]] | None] = ContextVar("tasks", default=None)
"""The tasks of the service whose task this is."""

_log = get_logger("headrace.runtime.hosting")


class ServiceLogs:
    """A text stream that writes what each service says to that service's file.

    Args:
        path_of: The file of a service, by its name.
        fallback: The file for what no service says.
    """

    def __init__(self, path_of: Callable[[str], Path], fallback: Path) -> None:
        self._path_of = path_of
        self._fallback = fallback
        self._files: dict[Path, TextIO] = {}

    def write(self, text: str) -> int:
        """Append to the file of the service in whose task or thread this is called."""
        return self._file().write(text)

    def flush(self) -> None:
        """Pass on what has been written."""
        self._file().flush()

    def isatty(self) -> bool:
        """Never: these are files."""
        return False

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._files.popitem()[1].close()

    def _file(self) -> TextIO:
        service = speaker()
        path = self._fallback if service is None else self._path_of(service.removeprefix("headrace-"))
        # Two threads may open it at once: the file that is not kept is closed with its last reference.
        return self._files.get(path) or self._files.setdefault(path, path.open("a", encoding="utf-8"))


async def run_hosted(
    settings_class: type[S],
    build: Callable[[S], Service],
    environment: Mapping[str, str],
    stop_requested: asyncio.Event,
) -> int:
    """Run a service among others until `stop_requested` or until it fails; its exit code, as that of its own process.

    Tasks that it leaves behind are cancelled, so that it can be run again. `collect_tasks` must have been called for
    the event loop.
    """
    own: WeakSet[asyncio.Task[Any]] = WeakSet()
    context = contextvars.copy_context()
    context.run(_tasks.set, own)
    life = asyncio.get_running_loop().create_task(
        _run(settings_class, build, environment, stop_requested), context=context
    )
    try:
        return await life
    finally:
        await _end([task for task in own if not task.done()])


async def _run(
    settings_class: type[S],
    build: Callable[[S], Service],
    environment: Mapping[str, str],
    stop_requested: asyncio.Event,
) -> int:
    service = f"headrace-{settings_class.service_name}"
    speak_as(service, service)
    try:
        settings = settings_class.load(environment)
    except SettingsInvalid as error:
        _log.error("settings are invalid", problems=error.problems)
        return EXIT_BAD_SETTINGS
    speak_as(service, settings.instance_id)
    end_export = tracing.setup(
        service=service,
        instance=settings.instance_id,
        version=settings.release(),
        endpoint=settings.otlp_endpoint,
        sample_ratio=settings.trace_sample_ratio,
        shared=True,
    )
    try:
        return await live(settings, build, stop_requested)
    finally:
        await asyncio.to_thread(end_export)


async def _end(left: list[asyncio.Task[Any]]) -> None:
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_LEFT_SECONDS)


def collect_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Make the loop remember which service each of its tasks belongs to."""

    def make(
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context, **options)
        own = _tasks.get() if context is None else context.get(_tasks)
        if own is not None:
            own.add(task)
        return task

    loop.set_task_factory(make)


@contextlib.contextmanager
def process_for_services(
    logs: ServiceLogs,
    *,
    name: str,
    format: Literal["json", "human"] = "json",
    level: Literal["debug", "info", "warning", "error"] = "info",
) -> Iterator[None]:
    """Set up what all services of this process share; lines that no service writes have the `name` of the process."""
    configure(service=name, instance=name, format=format, level=level, stream=logs)
    switch_threads_often()
    freezer = SurvivorFreezer()
    freezer.install()
    try:
        yield
    finally:
        freezer.remove()
        logs.close()
