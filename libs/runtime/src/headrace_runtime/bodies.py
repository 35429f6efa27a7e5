"""What a request's body means: its content coding undone, and JSON that every reader understands in the same way.

JSON as such leaves open what a key that appears twice means, how large a number may be, and what half of a surrogate
pair is. Programs differ in it, so a caller, a proxy that checks, and we could each read something else in one body.
Bodies therefore have to be I-JSON (RFC 7493): UTF-8, no key twice in an object, numbers that a double can hold, no
lone surrogates.

All functions raise `Problem`, which never contains content of the body except the names of keys.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

from headrace_contracts.limits import MOST_REQUEST_BYTES

from headrace_runtime.problems import Problem

CONTENT_CODINGS: Final = ("gzip", "deflate")
"""Content codings that `undo_coding` takes, besides none."""

DEEPEST: Final = 64
"""Most levels of arrays and objects in a body."""

WHOLE: Final = "(body)"
"""The path of the whole body."""

MOST_VALUES: Final = 50_000
"""Most values in a body. A conversation of 2,048 messages has 8,000; half a million would occupy the process for a
second, whatever is done with them afterwards."""

_MOST_OBJECTS: Final = 20_000
"""Most objects, and most numbers: each costs a call from the parser."""
_LONGEST_NUMBER: Final = 400
"""In characters; the largest double has 309 digits before its point."""
_LONGEST_NAME: Final = 60
_MOST_MEMBERS: Final = 64
"""Most gzip members in one body; each costs a decompressor, however little is in it."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_UTF8_NAMES: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


def undo_coding(raw: bytes, coding: str, limit_bytes: int) -> bytes:
    """The body as it was before `coding`, the value of its Content-Encoding header ("" for none).

    Problem: 415 for a coding that is not taken, 400 when the body is not in that coding, is cut off, or continues
    after its end, 413 when it is larger than `limit_bytes` once unpacked.
    """
    name = coding.strip().lower()
    match name:
        case "" | "identity":
            return raw
        case "gzip" | "x-gzip":
            return _inflated(raw, "gzip", _GZIP, limit_bytes, members=_MOST_MEMBERS)
        case "deflate":
            # The RFC means the zlib format by it; several clients send the bare stream, whose first byte differs.
            bare = bool(raw) and raw[0] & 0x0F != zlib.DEFLATED
            return _inflated(raw, "deflate", -zlib.MAX_WBITS if bare else zlib.MAX_WBITS, limit_bytes, members=1)
    taken = ", ".join(CONTENT_CODINGS)
    raise Problem(
        415,
        "unsupported-content-encoding",
        f"This Content-Encoding is not supported: send the body plain, or in one of {taken}.",
        headers={"Accept-Encoding": f"{taken}, identity"},
    )


def _inflated(raw: bytes, coding: str, window_bits: int, limit_bytes: int, *, members: int) -> bytes:
    body = bytearray()
    rest = raw
    for _ in range(members):
        unpacker = zlib.decompressobj(window_bits)
        try:
            body += unpacker.decompress(rest, limit_bytes + 1 - len(body))
        except zlib.error:
            what = "is not, or is damaged" if rest is raw else "goes on with something else behind its end"
            raise _not_in(coding, what) from None
        if len(body) > limit_bytes:
            raise too_large(limit_bytes)
        if not unpacker.eof:
            raise _not_in(coding, "is cut off before its end")
        rest = unpacker.unused_data
        if not rest:
            return bytes(body)
    parts = f"has more than {members} parts" if members > 1 else "goes on with something else behind its end"
    raise _not_in(coding, parts)


def _not_in(coding: str, what: str) -> Problem:
    return Problem(400, "malformed-content-encoding", f"Content-Encoding says {coding}, but the body {what}.")


def too_large(limit_bytes: int) -> Problem:
    """413 for a body above the limit, as it was sent or once unpacked."""
    more = "" if limit_bytes >= MOST_REQUEST_BYTES else f" An operator can allow up to {MOST_REQUEST_BYTES}."
    why = f"The body is larger than {limit_bytes} bytes, the limit of this installation.{more}"
    return Problem(413, "body-too-large", why, extra={"limit_bytes": limit_bytes})


def expect_utf8(charset: str | None) -> None:
    """Raises Problem 400 for a charset of the Content-Type that is not UTF-8 (RFC 8259 allows no other)."""
    if charset is not None and charset.strip("\"' ").lower().replace("_", "-") not in _UTF8_NAMES:
        raise Problem(
            400, "unsupported-charset", "JSON has to be UTF-8: encode the body so, and send no other charset."
        )


class _NotANumber:
    """In place of a number that no double holds, until its path is known."""


class _Ambiguous(dict[str, Any]):
    """An object with a key that appears twice."""

    repeated: str


_NOT_A_NUMBER: Final = _NotANumber()
_HARMLESS: Final = frozenset({int, float, bool, type(None)})


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text.

    Problem: 400 `malformed-json` when it is not JSON in UTF-8 or nested too deeply; `duplicate-key`,
    `number-out-of-range` and `lone-surrogate`, with the path as `param`, for what other readers would read otherwise.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _malformed(f"The body is not UTF-8 text: byte {error.start + 1} is not valid there.") from None
    if not text or text.isspace():
        raise _malformed("The body is empty.")
    budget = _Budget()
    try:
        value = json.loads(
            text,
            parse_int=budget.whole_number,
            parse_float=budget.number,
            parse_constant=lambda _: _NOT_A_NUMBER,
            object_pairs_hook=budget.object,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _malformed(f"The body is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise _too_deep() from None
    _check(value, (), budget)
    return value


class _Budget:
    """Counts values while a body is parsed and checked. All methods raise Problem when there are too many."""

    __slots__ = ("_calls", "_values")

    def __init__(self) -> None:
        self._calls = _MOST_OBJECTS
        self._values = MOST_VALUES

    def take(self, values: int) -> None:
        self._values -= values
        if self._values < 0:
            raise _too_many_values()

    def _call(self) -> None:
        self._calls -= 1
        if self._calls < 0:
            raise _too_many_values()

    def whole_number(self, digits: str) -> Any:
        self._call()
        return _whole_number(digits)

    def number(self, digits: str) -> Any:
        self._call()
        return _number(digits)

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._call()
        return _object(pairs)


def _whole_number(digits: str) -> Any:
    if len(digits) < 300 or _number(digits) is not _NOT_A_NUMBER:
        return int(digits)
    return _NOT_A_NUMBER


def _number(digits: str) -> Any:
    if len(digits) > _LONGEST_NUMBER:
        return _NOT_A_NUMBER
    value = float(digits)
    return value if math.isfinite(value) else _NOT_A_NUMBER


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    ambiguous = _Ambiguous(made)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            ambiguous.repeated = key
            break
        seen.add(key)
    return ambiguous


def _check(value: Any, path: tuple[str, ...], budget: _Budget) -> None:
    match value:
        case str():
            _check_text(value, path, "this text")
        case dict() | list() if len(path) >= DEEPEST:
            raise _too_deep()
        case _Ambiguous():
            place = (*path, value.repeated)
            _check_text(value.repeated, path, "a key")
            raise _invalid("duplicate-key", place, "this key appears twice in the same object: send it once")
        case dict():
            budget.take(len(value))
            for key, item in value.items():
                _check_text(key, path, "a key")
                if not _is_harmless(item):
                    _check(item, (*path, key), budget)
        case list():
            budget.take(len(value))
            for index, item in enumerate(value):
                if not _is_harmless(item):
                    _check(item, (*path, str(index)), budget)
        case _NotANumber():
            raise _invalid(
                "number-out-of-range",
                path,
                f"must be a number within ±1.8e308, written in at most {_LONGEST_NUMBER} characters",
            )


def _is_harmless(value: Any) -> bool:
    # Nearly all values are; a body of half a million of them must not hold up the event loop.
    kind = type(value)
    return kind in _HARMLESS or (kind is str and value.isascii())


def _check_text(text: str, path: tuple[str, ...], what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _invalid(
            "lone-surrogate",
            path,
            f"character {error.start + 1} of {what} is half of a surrogate pair (\\u{ord(text[error.start]):04x}): "
            "an emoji or rare character was cut in two",
        ) from None


def place_of(path: Sequence[object]) -> str:
    """A path in the body as people read it: `messages.0.content`. Long names are cut, unprintable ones escaped."""
    return ".".join(_shown(str(part)) for part in path[:DEEPEST]) or WHOLE


def _shown(name: str) -> str:
    cut = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"
    return "".join(char if char.isprintable() else char.encode("unicode-escape").decode() for char in cut)


def _malformed(detail: str) -> Problem:
    return Problem(400, "malformed-json", detail)


def _too_many_values() -> Problem:
    return Problem(
        400,
        "too-many-values",
        f"The body has too many values: at most {MOST_VALUES} of all kinds, and {_MOST_OBJECTS} objects and numbers.",
    )


def _too_deep() -> Problem:
    return _malformed(f"The body is nested too deeply: at most {DEEPEST} levels of arrays and objects.")


def _invalid(kind: str, path: tuple[str, ...], message: str) -> Problem:
    place = place_of(path)
    return Problem(
        400, kind, f"{place}: {message}.", extra={"errors": [{"field": place, "message": message}]}, param=place
    )
