"""Values from outside, as ours: what cannot be is as if unsaid. Nothing here raises, except `document`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

MOST_TOKENS: Final = 100_000_000
"""No call counts more: ten times the largest context window that any provider offers."""

MOST_MODELS: Final = 1_000
"""That one endpoint is believed to offer: its status must fit into a record. The largest aggregator lists some 500."""

_NOTHING: Final[Mapping[str, Any]] = {}
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.:/@+\-]*", re.ASCII)
_LONGEST_NAME: Final = 200
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LONGEST_INTEGER: Final = 20
"""Digits; converting a longer one costs time that grows with its square, and no field of ours could hold it."""


class Unreadable(Exception):
    """What came is not in the provider's format: end the attempt as the provider's error. The text quotes nothing."""


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float("inf")


_DECODER: Final = json.JSONDecoder(parse_int=_integer)


def document(text: str) -> Any:
    """A JSON value. Raises Unreadable."""
    try:
        return _DECODER.decode(text.lstrip("\ufeff \t\r\n"))
    except ValueError:
        raise Unreadable("it is not JSON") from None
    except RecursionError:
        raise Unreadable("its JSON is nested too deeply") from None


def mapping(value: object) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def items(value: object) -> list[Any]:
    """An array, or an empty one."""
    return value if isinstance(value, list) else []


def text(value: object) -> str:
    """A text, or the texts of content parts (`[{"type": "text", "text": "…"}]`) joined; else empty.

    Parts of other types, such as a model's thinking, are not part of the answer.
    """
    if isinstance(value, str):
        return value
    return "".join(_text_of_part(part) for part in items(value))


def _text_of_part(part: object) -> str:
    if isinstance(part, str):
        return part
    fields = mapping(part)
    said = fields.get("text")
    return said if fields.get("type", "text") in ("text", "output_text") and isinstance(said, str) else ""


def count(value: object) -> int | None:
    """A number of tokens; None unless it is a whole number from 0 to MOST_TOKENS."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN fails both comparisons.
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else None


def name(value: object) -> str:
    """A name of a model, a request or a cause; empty unless it looks like one, since it is stored, shown and logged."""
    if isinstance(value, str) and len(value) <= _LONGEST_NAME and _NAME.fullmatch(value):
        return value
    return ""


class Utf16Joiner:
    """Joins halves of UTF-16 pairs that JSON escapes (`\\ud83d`) have torn apart over two pieces of a text."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        """The text that is complete with this piece; U+FFFD stands for halves whose other half did not follow."""
        if not piece:
            return ""
        piece, self._half = self._half + piece, ""
        if _SURROGATE.search(piece) is None:
            return piece
        if "\ud800" <= piece[-1] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        return piece.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def end(self) -> str:
        """What is left: U+FFFD for a half whose other half did not come."""
        half, self._half = self._half, ""
        return "\ufffd" if half else ""
