"""How long a caller waits for an answer."""

from __future__ import annotations

from typing import Final

from headrace_intake.decide.views import TaskView

_GRACE_SECONDS: Final = 5.0
"""How long after the deadline the router may take to report that it has passed."""


def wait_seconds(view: TaskView, now_ms: int, answer_seconds: float) -> float:
    """Longest wait for the end of a task; `answer_seconds` for one without a deadline."""
    if view.deadline_at is None:
        return answer_seconds
    return max(0.0, (view.deadline_at - now_ms) / 1000) + _GRACE_SECONDS
