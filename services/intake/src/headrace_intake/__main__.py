"""Runs intake."""

from __future__ import annotations

from headrace_runtime.main import main as run

from headrace_intake.settings import IntakeSettings
from headrace_intake.wiring import build


def main() -> int:
    """Exit code of the service."""
    return run(IntakeSettings, build)


if __name__ == "__main__":
    raise SystemExit(main())
