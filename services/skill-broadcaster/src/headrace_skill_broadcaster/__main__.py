"""Runs the skill broadcaster."""

from __future__ import annotations

from headrace_runtime.main import main as run

from headrace_skill_broadcaster.settings import SkillBroadcasterSettings
from headrace_skill_broadcaster.wiring import build


def main() -> int:
    """Exit code of the service."""
    return run(SkillBroadcasterSettings, build)


if __name__ == "__main__":
    raise SystemExit(main())
