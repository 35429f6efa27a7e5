"""What the end of a call tells about its endpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from headrace_models.errors import ProviderError
from headrace_models.ports import ChatResult, EmbedResult
from headrace_models.worker.avoidance import after_failure, is_of_endpoint
from headrace_models.worker.breaker import BreakerPolicy, after_call
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.estimates import UNSIZED, CallSize
from headrace_models.worker.outliers import CLEAN, ejected

_log = logging.getLogger(__name__)

_NO_ROOM: Final = frozenset({"overloaded", "rate_limited"})
"""No defect: fewer calls are sent from then on."""


def learn(
    endpoint: Endpoint,
    offering: Sequence[Endpoint],
    ended: ChatResult | EmbedResult | ProviderError,
    model: str,
    size: CallSize,
    now: float,
    seconds: float,
    policy: BreakerPolicy,
) -> None:
    """A call, which took so many seconds and still has its slot, has ended so.

    Args:
        offering: The endpoints that offer its model.
    """
    error = ended if isinstance(ended, ProviderError) else None
    endpoint.breaker = after_call(endpoint.breaker, error, now, policy)
    held = None if error is None else after_failure(endpoint.avoided.get(model), error, now)
    if held is None:
        endpoint.avoided.pop(model, None)
    else:
        endpoint.avoided[model] = held
    if not isinstance(ended, ProviderError):
        endpoint.observe(model, ended, now, size)
    elif ended.code == "unreachable":
        endpoint.seen(replace(endpoint.status, healthy=False, reason=ended.message))
        endpoint.doubted.set()
    elif ended.code == "timeout":
        endpoint.cut_off(model, seconds, now, size)
    elif ended.code == "overloaded":
        endpoint.refused(model, now, size)
    elif ended.code == "answered_remotely":
        # Its list of models has changed, or never told the truth.
        endpoint.doubted.set()
    endpoint.ended(model, failed=error is not None and is_of_endpoint(error) and error.code not in _NO_ROOM)
    if len(offering) > 1 and endpoint in offering:
        _leave_out(endpoint, offering, model, now)


def _leave_out(endpoint: Endpoint, offering: Sequence[Endpoint], model: str, now: float) -> None:
    """For a while, if it stands far out from the others."""
    serving = [one for one in offering if one is endpoint or one.objection(now) is None]
    found = ejected(
        endpoint.name,
        {one.name: one.records.get(model, CLEAN) for one in serving},
        {one.name: one.run_seconds(model, UNSIZED) for one in serving if model in one.speeds},
        now,
    )
    if found is not None:
        left_out = found.ejected_until - now
        _log.warning("%s stands out with %s: it is left out for %.0f s", endpoint.name, model, left_out)
        endpoint.records[model] = found
