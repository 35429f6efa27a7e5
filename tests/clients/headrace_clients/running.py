"""Running a framework's script against a platform."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_testing.up import RunningStack

from headrace_clients.catalog import ASKED, COLUMNS, NODE, NODE_ENVIRONMENT, SCRIPTS, Framework
from headrace_clients.environments import CannotInstall, command, prepare
from headrace_clients.judge import Cell, cells, requests_in

EMBEDDING_MODEL: Final = "nomic-embed-text:v1.5"
_SECONDS: Final = 240
_NOWHERE: Final = "http://127.0.0.1:9"
"""A proxy that is not there: what does not go to this machine goes nowhere."""
_QUIET: Final = {
    "DO_NOT_TRACK": "1",
    "HTTP_PROXY": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "ALL_PROXY": _NOWHERE,
    "http_proxy": _NOWHERE, "https_proxy": _NOWHERE, "all_proxy": _NOWHERE,
    "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
    "OTEL_SDK_DISABLED": "true",
    "LANGCHAIN_TRACING_V2": "false", "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False",
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "ANONYMIZED_TELEMETRY": "False",
}  # fmt: skip
"""No telemetry, no price lists from the web, nothing to any other machine."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a framework; `log` is what its script has written to standard error."""

    cells: dict[str, Cell]
    log: str = ""


def run(framework: Framework, platform: RunningStack, key: str, *columns: str) -> Ran:
    """Run a framework's script, for some columns or all."""
    try:
        folder = prepare(framework.environment)
    except CannotInstall as problem:
        return Ran({column: Cell("fails", str(problem)) for column in COLUMNS})
    script = (NODE if framework.environment == NODE_ENVIRONMENT else SCRIPTS) / framework.script
    start = command(framework.environment, folder, script)
    with tempfile.TemporaryDirectory(prefix="headrace-client-") as home:
        environment = _QUIET | {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "LANG": "C.UTF-8",
            "HEADRACE_URL": platform.intake_url,
            "HEADRACE_API_KEY": key,
            "HEADRACE_EMBEDDING_MODEL": EMBEDDING_MODEL,
            "HEADRACE_ASKED": str(ASKED),
            "HEADRACE_COLUMNS": " ".join(columns),
        }
        printed, log, trouble = _outcome([*start, framework.argument], Path(home), environment)
    answered = requests_in(platform.log("intake").splitlines())
    return Ran(cells(printed.splitlines(), answered, trouble), log)


def _outcome(start: list[str], folder: Path, environment: dict[str, str]) -> tuple[str, str, str]:
    """Standard output, standard error, and what went wrong."""
    try:
        done = subprocess.run(
            start,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        printed = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else ""
        return printed, "", f"it took more than {_SECONDS} s"
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return done.stdout, done.stderr, f"the script ended with {done.returncode}: {last}" if done.returncode else ""
