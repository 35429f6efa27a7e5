# ruff: noqa: E501 - tables of bytes
"""Recordings of streams, and what may happen to them on the way: a seeded mutator, and a transport that plays them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import httpx2
from headrace_models.ports import Provider
from headrace_models.upstream.connections import IncomingResponse, UpstreamConnections

from headrace_testing.provider_faults.faults import ANOTHER_PLACE, FAULTS
from headrace_testing.provider_faults.upstream import Script
from headrace_testing.provider_faults.wires import COUNTED, HELLO, Wire, stream

_INSERTED: Final = (
    b"\n", b"\r", b"\n\n", b"data: ", b"data:\n\n", b": comment\n\n", b"event: ping\n\n", b"event: error\n", b"null", b"{}",
    b"[]", b"true", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud83d", b"\\u0000", b"\xff", b"\xf0\x9f", b"\xef\xbb\xbf",
    b"data: [DONE]\n\n", b"data: null\n\n", b'{"error": "x"}\n', b'data: {"error": {"code": 500}}\n\n', b"\0",
    b'data: {"type": "error"}\n\n', b'{"done": true}\n', b"NaN", b"-", b"e",
)  # fmt: skip
_WORDS: Final = re.compile(rb'"[a-z_]{2,30}"')
_NUMBER: Final = re.compile(rb"\b[0-9]+\b")


def recordings(wire: Wire) -> list[bytes]:
    """Whole streams of a wire, well-behaved ones and those of the table of faults."""
    found = [
        b"".join(stream(wire)),
        b"".join(stream(wire, text=("One ", "two ", "three ", "four"), **COUNTED)),
        b"".join(stream(wire, wire.keep_alive(), wire.thought("hm"))),
        wire.whole("".join(HELLO), **COUNTED),
    ]
    for fault in FAULTS:
        # A client that has seen such an answer asks that model no more.
        script = fault.script(wire) if fault.group != ANOTHER_PLACE else None
        if isinstance(script, Script) and script.status == 200 and not script.headers.get("Content-Encoding"):
            body = b"".join(step for step in script.steps if isinstance(step, bytes))
            if 0 < len(body) < 20_000:
                found.append(body)
    return found


def mutated(recording: bytes, others: Sequence[bytes], rng: random.Random, *, numbers: bool) -> bytes:
    """The recording after one to four accidents; with `numbers`, these change numbers too, and else add none."""
    data = recording
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(9 if numbers else 8):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + rng.choice(_INSERTED) + data[at:]
            case 2:
                end = min(len(data), at + rng.randint(1, 60))
                data = data[:at] + data[end:]
            case 3:
                lines = data.split(b"\n")
                rng.shuffle(lines)
                data = b"\n".join(lines)
            case 4:
                lines = data.split(b"\n")
                one = rng.randrange(len(lines))
                lines.insert(rng.randrange(len(lines) + 1), lines[one])
                data = b"\n".join(lines)
            case 5:
                words = list(_WORDS.finditer(data))
                if words:
                    word = rng.choice(words)
                    other = rng.choice((b"null", b"[]", b"{}", b'"x"', b'"\\ud800"', b"true"))
                    data = data[: word.start()] + other + data[word.end() :]
            case 6:
                other = rng.choice(others)
                data = data[:at] + other[rng.randrange(len(other) + 1) :]
            case 7:
                data = _with_another_value(data, rng)
            case 8:
                found = list(_NUMBER.finditer(data))
                if found:
                    number = rng.choice(found)
                    other = rng.choice(
                        (b"-1", b"0", b"1e30", b"NaN", b"9" * 400, b"1.5", b"null", b"99999999999", b'"3"')
                    )
                    data = data[: number.start()] + other + data[number.end() :]
    return data


_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, "x", "", "\ud83d", [], {}, [None], [[]], [{}], ["x"], {"x": None}, [{"type": "text", "text": None}],
    [{"type": None}], {"type": "text", "text": []}, {"text": {}}, "stop", "error", ["stop"],
)  # fmt: skip


def _with_another_value(data: bytes, rng: random.Random) -> bytes:
    """One value in one of the stream's documents replaced by another, so that everything else stays well-formed."""
    lines = data.split(b"\n")
    found = [index for index, line in enumerate(lines) if b"{" in line]
    if not found:
        return data
    index = rng.choice(found)
    prefix, brace, rest = lines[index].partition(b"{")
    try:
        whole: Any = json.loads(brace + rest)
    except (ValueError, RecursionError):
        return data
    inner, places = whole, []
    while isinstance(inner, dict | list) and inner:
        key: Any = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        places.append((inner, key))
        inner = inner[key]
    if places:
        parent, key = rng.choice(places)
        parent[key] = rng.choice(_VALUES)
    lines[index] = prefix + json.dumps(whole).encode()
    return b"\n".join(lines)


class Playback:
    """UpstreamConnections that answer every request with `pieces`, without a network."""

    def __init__(self) -> None:
        self.pieces: Sequence[bytes] = ()

    async def open(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, connect: float | None,
        read: float | None,
    ) -> IncomingResponse:  # fmt: skip
        return PlayedResponse(self.pieces)

    async def aclose(self) -> None:
        """Nothing is open."""


class PlayedResponse:
    """A good one with these pieces."""

    status_code: Final = 200
    headers: Final[Mapping[str, str]] = {}
    raw_headers: Final[Sequence[tuple[bytes, bytes]]] = ()

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        """Nothing is open."""


def play_to(client: Provider, playback: UpstreamConnections) -> None:
    """Put the playback where the client's connections are, below everything that is ours."""
    inner: Any = client
    while not hasattr(inner, "_connections"):
        inner = inner._transport if isinstance(inner, httpx2.AsyncClient) else inner._client
    inner._connections = playback


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """The data in pieces, as a network delivers it."""
    pieces = []
    while data:
        size = rng.choice((1, 7, 64, 4096))
        pieces.append(data[:size])
        data = data[size:]
    return pieces
