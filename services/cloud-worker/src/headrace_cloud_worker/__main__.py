"""Runs the cloud worker."""

from __future__ import annotations

from headrace_runtime.main import main as run

from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_cloud_worker.wiring import build


def main() -> int:
    """Exit code of the service."""
    return run(CloudWorkerSettings, build)


if __name__ == "__main__":
    raise SystemExit(main())
