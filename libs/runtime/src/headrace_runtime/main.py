"""The command line of a service process: --help, --version, --validate, or run."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from headrace_runtime import tracing
from headrace_runtime.garbage import SurvivorFreezer
from headrace_runtime.lifecycle import EXIT_BAD_SETTINGS, EXIT_CLEAN, EXIT_FAILED, Part, Service, run
from headrace_runtime.logging import configure, get_logger, report_loop_error, report_thread_error
from headrace_runtime.ops import OpsServer
from headrace_runtime.settings import ServiceSettings, SettingsInvalid
from headrace_runtime.settings_help import help_text, likely_typos

S = TypeVar("S", bound=ServiceSettings)

_SWITCH_SECONDS = 0.0005


def main(settings_class: type[S], build: Callable[[S], Service], argv: Sequence[str] | None = None) -> int:
    """Run a service, or handle an option; returns the exit code: 0 clean, 1 failure, 2 bad settings or arguments.

    `build` may raise SettingsInvalid for what only it can check, such as a file named by a setting.
    The ops server is started before the parts that `build` returns, so that /readyz can report what a starting
    service waits for.
    """
    settings = from_command_line(settings_class, argv)
    if isinstance(settings, int):
        return settings
    return _run(settings, build)


def from_command_line(settings_class: type[S], argv: Sequence[str] | None = None) -> S | int:
    """The settings to run with, or the exit code if an option was handled or the settings are invalid."""
    name = f"headrace-{settings_class.service_name}"
    release = settings_class.release()
    parser = argparse.ArgumentParser(prog=name, add_help=False)
    options = parser.add_mutually_exclusive_group()
    options.add_argument("-h", "--help", action="store_true")
    options.add_argument("--version", action="store_true")
    options.add_argument("--validate", action="store_true")
    chosen = parser.parse_args(argv)
    if chosen.help:
        sys.stdout.write(help_text(settings_class, release))
        return EXIT_CLEAN
    if chosen.version:
        sys.stdout.write(f"{name} {release}\n")
        return EXIT_CLEAN
    for unknown, meant in likely_typos(settings_class, os.environ):
        sys.stderr.write(f"{name}: warning: unknown variable {unknown}; did you mean {meant}?\n")
    try:
        settings = settings_class.load()
    except SettingsInvalid as error:
        for problem in error.problems:
            sys.stderr.write(f"{name}: {problem}\n")
        sys.stderr.write(f"{name}: {name} --help lists all variables\n")
        return EXIT_BAD_SETTINGS
    if chosen.validate:
        sys.stdout.write(f"{name}: the settings are valid\n")
        return EXIT_CLEAN
    return settings


def run_job(
    settings_class: type[S],
    job: Callable[[S], Coroutine[Any, Any, object]],
    *,
    name: str,
    doing: str,
    seconds: Callable[[S], float],
    refused: tuple[type[Exception], ...],
) -> int:
    """Run a program that does one thing and ends, or handle an option; returns the exit code as `main` does.

    Args:
        job: What it does; its result is printed. Raises TimeoutError when the time is up.
        name: Of the program in logs, after `headrace-`.
        doing: For the message of a failure.
        seconds: The time that it has.
        refused: Errors of the job that trying again does not resolve; their text is the message.
    """
    settings = from_command_line(settings_class)
    if isinstance(settings, int):
        return settings
    configure(
        service=f"headrace-{name}",
        instance=settings.instance_id,
        format=settings.log_format,
        level=settings.log_level,
    )
    try:
        done = asyncio.run(job(settings))
    except TimeoutError:
        sys.stderr.write(f"{doing} failed: not done within {seconds(settings):g} s\n")
        return EXIT_FAILED
    except refused as error:
        sys.stderr.write(f"{doing} failed: {error}\n")
        return EXIT_FAILED
    sys.stdout.write(f"{done}\n")
    return EXIT_CLEAN


def _run(settings: S, build: Callable[[S], Service]) -> int:
    service = f"headrace-{settings.service_name}"
    configure(service=service, instance=settings.instance_id, format=settings.log_format, level=settings.log_level)
    end_export = tracing.setup(
        service=service,
        instance=settings.instance_id,
        version=settings.release(),
        endpoint=settings.otlp_endpoint,
        sample_ratio=settings.trace_sample_ratio,
    )
    switch_threads_often()
    SurvivorFreezer().install()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(live(settings, build))
    finally:
        end_export()


def switch_threads_often() -> None:
    """Kafka's threads and the event loop pass control back and forth for every record; with the default of 5 ms a busy
    loop would delay them longer than everything else in Kafka does."""
    sys.setswitchinterval(_SWITCH_SECONDS)


async def live(settings: S, build: Callable[[S], Service], stop_requested: asyncio.Event | None = None) -> int:
    """Build the service and run it until a signal, or in a process of several until `stop_requested`; its exit code."""
    release = settings.release()
    asyncio.get_running_loop().set_exception_handler(report_loop_error)
    threading.excepthook = report_thread_error
    log = get_logger("headrace.runtime")
    log.info("starting", version=release, event_loop=type(asyncio.get_running_loop()).__module__)
    try:
        service = build(settings)
    except SettingsInvalid as error:
        log.error("settings are invalid", problems=error.problems)
        return EXIT_BAD_SETTINGS
    except Exception:
        log.exception("the service could not be built from its settings")
        return EXIT_FAILED
    service.metrics.gauge("memory_limit", "Memory that this process may take.", unit="bytes").set(
        settings.memory_limit_bytes
    )
    ops = OpsServer(
        host=settings.ops_host,
        port=settings.ops_port,
        service=f"headrace-{settings.service_name}",
        version=release,
        instance=settings.instance_id,
        health=service.health,
        metrics=service.metrics,
    )
    parts = [Part("ops server", start=ops.start, stop=ops.stop), *service.parts]
    whole = Service(parts, service.metrics, service.health)
    return await run(whole, drain_seconds=settings.drain_seconds, stop_requested=stop_requested)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop that services run on: uvloop's, on Linux; None for asyncio's own elsewhere."""
    if sys.platform != "linux":
        return None
    import uvloop

    return uvloop.new_event_loop
