"""Health of a process: whether it is alive and ready for work, and if not, why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Check = Callable[[], str | None]
"""Returns None if all is well, else the reason in words for an operator. Must not block."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The results of all checks at one moment."""

    ok: bool
    reasons: Mapping[str, str | None]
    """By name of the check; None if it passed."""


class Health:
    """Named checks for readiness and for liveness.

    A check is either called (`add`) or set (`set`). Not ready means: send no new work. Not alive means: restart me.
    Degraded means: ready, and something needs attention.
    """

    def __init__(self) -> None:
        self._readiness: dict[str, Check] = {}
        self._liveness: dict[str, Check] = {}
        self._degradations: dict[str, Check] = {}
        self.notes: dict[str, str] = {}

    def note(self, name: str, text: str) -> None:
        """Show the state of something that readiness does not depend on."""
        self.notes[name] = text

    def add(self, name: str, check: Check) -> None:
        """Call `check` on every readiness probe."""
        self._readiness[name] = check

    def set(self, name: str, reason: str | None) -> None:
        """Set the readiness check `name` to `reason` (None: passed) until set again."""
        self._readiness[name] = lambda: reason

    def remove(self, name: str) -> None:
        """Remove a readiness check, if there is one of that name."""
        self._readiness.pop(name, None)

    def report(self, name: str, reason: str | None) -> None:
        """Not ready for this reason until told None, which leaves nothing behind: for what is there only in trouble."""
        if reason is None:
            self.remove(name)
        else:
            self.set(name, reason)

    def degrade(self, name: str, reason: str | None) -> None:
        """Ready, but a part of it does not work for this reason, until told None."""
        if reason is None:
            self._degradations.pop(name, None)
        else:
            self._degradations[name] = lambda: reason

    def add_degradation(self, name: str, check: Check) -> None:
        """Call `check` on every readiness probe: as `degrade`."""
        self._degradations[name] = check

    def degraded(self) -> Mapping[str, str]:
        """What does not work although the process is ready, and why."""
        return {name: reason for name, reason in _ask(self._degradations).reasons.items() if reason is not None}

    def add_liveness(self, name: str, check: Check) -> None:
        """Call `check` on every liveness probe; a failure restarts the process, so only for what cannot recover."""
        self._liveness[name] = check

    def ready(self) -> Verdict:
        return _ask(self._readiness)

    def alive(self) -> Verdict:
        return _ask(self._liveness)


def _ask(checks: Mapping[str, Check]) -> Verdict:
    reasons = {name: check() for name, check in checks.items()}
    return Verdict(all(reason is None for reason in reasons.values()), reasons)
