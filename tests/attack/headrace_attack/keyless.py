"""Without a key: whoever reaches the ports, and what that may cost the others."""

from __future__ import annotations

import asyncio
import gzip
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Final

from headrace_testing.up import RunningStack

from headrace_attack.report import Outcome
from headrace_attack.wire import Wire, request

_BOMBS: Final = 20
_UNFINISHED: Final = 300
_CLOSED_WITHIN: Final = 14.0
"""Unfinished heads are closed after 10 s; the rest is for a busy machine."""

_GZIP_HEAD: Final = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
_DEFLATE_HEAD: Final = b"\x78\xda"

_NOT_HTTP: Final = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\0" * 10_000,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"POST /v1/tasks HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/tasks HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /v1/tasks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"POST /v1/tasks HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /v1/tasks HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + b"x" * 300_000,
    b"GET /v1/tasks HTTP/1.1\r\nExpect: \xff\xfe\r\n\r\n",
    b"GET /v1/tasks HTTP/1.1\r\nAuthorization: Bearer \xff\xff\r\n\r\n",
    b"GET /v1/tasks?a=%ff%fe&b=\xff HTTP/1.1\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
)


def repeated(piece: bytes, times: int) -> tuple[bytes, bytes]:
    """Gzip and deflate of a piece that follows itself so many times, for the work of packing it once."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # A full flush: what follows does not refer to what went before, so that it may stand anywhere.
    packed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    body = packed * times + b"\x03\x00"  # the last block, empty
    check, total = 0, 1
    for _ in range(times):
        check, total = zlib.crc32(piece, check), zlib.adler32(piece, total)
    tail = struct.pack("<II", check, len(piece) * times & 0xFFFF_FFFF)
    return _GZIP_HEAD + body + tail, _DEFLATE_HEAD + body + struct.pack(">I", total)


def _bombs() -> Sequence[tuple[str, bytes]]:
    """Bodies of about 1 MB that become a gigabyte, in the codings that servers undo."""
    zeros = b"0" * 16_777_216
    packed, deflated = repeated(zeros, 64)
    return (("gzip", packed), ("deflate", deflated), ("gzip", gzip.compress(zeros) * 60), ("gzip, gzip", packed))


async def inflating_bodies(stack: RunningStack) -> Outcome:
    """Bodies that inflate, to every port, with no key: they are answered at once and never unpacked."""
    outcome = Outcome("no key: inflating bodies")
    bombs = _bombs()
    urls = [stack.intake_url, stack.skills_url, stack.costs_url, *stack.ops_urls.values()]
    for url in urls:
        for path in ("/v1/tasks", "/v1/chat/completions", "/v1/skills", "/healthz", "/nothing"):
            coding, body = random.choice(bombs)
            async with Wire(url) as wire:
                answer = await wire.send(
                    request("POST", path, body=body, headers=(("Content-Encoding", coding),)), seconds=10
                )
            outcome.count("no answer" if answer.timed_out else answer.status)
            if 200 <= answer.status < 300:
                outcome.through.append(f"POST {path} was answered with {answer.status}")
    return outcome


async def not_http(stack: RunningStack) -> Outcome:
    """Bytes that are no request, or several at once."""
    outcome = Outcome("no key: malformed HTTP")
    for url in (stack.intake_url, stack.skills_url, stack.costs_url, *stack.ops_urls.values()):
        for data in _NOT_HTTP:
            async with Wire(url) as wire:
                answer = await wire.send(data, seconds=3)
            outcome.count("waits" if answer.timed_out else answer.status)
            if answer.status in (200, 202):
                outcome.through.append(f"{data[:40]!r} was answered with {answer.status}")
    return outcome


async def unfinished_requests(stack: RunningStack) -> Outcome:
    """Connections that send half a request head, or nothing, and stay."""
    outcome = Outcome("no key: unfinished requests")
    loop = asyncio.get_running_loop()
    beginnings = (b"", b"G", b"GET /v1/tasks HTTP/1.1\r\nHost: x\r\n", b"POST /v1/tasks HTTP/1.1\r\nX-Padding: ")
    for url in (stack.intake_url, stack.skills_url, stack.costs_url, stack.ops_urls["router"]):
        host, _, port = url.removeprefix("http://").partition(":")
        opened = []
        for number in range(_UNFINISHED):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(beginnings[number % len(beginnings)])
            opened.append((reader, writer))
        began = loop.time()
        async with Wire(url) as wire:
            answer = await wire.send(request("GET", "/v1/nothing"), seconds=5)
        if answer.status == 0:
            outcome.hangs.append(f"{url} did not answer beside {_UNFINISHED} unfinished requests")
        ends = [asyncio.create_task(_end_of(reader)) for reader, _ in opened]
        done, still_open = await asyncio.wait(ends, timeout=_CLOSED_WITHIN)
        for _ in done:
            outcome.count("closed")
        for _ in still_open:
            outcome.count("still open")
        if still_open:
            outcome.through.append(f"{len(still_open)} unfinished requests open after {loop.time() - began:.0f} s")
        for task in still_open:
            task.cancel()
        for _, writer in opened:
            writer.close()
    return outcome


async def _end_of(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(4_096):
            pass
    except OSError:
        pass
