"""Runs the local worker."""

from __future__ import annotations

from headrace_runtime.main import main as run

from headrace_local_worker.settings import LocalWorkerSettings
from headrace_local_worker.wiring import build


def main() -> int:
    """Exit code of the service."""
    return run(LocalWorkerSettings, build)


if __name__ == "__main__":
    raise SystemExit(main())
