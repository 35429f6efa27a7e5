"""Bodies that no endpoint may take, whatever it expects: each with its headers and how it is refused."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BadBody:
    """A body, and the status and kind of its refusal; `param` is the path it has to name, None for the whole body."""

    body: bytes
    kind: str
    param: str | None = None
    status: int = 400
    headers: Mapping[str, str] = field(default_factory=dict)


def _number(text: str) -> BadBody:
    return BadBody(b'{"a": [1, ' + text.encode() + b"]}", "number-out-of-range", "a.1")


def _coded(body: bytes, coding: str, kind: str = "malformed-content-encoding", status: int = 400) -> BadBody:
    return BadBody(body, kind, status=status, headers={"Content-Encoding": coding})


def _untaken(coding: str) -> BadBody:
    return _coded(b"{}", coding, "unsupported-content-encoding", 415)


_PLAIN = b'{"a": "' + b"text " * 100 + b'"}'
_GZIP = gzip.compress(_PLAIN, mtime=0)
_ZLIB = zlib.compress(_PLAIN)

BAD_BODIES: dict[str, BadBody] = {
    "whole number of 5,000 digits": _number("1" * 5_000),
    "negative number of 5,000 digits": _number("-" + "1" * 5_000),
    "fraction of 5,000 digits": _number("0." + "3" * 5_000),
    "exponent of 5,000 digits": _number("1e" + "9" * 5_000),
    "whole number beyond every double": _number("1" + "0" * 309),
    "1e999999": _number("1e999999"),
    "-1e309": _number("-1e309"),
    "NaN": _number("NaN"),
    "Infinity": _number("Infinity"),
    "-Infinity": _number("-Infinity"),
    "100,000 arrays": BadBody(b"[" * 100_000 + b"]" * 100_000, "malformed-json"),
    "100,000 objects": BadBody(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "malformed-json"),
    "100,000 arrays without an end": BadBody(b"[" * 100_000, "malformed-json"),
    "200 arrays": BadBody(b"[" * 200 + b"]" * 200, "malformed-json"),
    "nothing": BadBody(b"", "malformed-json"),
    "text that is not JSON": BadBody(b"{'a': 1}", "malformed-json"),
    "text after the end": BadBody(b"{} {}", "malformed-json"),
    "bytes that are not UTF-8": BadBody(b'{"a": "\xff"}', "malformed-json"),
    "a surrogate as bytes": BadBody(b'{"a": "\xed\xa0\xbd"}', "malformed-json"),
    "UTF-16": BadBody('{"a": 1}'.encode("utf-16"), "malformed-json"),
    "UTF-16 as declared": BadBody(
        '{"a": 1}'.encode("utf-16"), "unsupported-charset", headers={"Content-Type": "application/json; charset=utf-16"}
    ),
    "Latin-1 as declared": BadBody(
        b'{"a": "\xe9"}', "unsupported-charset", headers={"Content-Type": "application/json; charset=ISO-8859-1"}
    ),
    "a charset of no meaning": BadBody(
        b"{}", "unsupported-charset", headers={"Content-Type": 'application/json; charset="x"'}
    ),
    "a key twice": BadBody(b'{"privacy": "sensitive", "privacy": "public"}', "duplicate-key", "privacy"),
    "a key twice with the same value": BadBody(b'{"a": 1, "b": 2, "a": 1}', "duplicate-key", "a"),
    "a key twice, once escaped": BadBody(rb'{"privacy": 1, "\u0070rivacy": 2}', "duplicate-key", "privacy"),
    "a key twice within": BadBody(b'{"a": [0, {"b": {"c": 1, "c": null}}]}', "duplicate-key", "a.1.b.c"),
    "half a pair, the first": BadBody(rb'{"a": ["x", "ab\ud83d"]}', "lone-surrogate", "a.1"),
    "half a pair, the second": BadBody(rb'{"a": {"b": "\ude00 and more"}}', "lone-surrogate", "a.b"),
    "a pair the wrong way round": BadBody(rb'{"a": "\ude00\ud83d"}', "lone-surrogate", "a"),
    "half a pair in a key": BadBody(rb'{"a": {"\ud83d": 1}}', "lone-surrogate", "a"),
    "half a pair in a key that is there twice": BadBody(rb'{"a": {"\ud83d": 1, "\ud83d": 2}}', "lone-surrogate", "a"),
    "no gzip": _coded(b'{"a": 1}', "gzip"),
    "nothing as gzip": _coded(b"", "gzip"),
    "zlib as gzip": _coded(_ZLIB, "gzip"),
    "half a gzip": _coded(_GZIP[: len(_GZIP) // 2], "gzip"),
    "gzip without its last byte": _coded(_GZIP[:-1], "gzip"),
    "gzip with garbage after it": _coded(_GZIP + b"garbage", "gzip"),
    "gzip with zeros after it": _coded(_GZIP + b"\0" * 8, "gzip"),
    "gzip with a wrong checksum": _coded(_GZIP[:-8] + b"\0\0\0\0" + _GZIP[-4:], "gzip"),
    "gzip of 1,000 members": _coded(gzip.compress(b" ", mtime=0) * 1_000, "gzip"),
    "no deflate": _coded(b'{"a": 1}', "deflate"),
    "gzip as deflate": _coded(_GZIP, "deflate"),
    "half a deflate": _coded(_ZLIB[:20], "deflate"),
    "deflate with garbage after it": _coded(_ZLIB + b"x", "deflate"),
    "gzip of what is not JSON": _coded(gzip.compress(b"{", mtime=0), "gzip", "malformed-json"),
    "gzip of 20 MB": _coded(gzip.compress(b" " * 20_000_000, mtime=0), "gzip", "body-too-large", 413),
    "br": _untaken("br"),
    "zstd": _untaken("zstd"),
    "compress": _untaken("compress"),
    "an invented coding": _untaken("x-secret"),
    "two codings": _untaken("gzip, gzip"),
}
