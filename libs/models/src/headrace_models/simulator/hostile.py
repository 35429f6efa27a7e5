"""What a hostile provider says in place of what belongs there, in any wire format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from headrace_models.simulator.faults import Fault, FaultKind

ELSEWHERE: Final = "elsewhere"
"""Receiver of what a client sends after a redirect: nothing may ever arrive there."""
TORN: Final = "\U0001f600"
"""The character that is torn apart at the end of an answer."""

_HANG_SECONDS: Final = 3600.0
_KEEP_ALIVE_SECONDS: Final = 0.25
_COUNTS: Final[Mapping[FaultKind, Any]] = {
    FaultKind.NULL_COUNTS: None,
    FaultKind.NEGATIVE_COUNTS: -5,
    FaultKind.NAN_COUNTS: float("nan"),
    FaultKind.VAST_COUNTS: 1e30,
    FaultKind.LARGE_COUNTS: 2**70,
}
_MODELS: Final[Mapping[FaultKind, Any]] = {
    FaultKind.NUMBER_AS_MODEL: 7,
    FaultKind.HALF_CHARACTER_AS_MODEL: "\ud83d",
}


@dataclass(frozen=True, slots=True)
class Forms:
    """How a wire writes what interrupts an answer."""

    keep_alive: bytes
    broken: bytes
    error: bytes


def is_kind(fault: Fault | None, *kinds: FaultKind) -> bool:
    """Whether the call has a fault of one of these kinds."""
    return fault is not None and fault.kind in kinds


def stated_count(fault: Fault | None, true: int) -> Any:
    """The number of tokens to state."""
    return true if fault is None else _COUNTS.get(fault.kind, true)


def stated_model(fault: Fault | None, true: str) -> Any:
    """The name of the model to state."""
    return true if fault is None else _MODELS.get(fault.kind, true)


def stated_finish(fault: Fault | None, true: str) -> str:
    """The reason for the end to state."""
    return "because" if is_kind(fault, FaultKind.UNKNOWN_FINISH) else true


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8; escaped as a whole where it has half a character, which UTF-8 cannot express."""
    try:
        return json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(document).encode()


def json_response(document: Mapping[str, Any]) -> web.Response:
    """A whole answer. NaN and half characters are sent as such."""
    return web.Response(body=json_bytes(document), content_type="application/json")


def redirected(request: web.Request, fault: Fault | None) -> web.Response | None:
    """A redirect that asks for the same request again, with its content; None if the call has no such fault."""
    if not is_kind(fault, FaultKind.REDIRECT, FaultKind.REDIRECT_AWAY):
        return None
    path = f"/{ELSEWHERE}{request.path}"
    if is_kind(fault, FaultKind.REDIRECT_AWAY):
        host = "127.0.0.1" if request.url.host == "localhost" else "localhost"
        path = str(request.url.with_host(host).with_path(path))
    return web.Response(status=307, headers={"Location": path})


async def interrupt(request: web.Request, response: web.StreamResponse, fault: Fault | None, forms: Forms) -> bool:
    """Play a fault that ends an answer before its end; whether there was one, so that nothing must follow."""
    match None if fault is None else fault.kind:
        case FaultKind.DISCONNECT:
            break_off(request)
        case FaultKind.STREAM_ERROR:
            await response.write(forms.error)
        case FaultKind.BROKEN_JSON:
            await response.write(forms.broken)
        case FaultKind.SILENCE:
            await asyncio.sleep(_HANG_SECONDS)
        case FaultKind.KEEP_ALIVES:
            for _ in range(round(_HANG_SECONDS / _KEEP_ALIVE_SECONDS)):
                await response.write(forms.keep_alive)
                await asyncio.sleep(_KEEP_ALIVE_SECONDS)
        case FaultKind.UNFINISHED | FaultKind.REPEATED_TOKEN:
            await response.write_eof()
        case _:
            return False
    return True


async def hang(request: web.Request) -> web.StreamResponse:
    """Do not respond for longer than any caller would wait."""
    await asyncio.sleep(_HANG_SECONDS)
    return web.Response(status=504)


def break_off(request: web.Request) -> None:
    """Drop the connection without closing it properly."""
    if request.transport is not None:
        request.transport.abort()


def stream_response(content_type: str, fault: Fault | None = None) -> web.StreamResponse:
    kind = _TearingResponse if is_kind(fault, FaultKind.TORN_BYTES) else web.StreamResponse
    return kind(headers={"Content-Type": content_type, "Cache-Control": "no-cache"})


class _TearingResponse(web.StreamResponse):
    """Sends a chunk that has a character of several bytes as two, cut within this character."""

    async def write(self, data: Any) -> None:
        cut = next((at + 1 for at, byte in enumerate(data) if byte > 127), 0)
        if cut:
            await super().write(data[:cut])
            await asyncio.sleep(0)
        await super().write(data[cut:])
