"""Runs the cost accountant."""

from __future__ import annotations

from headrace_runtime.main import main as run

from headrace_cost_accountant.settings import CostAccountantSettings
from headrace_cost_accountant.wiring import build


def main() -> int:
    """Exit code of the service."""
    return run(CostAccountantSettings, build)


if __name__ == "__main__":
    raise SystemExit(main())
