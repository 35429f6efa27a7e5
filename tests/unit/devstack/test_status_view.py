"""What a person reads while a stack starts, runs and stumbles."""

import io
from pathlib import Path

import pytest
from headrace_devstack.errors import FreeThePort
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.status import DownloadBar, EventLines, print_error, status_line
from headrace_devstack.supervisor import Condition, PartEvent, PartStatus
from rich.console import Console


async def fine() -> None:
    """A check that always passes."""


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def part(name: str, address: str = "", note: str = "") -> Process:
    command = ProcessCommand(argv=(), environment={}, log=Path(f"/logs/{name}.log"), folder=Path("/"))
    return Process(name, command, fine, address=address, note=note)


def state(name: str, condition: Condition, restarts: int = 0) -> PartStatus:
    return PartStatus(name, condition, pid=1, restarts=restarts, lasting=True)


def test_one_line_per_part_that_becomes_healthy_and_one_for_each_stumble(console: Console) -> None:
    lines = EventLines(console)
    lines.know([part("kafka", "127.0.0.1:9092"), part("cloud-worker", note="simulated")])
    for event in (
        PartEvent("kafka", Condition.STARTING),
        PartEvent("kafka", Condition.HEALTHY, 2.04),
        PartEvent("cloud-worker", Condition.HEALTHY, 0.5),
        PartEvent("kafka", Condition.RESTARTING, 0.5, "was ended by signal 9"),
        PartEvent("kafka", Condition.HEALTHY, 1.0),
        PartEvent("kafka", Condition.STOPPED, 0.3),
    ):
        lines(event)
    assert [line.strip() for line in printed(console).splitlines()] == [
        "✓ kafka           2.0 s  127.0.0.1:9092",
        "✓ cloud-worker    0.5 s  simulated",
        "! kafka         was ended by signal 9; restarting it in 0.5 s  (/logs/kafka.log)",
        "✓ kafka         again   1.0 s  127.0.0.1:9092",
        "■ kafka         stopped   0.3 s",
    ]


def test_the_status_line_counts_and_names_what_is_not_well() -> None:
    parts = [
        state("kafka", Condition.HEALTHY),
        state("router", Condition.RESTARTING, restarts=2),
        state("intake", Condition.STARTING),
        state("registry", Condition.STARTING),
    ]
    line = status_line(parts, now=3_725.0, started=0.0, memory=1_250_000_000)
    assert line.plain == (
        "● 1 of 4 healthy   up 01:02:05   1.25 GB   2 restarts   starting: intake, registry   restarting: router"
    )


def test_a_step_that_is_done_is_not_counted() -> None:
    step = PartStatus("topics", Condition.HEALTHY, pid=None, restarts=0, lasting=False)
    line = status_line([step, state("kafka", Condition.HEALTHY)], now=1.0, started=0.0, memory=0)
    assert line.plain.startswith("● 1 of 1 healthy")


def test_an_error_says_what_is_wrong_and_what_to_do(console: Console) -> None:
    print_error(console, FreeThePort("port 1 [of 2] is taken", "end that process"))
    assert printed(console) == "\n✗ port 1 [of 2] is taken\n  What to do: end that process\n\n"


def test_downloads_without_a_terminal_are_told_in_quarters(console: Console) -> None:
    bar = DownloadBar(console)
    bar.expect(2, 8_000_000)
    for _ in range(8):
        bar.advance(1_000_000)
    bar.unpacking("registry.tar.gz")
    assert [line.strip() for line in printed(console).splitlines()] == [
        "Downloading 2 files, 8 MB (first start only)",
        "… 2 of 8 MB",
        "… 4 of 8 MB",
        "… 6 of 8 MB",
        "… 8 of 8 MB",
        "Unpacking registry.tar.gz",
    ]
