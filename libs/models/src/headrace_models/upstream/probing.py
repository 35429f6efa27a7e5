"""One look at a provider: whether it answers, and what it offers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import httpx2

from headrace_models.ports import ModelInfo, ProviderStatus
from headrace_models.upstream.complaints import Complained, error_of
from headrace_models.upstream.http import because
from headrace_models.upstream.values import Unreadable

STATUS_TIMEOUT_SECONDS: Final = 5.0


class Seen(NamedTuple):
    """What a provider that answers offers, and whether it is a simulated one."""

    models: tuple[ModelInfo, ...]
    simulated: bool


async def probe(provider: str, look: Callable[[], Awaitable[Seen]], *, otherwise: str) -> ProviderStatus:
    """The status of a provider. Does not raise when it is down: that is its status, and `unreachable` if no
    response came at all.

    Args:
        look: One small request.
        otherwise: What the provider does not do if its answer cannot be read.
    """
    began = time.perf_counter()
    try:
        seen = await look()
    except Complained as refused:
        return ProviderStatus(False, str(error_of(refused.complaint, provider=provider)))
    except httpx2.HTTPError as error:
        return ProviderStatus(False, f"{provider} cannot be reached ({because(error)})", unreachable=True)
    except Unreadable as error:
        return ProviderStatus(False, f"{provider} {otherwise}: {error}")
    return ProviderStatus(True, "", seen.models, (time.perf_counter() - began) * 1000, "", seen.simulated)
