"""The command ``headrace up``."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.live import Live

from headrace_devstack import status
from headrace_devstack.errors import DevstackError
from headrace_devstack.settings import StackSettings, load_settings
from headrace_devstack.stack import Stack, open_stack
from headrace_devstack.supervisor import PartEvent

STATUS_SECONDS = 1.0


def up(
    data: Annotated[
        Path | None, typer.Option(help="Folder for all data. [HEADRACE_DATA, default .headrace]", show_default=False)
    ] = None,
    port_base: Annotated[
        int | None,
        typer.Option(
            help="First of a block of 40 ports; 0 picks a free block. [HEADRACE_PORT_BASE, default: as last time, "
            "at first 19080]",
            show_default=False,
        ),
    ] = None,
    brokers: Annotated[
        int | None,
        typer.Option(
            help="Kafka brokers: 1, or 3 with three replicas of everything, of which one may be missing (0.7 GB more). "
            "[HEADRACE_BROKERS, default: as many as the data folder has, at first 1]",
            show_default=False,
        ),
    ] = None,
    secure: Annotated[
        bool | None,
        typer.Option(
            "--secure",
            help="Require logins, and allow services and users no more than they need: Kafka with SCRAM and ACLs, the "
            "registry with passwords for writers. What tenants submit over Kafka must be signed. "
            "Without it, whoever reaches the ports may do everything. [HEADRACE_SECURE]",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for downloads. [HEADRACE_CACHE, default ~/.cache/headrace]", show_default=False),
    ] = None,
    topic_prefix: Annotated[
        str | None,
        typer.Option(help="Prefix of all topic names. [HEADRACE_TOPIC_PREFIX, default headrace.]", show_default=False),
    ] = None,
    processes: Annotated[
        Literal["each", "one"] | None,
        typer.Option(
            help="A process for each service, as in production; or one for all services and the simulator, with the "
            "other parts made small: half the memory, a faster start, and a service that blocks holds up all. "
            "[HEADRACE_PROCESSES, default each]",
            show_default=False,
        ),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            help="Sites of further local workers, comma-separated, as in berlin,gpu-1: their topics are created, and "
            "the router is told. [HEADRACE_SITES]",
            show_default=False,
        ),
    ] = None,
    simulate: Annotated[
        bool | None,
        typer.Option(
            "--simulate",
            help="Simulate all model providers, even if real ones are available. [HEADRACE_SIMULATE]",
            show_default=False,
        ),
    ] = None,
    simulator_speed: Annotated[
        str | None,
        typer.Option(
            help="How fast simulated models answer: instant, realistic, or a factor such as 10. "
            "[HEADRACE_SIMULATOR_SPEED, default realistic]",
            show_default=False,
        ),
    ] = None,
    backing_only: Annotated[
        bool | None,
        typer.Option(
            "--backing-only",
            help="Start only Kafka, registry and Postgres, for services run by hand. [HEADRACE_BACKING_ONLY]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the whole platform on this machine: Kafka, schema registry, Postgres and the services.

    The first start downloads Kafka and the registry (204 MB); after that no network is needed.

    Ctrl-C or SIGTERM stops everything; the data stays, and the next start resumes.
    """
    try:
        settings = load_settings(
            data=data, port_base=port_base, brokers=brokers, secure=secure, cache=cache,
            topic_prefix=topic_prefix, processes=processes, sites=sites, simulate=simulate,
            simulator_speed=simulator_speed, backing_only=backing_only,
        )  # fmt: skip
        asyncio.run(run_until_stopped(settings, Console()))
    except DevstackError as error:
        status.print_error(Console(stderr=True), error)
        raise typer.Exit(1) from None


async def run_until_stopped(settings: StackSettings, console: Console) -> None:
    """Run a stack until SIGINT or SIGTERM.

    Raises:
        DevstackError: it could not be started.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    running = asyncio.create_task(_run(settings, console))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not running.done():
        console.print("\nStopping")
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(settings: StackSettings, console: Console) -> None:
    started = time.monotonic()
    lines = status.EventLines(console)
    bar = status.DownloadBar(console)
    changed = asyncio.Event()

    def emit(event: PartEvent) -> None:
        changed.set()
        # The disk under the output may be full; the stack continues.
        with contextlib.suppress(OSError):
            lines(event)

    with contextlib.closing(bar):
        async with open_stack(settings, emit, bar) as stack:
            bar.close()
            lines.know(stack.parts)
            with status.live(console) as display:
                showing = asyncio.create_task(_show_status(display, stack)) if display else None
                try:
                    await stack.supervisor.start()
                    stack.publish()
                    await _greet(console, stack, settings, time.monotonic() - started)
                    publishing = asyncio.create_task(_keep_published(stack, changed))
                    try:
                        await stack.supervisor.watch()
                    finally:
                        publishing.cancel()
                finally:
                    if showing:
                        showing.cancel()


async def _keep_published(stack: Stack, changed: asyncio.Event) -> None:
    """Update stack.json after a restart, which changes the part's pid; retried while the disk is full."""
    while True:
        await changed.wait()
        changed.clear()
        try:
            stack.publish()
        except OSError:
            await asyncio.sleep(STATUS_SECONDS)
            changed.set()


async def _greet(console: Console, stack: Stack, settings: StackSettings, seconds: float) -> None:
    if settings.backing_only:
        status.print_backing(console, stack)
        return
    # Imported here, as the other client libraries are: loading them takes a while.
    from headrace_devstack.served_roles import what_is_missing

    memory = status.memory_of(stack.supervisor.status())
    missing = await what_is_missing(stack.addresses.ollama_nodes, stack.addresses.cloud_providers)
    status.print_welcome(console, stack, seconds, memory, missing)


async def _show_status(display: Live, stack: Stack) -> None:
    started = time.monotonic()
    while True:
        parts = stack.supervisor.status()
        memory = await asyncio.to_thread(status.memory_of, parts)
        line = status.status_line(parts, now=time.monotonic(), started=started, memory=memory)
        display.update(line, refresh=True)
        await asyncio.sleep(STATUS_SECONDS)
