"""Runs the router."""

from headrace_runtime.main import main as run

from headrace_router.settings import RouterSettings
from headrace_router.wiring import build


def main() -> int:
    return run(RouterSettings, build)


if __name__ == "__main__":
    raise SystemExit(main())
