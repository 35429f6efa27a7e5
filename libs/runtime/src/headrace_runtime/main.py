"""The command line of a service process: --help, --version, --validate, or run."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from headrace_runtime import tracing
from headrace_runtime.lifecycle import EXIT_BAD_SETTINGS, EXIT_CLEAN, EXIT_FAILED, Part, Service, run
from headrace_runtime.logging import configure, get_logger
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
    return _run(settings, build, release_of(settings_class))


def from_command_line(settings_class: type[S], argv: Sequence[str] | None = None) -> S | int:
    """The settings to run with, or the exit code if an option was handled or the settings are invalid."""
    name = f"headrace-{settings_class.service_name}"
    release = release_of(settings_class)
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


def _run(settings: S, build: Callable[[S], Service], release: str) -> int:
    service = f"headrace-{settings.service_name}"
    configure(service=service, instance=settings.instance_id, format=settings.log_format, level=settings.log_level)
    end_export = tracing.setup(
        service=service,
        instance=settings.instance_id,
        version=release,
        endpoint=settings.otlp_endpoint,
        sample_ratio=settings.trace_sample_ratio,
    )
    # Kafka's threads and the event loop pass control back and forth for every record; with the default of 5 ms a busy
    # loop would delay them longer than everything else in Kafka does.
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_live(settings, build, release))
    finally:
        end_export()


async def _live(settings: S, build: Callable[[S], Service], release: str) -> int:
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
    return await run(Service(parts, service.metrics, service.health), drain_seconds=settings.drain_seconds)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop that services run on: uvloop's, on Linux; None for asyncio's own elsewhere."""
    if sys.platform != "linux":
        return None
    import uvloop

    return uvloop.new_event_loop


def release_of(settings_class: type[ServiceSettings]) -> str:
    """Version of the service's package."""
    try:
        return version(f"headrace-{settings_class.service_name}")
    except PackageNotFoundError:
        return "0+unknown"
