"""What must never leave local nodes. Routing ensures that already; this is the second check."""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import AttemptRequested, Failure, Privacy

PRIVACY_VIOLATION: Final = "privacy_violation"


def forbid(request: AttemptRequested) -> Failure | None:
    """Why an attempt must not be sent to any provider; None if it may. An unknown level counts as the strictest."""
    if request.privacy is Privacy.SENSITIVE:
        return Failure(code=PRIVACY_VIOLATION, message="sensitive content must not be sent to a provider")
    return None
