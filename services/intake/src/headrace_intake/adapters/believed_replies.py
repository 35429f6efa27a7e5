"""Which replies a waiting caller is told: those that the router or the worker of the attempt has written."""

from __future__ import annotations

import hmac
from typing import Final

from headrace_contracts.events import ReplyKind, TaskReply
from headrace_runtime.authenticity import Authenticity
from headrace_streams.records import Record

_NO_ATTEMPT: Final = -1


class BelievedReplies:
    """Tells the replies of one task from forged ones; see `headrace_contracts.reply_tokens`.

    The tokens are made when they are first needed and kept, that of the newest attempt at least: a piece costs a
    comparison.

    Args:
        authenticity: Without a secret nothing can be told, and every reply is taken. As with signed records, replies
            without a token are taken while unsigned records are accepted.
    """

    __slots__ = ("_attempt", "_authenticity", "_of_attempt", "_of_router", "_task_id", "_tenant")

    def __init__(self, authenticity: Authenticity, tenant: str, task_id: str) -> None:
        self._authenticity = authenticity
        self._tenant = tenant
        self._task_id = task_id
        self._of_router = b""
        self._attempt = _NO_ATTEMPT
        self._of_attempt = b""

    def admits(self, record: Record, reply: TaskReply) -> bool:
        """Whether to take a reply about the task; one that is not taken is counted, and told now and then."""
        token = reply.reply_token
        if self._authenticity.reply_tokens is None or (token is None and self._authenticity.accepts_unsigned):
            return True
        if token is not None and self._fits(reply, token):
            return True
        self._authenticity.tell(record)
        return False

    def _fits(self, reply: TaskReply, token: bytes) -> bool:
        # Pieces are many, and only a worker writes them; waits and the end only the router; that an attempt begins,
        # both.
        if reply.kind in (ReplyKind.DELTA, ReplyKind.RESTARTED) and hmac.compare_digest(
            token, self._worker_token(reply.attempt)
        ):
            return True
        return reply.kind is not ReplyKind.DELTA and hmac.compare_digest(token, self._router_token())

    def _worker_token(self, attempt: int) -> bytes:
        if attempt != self._attempt:
            tokens = self._authenticity.reply_tokens
            assert tokens is not None
            self._attempt = attempt
            self._of_attempt = tokens.of_attempt(self._tenant, self._task_id, attempt)
        return self._of_attempt

    def _router_token(self) -> bytes:
        if not self._of_router:
            tokens = self._authenticity.reply_tokens
            assert tokens is not None
            self._of_router = tokens.of_router(self._tenant, self._task_id)
        return self._of_router
