"""Health of a process: is it alive, is it ready for work, and if not, why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Check = Callable[[], str | None]
"""Returns None when all is well, else the reason in words an operator understands. Must not block."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all checks say at one moment."""

    ok: bool
    reasons: Mapping[str, str | None]
    """By name of the check; None where it is content."""


class Health:
    """Named checks for readiness and for liveness.

    A check is either asked (`add`) or told (`set`). Not ready means: send me nothing new. Not alive means: restart me.
    """

    def __init__(self) -> None:
        self._readiness: dict[str, Check] = {}
        self._liveness: dict[str, Check] = {}
        self.notes: dict[str, str] = {}

    def note(self, name: str, text: str) -> None:
        """Show the state of something that readiness does not depend on."""
        self.notes[name] = text

    def add(self, name: str, check: Check) -> None:
        """Ask `check` on every readiness probe."""
        self._readiness[name] = check

    def set(self, name: str, reason: str | None) -> None:
        """Hold `reason` (None: content) for readiness until told otherwise."""
        self._readiness[name] = lambda: reason

    def remove(self, name: str) -> None:
        """Forget a readiness check, if there is one of that name."""
        self._readiness.pop(name, None)

    def add_liveness(self, name: str, check: Check) -> None:
        """Ask `check` on every liveness probe; a reason gets the process restarted, so only for what cannot heal."""
        self._liveness[name] = check

    def ready(self) -> Verdict:
        return _ask(self._readiness)

    def alive(self) -> Verdict:
        return _ask(self._liveness)


def _ask(checks: Mapping[str, Check]) -> Verdict:
    reasons = {name: check() for name, check in checks.items()}
    return Verdict(all(reason is None for reason in reasons.values()), reasons)
