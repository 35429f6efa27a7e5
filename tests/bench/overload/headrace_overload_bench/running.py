"""What both commands do around their measurement: signals, files that a process may have open, a folder, results."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from headrace_bench.children import ContestantFailed

Found = TypeVar("Found")


def carried_out(measure: Callable[[Path], Coroutine[Any, Any, Found]]) -> Found | int:
    """What was found, or the exit code when nothing was. `measure` gets a folder that goes away afterwards."""
    # As Ctrl-C, so that all that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Each open request is a connection of the process with the load, which inherits the limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            return asyncio.run(measure(Path(folder)))
    except (ContestantFailed, AssertionError) as error:
        sys.stderr.write(f"x {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def write(output: Path, document: Mapping[str, Any], folder: Path, plots: Mapping[str, str]) -> None:
    """The JSON, and a file for each plot."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in plots.items():
        (folder / f"{name}.svg").write_text(text)
