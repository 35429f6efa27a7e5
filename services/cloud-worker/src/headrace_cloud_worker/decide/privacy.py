"""What must never leave our nodes. Routing sees to that; this is the second lock."""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import AttemptRequested, Failure, Privacy

PRIVACY_VIOLATION: Final = "privacy_violation"


def forbid(request: AttemptRequested) -> Failure | None:
    """Why an attempt must not be sent to any provider; None when it may. An unknown level reads as the strictest."""
    if request.privacy is Privacy.SENSITIVE:
        return Failure(code=PRIVACY_VIOLATION, message="sensitive content must not be sent to a provider")
    return None
