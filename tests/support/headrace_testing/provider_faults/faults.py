# ruff: noqa: E501 - one line for each fault keeps the table readable
"""Kinds of trouble that upstreams make, each as any wire would show it, and what must come of it.

Most have been reported by users of other gateways. `docs/provider-faults.md` is generated from this table by running it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from headrace_models.prices import estimated_tokens

from headrace_testing.provider_faults.upstream import CLOSE, HANG, RESET, Raw, Script, Step, Wait
from headrace_testing.provider_faults.wires import COUNTED, HELLO, Complaint, Wire, stream

PROMPT: Final = "Say hello."
HEARD: Final = HELLO[0]
WHOLE: Final = "".join(HELLO)

Used = Callable[[Wire], tuple[int, int]]
"""Input and output tokens that must be booked."""


ANOTHER_PLACE: Final = "Another place"
SILENCE: Final = "Silence"
"""The group of faults that only a time limit ends."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come of it: an answer, or a failure of this code; and what is booked."""

    code: str | None
    used: Used
    text: str = WHOLE
    finish: str = "stop"
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble.

    Attributes:
        script: What the upstream plays; None for wires that cannot show it.
        address: Where the client is sent; the upstream's own address by default.
    """

    group: str
    title: str
    script: Callable[[Wire], Script | None]
    expected: Callable[[Wire], Expected]
    address: Callable[[str], str] = str

    @property
    def id(self) -> str:
        return self.title.replace(" ", "-").replace("`", "")


def reported(_wire: Wire) -> tuple[int, int]:
    return COUNTED["read"], COUNTED["written"]


def nothing(_wire: Wire) -> tuple[int, int]:
    return 0, 0


def heard(text: str) -> Used:
    """What a stream consumed that gave no final counts: Anthropic has reported the prompt, others are estimated."""

    def used(wire: Wire) -> tuple[int, int]:
        read = COUNTED["read"] if wire.name == "anthropic" else estimated_tokens(PROMPT)
        return read, max(1 if wire.name == "anthropic" else 0, estimated_tokens(text))

    return used


def estimated(text: str) -> Used:
    """What a call consumed of which the upstream has said nothing."""
    return lambda _wire: (estimated_tokens(PROMPT), estimated_tokens(text))


def _answers(used: Used = reported, **changes: Any) -> Callable[[Wire], Expected]:
    return lambda _wire: Expected(None, used, **changes)


def _fails(code: str, used: Used = nothing, **changes: Any) -> Callable[[Wire], Expected]:
    return lambda _wire: Expected(code, used, text="", **changes)


def _says(status: int, complaint: Complaint, **headers: str) -> Callable[[Wire], Script]:
    return lambda wire: Script([wire.error_body(complaint)], status, {"Content-Type": "application/json", **headers})


def _plays(*steps: Step, **headers: str) -> Callable[[Wire], Script]:
    return lambda _wire: Script(steps, 200, headers)


def _streams(*between: bytes, **changes: Any) -> Callable[[Wire], Script]:
    return lambda wire: Script(stream(wire, *between, **changes))


def _begins(*then: Step) -> Callable[[Wire], Script]:
    """The start and the first piece, then something else."""
    return lambda wire: Script([wire.start(), wire.text(HEARD), *then])


def _only(names: str, script: Callable[[Wire], Script]) -> Callable[[Wire], Script | None]:
    return lambda wire: script(wire) if wire.name in names.split() else None


def _statuses() -> Iterator[Fault]:
    group = "The request is refused"
    busy = Complaint("Rate limit reached", "rate_limit_error", "rate_limit_exceeded")
    rows: list[tuple[str, Callable[[Wire], Script], Callable[[Wire], Expected]]] = [
        ("429 with Retry-After in seconds", _says(429, busy, **{"Retry-After": "2"}), _fails("rate_limited", retry_after_ms=2000)),
        (
            "429 with Retry-After as a date",
            _says(429, busy, **{"Retry-After": "Sat, 28 Nov 2026 12:00:07 GMT", "Date": "Sat, 28 Nov 2026 12:00:00 GMT"}),
            _fails("rate_limited", retry_after_ms=7000),
        ),
        ("429 without Retry-After", _says(429, busy), _fails("rate_limited")),
        ("429, no credit left", _says(429, Complaint("You exceeded your current quota", "insufficient_quota", "insufficient_quota")), _fails("quota_exhausted")),
        ("402", _says(402, Complaint("Insufficient Balance", "billing_error")), _fails("quota_exhausted")),
        ("400, usage limit of the account", _says(400, Complaint("You have reached your specified API usage limits.")), _fails("quota_exhausted")),
        ("401", _says(401, Complaint("Invalid key", "authentication_error", "invalid_api_key")), _fails("not_authorised")),
        ("403", _says(403, Complaint("No access", "permission_error")), _fails("not_authorised")),
        ("400, organisation restricted", _says(400, Complaint("Organization has been restricted.", code="organization_restricted")), _fails("not_authorised")),
        ("404", _says(404, Complaint("model not found", "not_found_error", "model_not_found")), _fails("model_missing")),
        ("400, model decommissioned", _says(400, Complaint("The model has been decommissioned", code="model_decommissioned")), _fails("model_missing")),
        ("400", _says(400, Complaint("messages: invalid")), _fails("request_rejected")),
        ("422, unknown field", _says(422, Complaint("Extra inputs are not permitted")), _fails("request_rejected")),
        ("400, answer was no JSON", _says(400, Complaint("Failed to generate JSON", code="json_validate_failed")), _fails("request_rejected")),
        ("400, too long for the model", _says(400, Complaint("This model's maximum context length is 8192 tokens", code="context_length_exceeded")), _fails("context_too_long")),
        ("413", _says(413, Complaint("Too large", "request_too_large")), _fails("context_too_long")),
        ("400, output blocked by a filter", _says(400, Complaint("Output blocked by content filtering policy")), _fails("output_blocked")),
        ("500", _says(500, Complaint("Internal error", "api_error")), _fails("provider_error")),
        ("500, not enough memory", _says(500, Complaint("model requires more system memory than is available", "api_error")), _fails("model_does_not_fit")),
        ("502 with a gateway's HTML", lambda _: Script([b"<html><h1>Bad gateway"], 502, {"Content-Type": "text/html"}), _fails("provider_error")),
        ("503", _says(503, Complaint("server busy", "service_unavailable")), _fails("overloaded")),
        ("504", _says(504, Complaint("upstream timed out", "timeout_error")), _fails("timeout")),
        ("529", _says(529, Complaint("Overloaded", "overloaded_error")), _fails("overloaded")),
        ("204", lambda _: Script([Raw(b"")], 204), _fails("provider_error")),
        ("307 to another origin", lambda _: Script([], 307, {"Location": "http://127.0.0.1:9/stolen"}), _fails("redirected")),
        ("308 to another origin", lambda _: Script([], 308, {"Location": "https://example.invalid/"}), _fails("redirected")),
        ("302 to a login page", lambda _: Script([b"<html>"], 302, {"Location": "/login"}), _fails("redirected")),
        ("500 with an endless text", lambda _: Script([b"x" * 60_000] * 40, 500), _fails("provider_error")),
        ("400 with bytes that are no text", lambda _: Script([b"\xff\xfe\x00{"], 400), _fails("request_rejected")),
        ("500 with JSON nested 100,000 deep", lambda _: Script([b"[" * 100_000], 500), _fails("provider_error")),
    ]  # fmt: skip
    for title, script, expected in rows:
        yield Fault(group, title, script, expected)


def _connections() -> Iterator[Fault]:
    group = "The connection"
    lost = _fails("connection_lost", heard(HEARD))
    yield Fault(group, "connection refused", _plays(), _fails("unreachable"), lambda _url: "http://127.0.0.1:9")
    yield Fault(
        group, "TLS does not work", lambda _: Script([Raw(b"plain")], None), _fails("unreachable"),
        lambda url: url.replace("http:", "https:"),
    )  # fmt: skip
    yield Fault(group, "closed without a response", lambda _: Script([CLOSE], None), _fails("unreachable"))
    yield Fault(group, "reset without a response", lambda _: Script([RESET], None), _fails("unreachable"))
    yield Fault(
        group, "a response that is not HTTP", lambda _: Script([Raw(b"SSH-2.0-OpenSSH\r\n\r\n")], None),
        _fails("unreachable"),
    )  # fmt: skip
    yield Fault(group, "closed in mid-stream", _begins(CLOSE), lost)
    yield Fault(group, "reset in mid-stream", _begins(Wait(0.02), RESET), lost)
    yield Fault(group, "a chunk that is not HTTP", _begins(Raw(b"zz\r\n")), lost)
    yield Fault(group, "ended in order in mid-stream", _begins(), lost)
    yield Fault(
        group, "compressed although asked not to be",
        lambda wire: Script([gzip.compress(b"".join(stream(wire)))], 200, {"Content-Encoding": "gzip"}),
        _fails("provider_error"),
    )  # fmt: skip
    yield Fault(
        group, "a small body that expands a thousandfold",
        lambda _: Script([gzip.compress(b"\0" * 2**24)], 200, {"Content-Encoding": "gzip"}), _fails("provider_error"),
    )  # fmt: skip
    yield Fault(group, "closed when the answer was whole", lambda w: Script([*stream(w)[:-1], CLOSE]), _answers())


def _repeated(times: int, *steps: Step) -> list[Step]:
    return list(steps) * times


def _silences() -> Iterator[Fault]:
    group = SILENCE
    yield Fault(group, "hangs before its response", lambda _: Script([HANG], None), _fails("timeout"))
    yield Fault(
        group, "hangs after its head", _plays(HANG),
        lambda wire: Expected("timeout", estimated(""), text=""),
    )  # fmt: skip
    yield Fault(group, "hangs in mid-stream", _begins(HANG), _fails("timeout", heard(HEARD)))
    yield Fault(
        group, "only keep-alives", lambda w: Script([w.start(), *_repeated(50, w.keep_alive(), Wait(0.02)), HANG]),
        _fails("timeout", heard("")),
    )  # fmt: skip
    yield Fault(
        group, "keep-alives in mid-stream",
        lambda w: Script([w.start(), w.text(HEARD), *_repeated(50, w.keep_alive(), Wait(0.02)), HANG]),
        _fails("timeout", heard(HEARD)),
    )  # fmt: skip
    yield Fault(
        group,
        "drips slower than any limit allows for all",
        lambda w: Script([w.start(), *_repeated(60, w.text("x"), Wait(0.05))]),
        # How much of it came in time depends on the machine.
        lambda w: Expected("timeout", lambda _: (-1, -1), text=""),
    )
    yield Fault(
        group, "thinks for long, then answers",
        lambda w: Script([w.start(), *_repeated(8, w.thought("hm"), Wait(0.05)), *stream(w)[1:]]), _answers(),
    )  # fmt: skip
    yield Fault(group, "hangs when the answer was whole", lambda w: Script([*stream(w), HANG]), _answers())


def _formats() -> Iterator[Fault]:
    group = "The format"
    broken = _fails("provider_error", heard(HEARD))
    yield Fault(
        group, "broken JSON in mid-stream", _only("openai anthropic", _begins(b'data: {"type": "x\n\n')), broken
    )
    yield Fault(group, "broken JSON line in mid-stream", _only("ollama", _begins(b'{"message": {"con\n')), broken)
    yield Fault(group, "broken UTF-8 in mid-stream", _begins(b'data: {"x": "\xff\xfe"}\n\n'), broken)
    yield Fault(group, "a line of 5 MiB", _begins(*[b"x" * 65_536] * 80), broken)
    yield Fault(
        group, "JSON nested 100,000 deep",
        lambda w: _begins((b"" if w.name == "ollama" else b"data: ") + b'{"a":' * 100_000 + b"\n\n")(w), broken,
    )  # fmt: skip
    yield Fault(
        group, "events without data, comments, `retry`, `id`",
        _only("openai anthropic", _streams(b": c\n\nevent: ping\n\nid: 7\n\nretry: 10\n\ndata:\n\ndata: \n\n:\n\n")),
        _answers(),
    )  # fmt: skip
    yield Fault(group, "empty lines", _streams(b"\n\n\n"), _answers())
    yield Fault(
        group, "chunks with nothing usable",
        lambda w: Script(stream(w, *(w.frame(one) for one in _useless(w)))), _answers(),
    )  # fmt: skip
    yield Fault(
        group, "content as a list of parts", _only("openai", lambda w: Script([
            w.start(),
            w.frame({"choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": WHOLE}]}}]}),
            w.end(**COUNTED), w.done(),
        ])), _answers(),
    )  # fmt: skip
    yield Fault(
        group, "choices of another index", _only("openai", lambda w: Script(stream(
            w, w.frame({"choices": [{"index": 1, "delta": {"content": "NO"}, "finish_reason": "stop"}]})
        ))), _answers(),
    )  # fmt: skip
    yield Fault(
        group, "text in the start of a block", _only("anthropic", lambda w: Script([
            w.start(),
            w.frame({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": WHOLE}}),
            w.end(**COUNTED), w.done(),
        ])), _answers(),
    )  # fmt: skip
    yield Fault(group, "CRLF as line end", lambda w: Script([b.replace(b"\n", b"\r\n") for b in stream(w)]), _answers())
    yield Fault(group, "CR as line end", lambda w: Script([b.replace(b"\n", b"\r") for b in stream(w)]), _answers())
    yield Fault(group, "byte by byte", lambda w: Script([bytes([b]) for b in b"".join(stream(w))]), _answers())
    yield Fault(
        group, "a JSON body where a stream was asked for",
        lambda w: Script([w.whole(WHOLE, **COUNTED)], 200, {"Content-Type": "application/json"}), _answers(),
    )  # fmt: skip
    yield Fault(
        group, "an error as a JSON body with status 200", _says(200, Complaint("Overloaded", "overloaded_error", "503")),
        lambda w: Expected("provider_error" if w.name == "ollama" else "overloaded", estimated(""), text=""),
    )  # fmt: skip
    yield Fault(
        group, "HTML with status 200", _plays(b"<!DOCTYPE html>\n<html>Please log in</html>"),
        lambda w: Expected("provider_error" if w.name == "ollama" else "connection_lost", estimated(""), text=""),
    )  # fmt: skip
    yield Fault(group, "an empty body with status 200", _plays(), _fails("connection_lost", estimated("")))
    yield Fault(
        group, "an error in mid-stream",
        lambda w: _begins(w.error(Complaint("Overloaded", "overloaded_error", "overloaded")))(w),
        lambda w: Expected("provider_error" if w.name == "ollama" else "overloaded", heard(HEARD), text=""),
    )  # fmt: skip
    yield Fault(
        group, "an unknown error in mid-stream", lambda w: _begins(w.error(Complaint("?", "whatever", "E1000")))(w),
        _fails("provider_error", heard(HEARD)),
    )  # fmt: skip
    emoji = "\U0001f600"
    yield Fault(
        group, "a character torn into two halves", lambda w: Script(stream(w, text=("\ud83d", "\ude00"))),
        _answers(text=emoji),
    )  # fmt: skip
    yield Fault(
        group, "half a character without its other half", lambda w: Script(stream(w, text=("a\ud83d", "b\ude00"))),
        _answers(text="a\ufffdb\ufffd"),
    )  # fmt: skip
    yield Fault(
        group, "half a character at the end", lambda w: Script(stream(w, text=("ab", "c\ud83d"))),
        _answers(text="abc\ufffd"),
    )  # fmt: skip


def _useless(wire: Wire) -> list[Any]:
    common: list[Any] = [{}, {"usage": None}, {"id": None, "model": None}, 7, "x", None, [], [1], True]
    match wire.name:
        case "openai":
            return [
                *common, {"choices": None}, {"choices": []}, {"choices": [{"index": 0, "delta": None}]},
                {"choices": [{"index": 0}]}, {"choices": [None, 7]}, {"choices": {"0": 1}},
                {"choices": [{"index": 0, "delta": {"content": None}, "finish_reason": None}]},
                {"choices": [{"index": 0, "delta": {"content": 7}, "finish_reason": ""}]},
            ]  # fmt: skip
        case "anthropic":
            return [
                *common, {"type": "message_delta"}, {"type": "message_delta", "delta": None, "usage": None},
                {"type": "content_block_delta", "index": 0, "delta": None},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": None}},
                {"type": "content_block_start", "content_block": 7}, {"type": "not_yet_invented", "x": 1},
                {"type": "message_start", "message": None}, {"type": 7},
            ]  # fmt: skip
    return [*common, {"message": None}, {"message": {"content": None}}, {"message": 7, "done": None}, {"done": "no"}]


def _ends() -> Iterator[Fault]:
    group = "The end"
    yield Fault(group, "an unknown reason", _streams(reason="because"), _fails("unknown_finish", reported))
    yield Fault(group, "`error` as the reason", _streams(reason="error"), _fails("unknown_finish", reported))
    yield Fault(group, "a number as the reason", _streams(reason=7), _fails("unknown_finish", reported))
    yield Fault(
        group, "no reason, but an end", lambda w: Script([w.start(), *map(w.text, HELLO), w.done()]),
        _fails("connection_lost", heard(WHOLE)),
    )  # fmt: skip
    yield Fault(group, "an empty answer", _streams(text=()), _fails("empty_answer", reported))
    yield Fault(group, "an answer of white space", _streams(text=(" ", "\n\n")), _fails("empty_answer", reported))
    yield Fault(
        group, "a refusal", lambda w: Script(stream(w, reason=w.reason("refusal"))),
        lambda w: Expected(None, reported, finish={"ollama": "stop", "openai": "content_filter"}.get(w.name, "refusal")),
    )  # fmt: skip
    yield Fault(
        group, "cut off at its limit", lambda w: Script(stream(w, reason=w.reason("length"))),
        _answers(finish="length"),
    )  # fmt: skip
    yield Fault(
        group, "all of its limit spent on thinking", lambda w: Script(stream(w, text=(), reason=w.reason("length"))),
        _fails("empty_answer", reported),
    )  # fmt: skip


_NAN: Final = float("nan")


def _counts() -> Iterator[Fault]:
    group = "Counts"
    unsaid = _answers(lambda w: heard(WHOLE)(w))
    impossible: list[tuple[str, Any]] = [
        ("null", None), ("NaN", _NAN), ("1e30", 1e30), ("negative", -5), ("2 to the 40th", 2**40), ("2 to the 70th", 2**70),
        ("texts", "12"), ("truth values", True), ("lists", [12]), ("fractions", 1.5), ("infinite", float("inf")),
    ]  # fmt: skip
    for title, value in impossible:
        yield Fault(group, f"{title} as counts", _streams(read=value, written=value), unsaid)
    yield Fault(
        group, "a number of 5,000 digits as count",
        lambda w: Script([one.replace(b"777", b"9" * 5000) for one in stream(w, read=777, written=777)]), unsaid,
    )  # fmt: skip
    yield Fault(group, "no counts at all", _streams(counts=None), unsaid)
    yield Fault(
        group, "empty usage", lambda w: Script(stream(w, w.frame(_with_usage(w, {})), counts=None)), unsaid,
    )  # fmt: skip
    yield Fault(
        group, "usage that is a list", lambda w: Script(stream(w, w.frame(_with_usage(w, [1])), counts=None)), unsaid,
    )  # fmt: skip
    yield Fault(
        group, "more cached than read", _only("openai", _streams(read=12, written=5, cached=500)), _answers(),
    )  # fmt: skip
    yield Fault(
        group, "zero after the true counts",
        lambda w: Script([*stream(w)[:-1], w.end(read=0, written=0), w.done()]), _answers(),
    )  # fmt: skip
    yield Fault(
        group,
        "interim counts, then broken off",
        lambda w: Script([w.start(read=12, written=1), w.text("x" * 4000), CLOSE]),
        lambda w: Expected("connection_lost", lambda _: (12, 1000), text=""),
    )
    yield Fault(
        group, "hidden thinking only in the total", _only("openai", _streams(read=12, written=5, total=117)),
        _answers(lambda _: (12, 105)),
    )  # fmt: skip


def _with_usage(wire: Wire, usage: object) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {}, "choices": [], "usage": usage}


def _names() -> Iterator[Fault]:
    group = "Names"
    for title, value in (
        ("a number", 7), ("half a character", "\ud83d"), ("100,000 characters", "m" * 100_000), ("null", None),
        ("the prompt", PROMPT),
    ):  # fmt: skip
        yield Fault(group, f"{title} as the model's name", lambda w, value=value: _renamed(w, value), _answers())  # type: ignore[misc]


def _renamed(wire: Wire, value: object) -> Script:
    was = json.dumps(wire.model).encode()
    return Script(
        [step.replace(b'"model": ' + was, b'"model": ' + json.dumps(value).encode()) for step in stream(wire)]
    )


def _places() -> Iterator[Fault]:
    group = ANOTHER_PLACE
    for title, field in (("remote_host", "https://ollama.com:443"), ("remote_model", "gpt-oss:120b")):
        yield Fault(
            group, f"an answer with `{title}`",
            _only("ollama", lambda w, title=title, field=field: Script(_made_elsewhere(w, title, field))),  # type: ignore[misc]
            _fails("answered_remotely", estimated("")),
        )  # fmt: skip


def _made_elsewhere(wire: Wire, field: str, value: str) -> list[bytes]:
    return [json.dumps({**json.loads(part), field: value}).encode() + b"\n" for part in stream(wire) if part]


FAULTS: Final = tuple(
    fault
    for group in (_statuses, _connections, _silences, _formats, _ends, _counts, _names, _places)
    for fault in group()
)
