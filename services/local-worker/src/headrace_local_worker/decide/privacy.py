"""What must not leave our network although our nodes run it. Routing ensures that already; this is the second check."""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import AttemptRequested, Failure, Privacy
from headrace_models.local_servers import SEARXNG, keeps_queries_inside

PRIVACY_VIOLATION: Final = "privacy_violation"


def forbid(request: AttemptRequested) -> Failure | None:
    """Why an attempt must not be run; None if it may. An unknown level counts as the strictest."""
    if request.provider != SEARXNG or request.privacy is not Privacy.SENSITIVE:
        return None
    if keeps_queries_inside(request.provider, request.model):
        return None
    return Failure(code=PRIVACY_VIOLATION, message="sensitive content must not be sent to a search of the web")
