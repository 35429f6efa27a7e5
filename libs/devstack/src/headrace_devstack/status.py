"""The display of a stack: downloads, one line per part, the addresses, and a short live status."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from headrace_devstack.errors import DevstackError
from headrace_devstack.parts.part import SetupStep, StackPart
from headrace_devstack.processes import own_resident_bytes, resident_bytes
from headrace_devstack.stack import Stack
from headrace_devstack.supervisor import Condition, PartEvent, PartStatus


class DownloadBar:
    """Progress of the first start's downloads: a bar on a terminal, a few lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0
        self._done = 0
        self._told = 0

    def expect(self, files: int, size: int) -> None:
        self._total = size
        self._console.print(f"  Downloading {files} files, {size / 1e6:,.0f} MB (first start only)")
        if self._console.is_terminal and files:
            self._bar = Progress(
                TextColumn("  "), BarColumn(bar_width=40), DownloadColumn(), TransferSpeedColumn(),
                TimeRemainingColumn(), console=self._console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("downloads", total=size)

    def advance(self, size: int) -> None:
        self._done += size
        if self._bar and self._task is not None:
            self._bar.advance(self._task, size)
        elif self._total and self._done * 4 // self._total > self._told:
            self._told = self._done * 4 // self._total
            self._console.print(f"  … {self._done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB")

    def waiting_for_other(self) -> None:
        self._console.print("  Waiting for another download into the same cache")

    def unpacking(self, name: str) -> None:
        self.close()
        self._console.print(f"  Unpacking {name}")

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar:
            self._bar.stop()
            self._bar = None


class EventLines:
    """Prints one line for each change of a part that is of interest to the user."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._parts: dict[str, StackPart] = {}
        self._width = 18
        self._ever_healthy: set[str] = set()

    def know(self, parts: Sequence[StackPart]) -> None:
        """Register the parts whose events will come."""
        self._parts = {part.name: part for part in parts}
        self._width = max(len(part.name) for part in parts) + 2

    def __call__(self, event: PartEvent) -> None:
        line = self._line(event)
        if line is not None:
            self._console.print(line, highlight=False, soft_wrap=True)

    def _line(self, event: PartEvent) -> Text | None:
        part = self._parts[event.part]
        name = event.part.ljust(self._width)
        match event.condition:
            case Condition.HEALTHY:
                again = "again " if event.part in self._ever_healthy else ""
                self._ever_healthy.add(event.part)
                about = f"{part.address}  {part.note}".strip() if not isinstance(part, SetupStep) else ""
                line = Text.assemble(("  ✓ ", "green"), name, (f"{again}{event.seconds:5.1f} s  ", "dim"))
                return line.append("  ".join(filter(None, (about, event.detail))))
            case Condition.RESTARTING:
                text = f"{event.detail}; restarting it in {event.seconds:.1f} s"
                return Text.assemble(("  ! ", "bold yellow"), name, text, (f"  ({self._log(part)})", "dim"))
            case Condition.UNHEALTHY:
                text = f"does not answer properly: {event.detail}"
                return Text.assemble(("  ! ", "bold yellow"), name, text, (f"  ({self._log(part)})", "dim"))
            case Condition.STOPPED:
                return Text.assemble(("  ■ ", "dim"), name, (f"stopped {event.seconds:5.1f} s  {event.detail}", "dim"))
            case _:
                return None

    @staticmethod
    def _log(part: StackPart) -> str:
        return "" if isinstance(part, SetupStep) else shown_path(part.log)


def shown_path(path: Path) -> str:
    """The shortest path that can be typed in the current folder."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def headrace_command() -> str:
    """The command with which this user can run the ``headrace`` program of this installation."""
    beside = Path(sys.executable).parent / "headrace"
    found = shutil.which("headrace")
    return "headrace" if found and Path(found).resolve() == beside.resolve() else shown_path(beside)


def print_backing(console: Console, stack: Stack) -> None:
    """Addresses of a stack without services."""
    console.print()
    _print_rows(
        console,
        ("Kafka", stack.addresses.bootstrap_servers),
        ("Schema registry", stack.addresses.registry_url),
        ("Access", _access(stack)),
        ("All addresses", shown_path(stack.folder.stack_file)),
    )
    console.print()


def print_welcome(console: Console, stack: Stack, seconds: float, memory: int, missing: Sequence[str] = ()) -> None:
    """Addresses, the API key, what no model here can do (`missing`), and a first command to try."""
    addresses = stack.addresses
    key_file = shown_path(addresses.api_key_file)
    key = f"{stack.new_api_key}   (kept in {key_file})" if stack.new_api_key else f"in {key_file}"
    console.print(Text.assemble(("\nReady", "bold green"), f" after {seconds:.1f} s, {memory / 1e9:.2f} GB\n"))
    _print_rows(
        console,
        ("HTTP API", f"{addresses.intake_url}/v1   (the base URL for any OpenAI client)"),
        ("Skills, costs", f"{addresses.skills_url}/v1/skills   {addresses.costs_url}/v1/costs"),
        ("Kafka", f"{addresses.bootstrap_servers}   topics {addresses.topic_prefix}*"),
        ("Schema registry", addresses.registry_url),
        ("API key", key),
        ("Access", _access(stack)),
        ("Models", _models(addresses.simulated)),
        ("Logs", f"{shown_path(stack.folder.logs)}/"),
        ("All addresses", shown_path(stack.folder.stack_file)),
    )
    for text in missing:
        console.print(Text.assemble(("!                 ", "bold yellow"), text), soft_wrap=True)
    curl = (
        f"  curl {addresses.intake_url}/v1/chat/completions \\\n"
        f'    -H "Authorization: Bearer $(cat {key_file})" -H "Content-Type: application/json" \\\n'
        """    -d '{"model": "auto", "messages": [{"role": "user", "content": "Why do rivers meander?"}]}'"""
    )
    submit = f'  {headrace_command()} submit "Write a haiku about message queues"'
    for text in ("\nTry it, in another terminal:\n", curl, "", submit, ""):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(Text("Ctrl-C stops everything; the data stays.\n", "dim"))


def _print_rows(console: Console, *rows: tuple[str, str]) -> None:
    # Never wrapped, so that keys and addresses can be copied.
    for label, text in rows:
        console.print(Text.assemble((f"{label:<18}", "dim"), text), soft_wrap=True)


def _access(stack: Stack) -> str:
    if stack.addresses.secure:
        users = f"everyone logs in; Kafka users in {shown_path(stack.folder.secrets / 'kafka')}/"
        file = stack.addresses.signing_key_file
        return users if file is None else f"{users}; submissions are signed, with {shown_path(file)}"
    return "open: whoever reaches these loopback ports may do everything; `--secure` requires logins"


def _models(simulated: Sequence[str]) -> str:
    if not simulated:
        return "real providers only"
    local, cloud = "ollama" in simulated, "groq" in simulated
    missing = " and ".join(name for name, is_missing in (("Ollama", local), ("provider keys", cloud)) if is_missing)
    return f"simulated: {', '.join(simulated)} (without {missing}); every such answer is marked"


def print_error(console: Console, error: DevstackError) -> None:
    """Print what is wrong, and what to do."""
    console.print(Text.assemble(("\n✗ ", "bold red"), error.problem), highlight=False, soft_wrap=True)
    console.print(Text.assemble(("  What to do: ", "bold"), error.remedy, "\n"), highlight=False, soft_wrap=True)


def memory_of(status: Sequence[PartStatus]) -> int:
    """Resident bytes of all parts and of this process."""
    return own_resident_bytes() + sum(resident_bytes(part.pid) for part in status if part.pid is not None)


def status_line(status: Sequence[PartStatus], *, now: float, started: float, memory: int) -> Text:
    """The whole stack in one line."""
    lasting = [part for part in status if part.lasting]
    healthy = sum(part.condition is Condition.HEALTHY for part in lasting)
    restarts = sum(part.restarts for part in lasting)
    hours, rest = divmod(int(now - started), 3600)
    line = Text.assemble(
        ("● ", "green" if healthy == len(lasting) else "yellow"),
        f"{healthy} of {len(lasting)} healthy",
        (f"   up {hours:02}:{rest // 60:02}:{rest % 60:02}   {memory / 1e9:.2f} GB   {restarts} restarts", "dim"),
    )
    for condition in (Condition.STARTING, Condition.UNHEALTHY, Condition.RESTARTING):
        names = [part.name for part in lasting if part.condition is condition]
        if names:
            line.append(f"   {condition.value}: {', '.join(names)}", "yellow")
    return line


@contextlib.contextmanager
def live(console: Console) -> Iterator[Live | None]:
    """A line at the bottom of a terminal that can be rewritten; None elsewhere."""
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as display:
        yield display
