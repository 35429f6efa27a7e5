"""What a call of a model costs the worker's process, over each client and each way to send its requests.

The real clients answer chats of a local server that speaks their wires without any latency, in a process of its own;
what counts is the processor time of the client's process for each call, its parsing of the answer included. Plain: the
whole answer comes at once. Streamed: it comes in pieces, a millisecond apart. Rounds alternate among the ways.

The ways: httpx2 as it comes; httpx2 over our connections, which are aiohttp's (as the anthropic package needs it); and
our connections directly. The anthropic package sends its requests through httpx2 in any case.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

import httpx2
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_models.conversation import ChatMessage
from headrace_models.ports import ChatRequest, Provider
from headrace_models.upstream.http import open_client, open_httpx_client
from headrace_testing.provider_faults.wires import COUNTED, WIRES, Wire, stream

WORDS: Final = 24
"""Pieces of an answer."""
PAUSE_SECONDS: Final = 0.001
WAYS: Final = ("httpx2", "httpx2 over aiohttp", "aiohttp")
SHAPES: Final = ("plain", "streamed")
STREAMED: Final = "/streamed"
RESULTS: Final = Path("bench-results/model-calls.json")
PROMPT: Final = "Write a sentence of some two dozen words about water that runs. " * 8


class CannedServer(asyncio.Protocol):
    """Answers each request with what its path stands for; the clients' processor time is measured, not this one's."""

    def __init__(self, answers: Mapping[bytes, list[bytes]]) -> None:
        self._answers = answers
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass of it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended:
            return
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
        if len(body) < length:
            return
        path = bytes(head.split(b" ", 2)[1])
        self._received.clear()
        task = asyncio.ensure_future(self._answer(path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, path: bytes) -> None:
        assert self._transport is not None
        pieces = self._answers[path.removeprefix(STREAMED.encode())]
        chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        if not path.startswith(STREAMED.encode()):
            self._transport.write(head + b"".join(chunks) + b"0\r\n\r\n")
            return
        self._transport.write(head)
        for chunk in chunks:
            self._transport.write(chunk)
            await asyncio.sleep(PAUSE_SECONDS)
        self._transport.write(b"0\r\n\r\n")


PATHS: Final = {"ollama": b"/api/chat", "openai": b"/chat/completions", "anthropic": b"/v1/messages"}


def serve(port: Connection) -> None:
    """Run the server until it is killed."""
    answers = {
        PATHS[name]: stream(wire, text=tuple(f"word{number} " for number in range(WORDS)), **COUNTED)
        for name, wire in WIRES.items()
    }

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: CannedServer(answers), "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


def over(wire: Wire, base_url: str, way: str) -> Provider:
    """The wire's client with its requests going this way."""
    client: Any = wire.client(base_url)
    owner = client if wire.name != "anthropic" else client._client
    path = "" if wire.name == "ollama" else base_url
    match way:
        case "httpx2":
            plain = httpx2.AsyncClient(
                base_url=(path or base_url) + "/", trust_env=False, timeout=httpx2.Timeout(None, connect=10.0),
                headers={"Accept-Encoding": "identity"},
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            )  # fmt: skip
            owner._client = plain
        case "httpx2 over aiohttp":
            owner._client = open_httpx_client(base_url)
        case "aiohttp" if wire.name != "anthropic":
            owner._client = open_client(base_url)
    return client  # type: ignore[no-any-return]


def spent_seconds() -> float:
    """Processor time of this process until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measured(client: Provider, model: str, calls: int, concurrency: int) -> float:
    """Microseconds of processor time for each of these calls."""
    request = ChatRequest(model, (ChatMessage("user", PROMPT),), timeout_seconds=300.0)
    left = iter(range(calls))

    async def some() -> None:
        for _ in left:
            result = await client.chat(request, _nothing)
            assert result.text.endswith(f"word{WORDS - 1} "), result.text

    began = spent_seconds()
    await asyncio.gather(*(some() for _ in range(concurrency)))
    return (spent_seconds() - began) / calls * 1e6


def _nothing(_text: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class Contest:
    """One row of the table."""

    wire: str
    shape: str
    concurrency: int

    @property
    def ways(self) -> tuple[str, ...]:
        return WAYS if self.wire != "anthropic" else WAYS[:2]

    @property
    def name(self) -> str:
        return f"{self.wire}, {self.shape}, {self.concurrency} at once"


async def rounds_of(contest: Contest, url: str, rounds: int, calls: int) -> dict[str, list[float]]:
    """Microseconds for each call, round by round, of each way in turn; a first round warms up."""
    wire = WIRES[contest.wire]
    base_url = url + (STREAMED if contest.shape == "streamed" else "")
    clients = {way: over(wire, base_url, way) for way in contest.ways}
    found: dict[str, list[float]] = {way: [] for way in contest.ways}
    for number in range(rounds + 1):
        ordered = contest.ways if number % 2 else contest.ways[::-1]
        for way in ordered:
            count = calls if number else max(contest.concurrency, calls // 4)
            spent = await measured(clients[way], wire.model, count, contest.concurrency)
            if number:
                found[way].append(spent)
    for client in clients.values():
        await client.close()
    return found


def line_of(contest: Contest, found: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians in microseconds, and how many times less each way costs than httpx2: the median of the rounds' ratios."""
    return {
        "what": contest.name,
        "microseconds": {way: round(statistics.median(times)) for way, times in found.items()},
        "times_less": {
            way: round(statistics.median(old / new for old, new in zip(found[WAYS[0]], times, strict=True)), 2)
            for way, times in found.items()
            if way != WAYS[0]
        },
        "rounds": {way: [round(time, 1) for time in times] for way, times in found.items()},
    }


def row_of(line: Mapping[str, Any]) -> str:
    """As a row of Markdown."""
    cells = [f"{line['microseconds'].get(way, '—')}" for way in WAYS]
    cells += [f"{line['times_less'].get(way, '—')}" for way in WAYS[1:]]
    return f"| {line['what']} | {' | '.join(cells)} |"


def main() -> int:
    """Print a table to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench-models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each way (default 7)")
    parser.add_argument("--calls", type=int, default=256, help="calls of a round (default 256)")
    parser.add_argument("--only", choices=list(WIRES), help="only this wire")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    receiving, sending = multiprocessing.get_context("spawn").Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(sending,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receiving.recv()}"
    write: Callable[[str], object] = sys.stderr.write
    titles = ("microseconds of processor time for a call", *WAYS, *(f"{way}, times less" for way in WAYS[1:]))
    write(f"| {' | '.join(titles)} |\n")
    write(f"|{'---|' * 6}\n")
    lines = []
    try:
        for wire in [options.only] if options.only else WIRES:
            for shape in SHAPES:
                for concurrency in (1, 64):
                    contest = Contest(wire, shape, concurrency)
                    found = uvloop.run(rounds_of(contest, url, options.rounds, options.calls))
                    lines.append(line_of(contest, found))
                    write(row_of(lines[-1]) + "\n")
    finally:
        server.kill()
        server.join()
    report = {
        "what": "processor time of the client's process for a call, medians over the rounds",
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "calls_of_a_round": options.calls,
        "lines": lines,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    write(f"Also in {options.output}\n")
    shown = [{key: line[key] for key in ("what", "microseconds", "times_less")} for line in lines]
    sys.stdout.write(json.dumps(shown) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
