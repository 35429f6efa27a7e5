"""Live progress: a few updating lines on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace_devstack.demo.team import TeamProgress

_LINE_SECONDS = 5.0


@contextmanager
def shown(console: Console, progress: TeamProgress) -> Iterator[None]:
    """Show the progress while the block runs."""
    began = time.monotonic()
    if console.is_terminal:
        with Live(
            get_renderable=lambda: _panel(progress, began), console=console, refresh_per_second=5, transient=True
        ):
            yield
        return
    last = began

    def line() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_SECONDS:
            last = now
            console.print(_line(progress, now - began), highlight=False, soft_wrap=True)

    progress.changed = line
    yield
    progress.changed = _nothing
    console.print(_line(progress, time.monotonic() - began), highlight=False, soft_wrap=True)


def _nothing() -> None:
    """After the last line there is nothing to show."""


def _line(progress: TeamProgress, seconds: float) -> str:
    done = len(progress.outcomes)
    failed = sum(not outcome.answered for outcome in progress.outcomes)
    without = f", {failed} without an answer" if failed else ""
    return f"  {seconds:4.0f} s  {done} of {progress.jobs} jobs done, {progress.running} running{without}"


def _panel(progress: TeamProgress, began: float) -> RenderableType:
    done = len(progress.outcomes)
    roles = Counter(outcome.job.role for outcome in progress.outcomes)
    failed = sum(not outcome.answered for outcome in progress.outcomes)
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=progress.jobs, completed=done, width=40),
        f"{done} of {progress.jobs} jobs",
        Text(f"{progress.running} running", "cyan"),
        Text(f"{failed} without an answer", "red") if failed else "",
        Text(f"{time.monotonic() - began:.0f} s", "dim"),
    )
    counts = Text("  ".join(f"{role} {count}" for role, count in sorted(roles.items())), style="dim")
    return Group(bar, counts)
