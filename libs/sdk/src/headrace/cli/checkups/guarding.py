"""Keeps one check from ending, or holding up, the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiohttp
from headrace_contracts.errors import ContractError
from headrace_streams.errors import StreamsError, TransientError

from headrace.cli.checkups.findings import START, Finding, unanswered, wrong
from headrace.errors import HeadraceError

SECONDS: Final = 10.0
_EXPECTED: Final = (HeadraceError, StreamsError, ContractError, aiohttp.ClientError, OSError, ValueError)


async def guarded(
    part: str, check: Callable[[], Awaitable[Sequence[Finding]]], *, seconds: float = SECONDS, remedy: str = START
) -> list[Finding]:
    """What the check finds; what keeps it from finding anything is a finding as well.

    Args:
        seconds: Time limit.
        remedy: What to do if there is no answer.
    """
    try:
        async with asyncio.timeout(seconds):
            return list(await check())
    except (TimeoutError, TransientError) as error:
        why = str(error) if isinstance(error, TransientError) else f"no answer within {seconds:.0f} s"
        return [unanswered(part, why, remedy)]
    except _EXPECTED as error:
        return [wrong(part, str(error) or type(error).__name__, remedy)]
    except Exception as error:  # noqa: BLE001 - what one check did not foresee must not hide what the others found
        return [wrong(part, f"cannot be checked: {type(error).__name__}: {error}", "report this as a defect of doctor")]
