"""Shows intake who wrote a reply: the router, or a worker that the router gave the attempt to.

Kafka does not tell, and all workers write to `tasks.replies`. So the router gives each attempt a token, a code over
tenant and attempt under a key derived from the installation's secret, and the worker copies it into the pieces of its
answer. Workers do not hold the secret: none can make the token of an attempt that it was not given. The router's own
replies, of which one is the task's end, carry a token under a key of their own, which no worker is ever given.
"""

from __future__ import annotations

import hmac
from typing import Final

from headrace_contracts.ids import attempt_id

TOKEN_BYTES: Final = 16

_OF_ATTEMPTS: Final = b"headrace reply token of an attempt 1"
_OF_ROUTERS: Final = b"headrace reply token of a router 1"


class ReplyTokens:
    """Makes the tokens of one installation.

    Args:
        secret: The installation's secret, the same that API keys are hashed under.
    """

    def __init__(self, secret: str) -> None:
        self._of_attempts = hmac.digest(secret.encode(), _OF_ATTEMPTS, "sha256")
        self._of_routers = hmac.digest(secret.encode(), _OF_ROUTERS, "sha256")

    def __repr__(self) -> str:
        return "ReplyTokens()"

    def of_attempt(self, tenant: str, task_id: str, number: int) -> bytes:
        """The token in the replies of the worker that runs an attempt."""
        return _token(self._of_attempts, tenant, attempt_id(task_id, number))

    def of_router(self, tenant: str, task_id: str) -> bytes:
        """The token in the router's replies about a task."""
        return _token(self._of_routers, tenant, task_id)


def _token(key: bytes, tenant: str, name: str) -> bytes:
    # The tenant's length first: no two pairs have the same bytes. Without the tenant, a task of another one with the
    # same id would be given the same tokens.
    said = tenant.encode()
    return hmac.digest(key, len(said).to_bytes(8, "big") + said + name.encode(), "sha256")[:TOKEN_BYTES]
