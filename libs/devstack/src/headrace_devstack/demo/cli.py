"""The command ``headrace demo``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from headrace import Addresses, HeadraceError, locate
from headrace_contracts.errors import ContractError
from headrace_streams.errors import StreamsError
from rich.console import Console

from headrace_devstack import status
from headrace_devstack.demo.corpus import SENSITIVE_PATTERNS
from headrace_devstack.demo.report import Run, as_document, print_report
from headrace_devstack.demo.run import DemoOptions, run_demo
from headrace_devstack.errors import DevstackError
from headrace_devstack.settings import StackSettings, load_settings
from headrace_devstack.stack import open_stack
from headrace_devstack.supervisor import PartEvent

_PROBE_SECONDS = 2.0
_PIPE_WIDTH = 130
_INTERRUPTED = 130


def demo(
    folder: Annotated[Path, typer.Option(help="Folder of files to work on.", show_default="this one")] = Path(),
    tasks: Annotated[
        int,
        typer.Option(
            help="Number of jobs, if the folder has enough material; each is a task, or with tools several.", min=1
        ),
    ] = 300,
    agents: Annotated[int, typer.Option(help="Number of agents.", min=1, max=1000)] = 100,
    sensitive: Annotated[
        list[str] | None,
        typer.Option(
            help="Pattern of names of sensitive files or folders; repeatable. "
            f"[default: {' '.join(SENSITIVE_PATTERNS)}]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for the assignment of jobs.")] = 1,
    answers: Annotated[
        Path | None, typer.Option(help="Folder to write the answers to, one file for each kind of work.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all figures and checks to a file; - for stdout.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Data folder of the stack. [HEADRACE_DATA, default .headrace]", show_default=False),
    ] = None,
) -> None:
    """Let an AI team work through a folder of real files, then check that Headrace kept its promises.

    A hundred agents document, review, audit and suggest tests, over HTTP, the OpenAI API and Kafka, for three tenants.
    Some let the model read and search the files with tools; reviews and audits answer with findings of a given form.
    It uses the stack running here, or starts one and stops it afterwards. Without provider keys and Ollama the models
    are simulated, and every table says so. Exit code 1 if a promise was broken.

    \b
    Examples:
      headrace demo
      headrace demo --folder ~/project --tasks 60 --agents 20 --sensitive '*internal*' --json result.json
    """
    # With JSON on stdout, all messages go to stderr.
    console = _console(json_file == "-")
    options = DemoOptions(folder, tasks, agents, tuple(sensitive or SENSITIVE_PATTERNS), seed, answers)
    try:
        settings = load_settings(data=data)
        run = asyncio.run(_until_interrupted(_demo(options, settings, console)))
    except DevstackError as error:
        status.print_error(Console(stderr=True), error)
        raise typer.Exit(1) from None
    except (HeadraceError, StreamsError, ContractError, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]headrace:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from None
    if run is None:
        raise typer.Exit(_INTERRUPTED)
    console.print()
    print_report(console, run)
    if json_file is not None:
        _write(json_file, run)
    if not run.passed:
        raise typer.Exit(1)


def _console(for_stderr: bool) -> Console:
    stream = sys.stderr if for_stderr else sys.stdout
    # A pipe has no width to wrap at.
    return Console(stderr=for_stderr, highlight=False, width=None if stream.isatty() else _PIPE_WIDTH)


async def _until_interrupted(work: Coroutine[Any, Any, Run]) -> Run | None:
    """The result; None after SIGINT or SIGTERM, once everything that was started has stopped."""
    task = asyncio.create_task(work)
    asked = False

    def stop() -> None:
        nonlocal asked
        # Once: a second request must not interrupt the shutdown.
        if not asked:
            asked = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def _demo(options: DemoOptions, settings: StackSettings, console: Console) -> Run:
    async with _stack(settings, console) as addresses:
        return await run_demo(options, addresses, console)


@asynccontextmanager
async def _stack(settings: StackSettings, console: Console) -> AsyncIterator[Addresses]:
    """The running stack, or one that runs for the duration of the block."""
    running = await _running_stack(settings)
    if running is not None:
        console.print(f"Using the running stack of {running.stack_file}", soft_wrap=True)
        yield running
        return
    console.print("Starting a stack for the demo (Ctrl-C stops it)")
    lines, bar = status.EventLines(console), status.DownloadBar(console)
    quiet = False

    def emit(event: PartEvent) -> None:
        if not quiet:
            lines(event)

    with contextlib.closing(bar):
        async with open_stack(settings, emit, bar) as stack:
            bar.close()
            lines.know(stack.parts)
            await stack.supervisor.start()
            stack.publish()
            console.print()
            yield locate(environ={}, stack_file=stack.folder.stack_file)
            quiet = True
            console.print("Stopping the stack", style="dim")


async def _running_stack(settings: StackSettings) -> Addresses | None:
    """The stack on the data folder, or one that variables name or that runs in a parent, if its intake is ready."""
    file = settings.data / "stack.json"
    found = locate(stack_file=file if file.is_file() else None)
    ops = found.stack.get("ops_urls")
    if not found.url or not found.bootstrap_servers:
        return None
    probe = f"{ops['intake']}/readyz" if isinstance(ops, dict) and "intake" in ops else f"{found.url}/v1/models"
    try:
        timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(probe) as response:
            # Without a key the API refuses, which also shows that it is running.
            return found if response.status in (200, 401) else None
    except (aiohttp.ClientError, TimeoutError):
        return None


def _write(place: str, run: Run) -> None:
    text = json.dumps(as_document(run), indent=2, ensure_ascii=False)
    if place == "-":
        sys.stdout.write(text + "\n")
        return
    try:
        Path(place).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        Console(stderr=True).print(f"[bold red]headrace:[/] {place} cannot be written: {error.strerror}")
        raise typer.Exit(1) from None
