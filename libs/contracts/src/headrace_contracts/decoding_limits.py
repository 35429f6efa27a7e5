"""How much a value may become when it is decoded.

A few bytes can state many values: an array of unions of null takes a byte for each, and where a reader fills in the
fields that an old schema lacks, a byte becomes a whole record. A schema says how many values a byte can become at most.
Values that are too short to exceed the limit are decoded at once, as nearly all are. Longer ones are walked through
first, block counts before blocks, without building anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from headrace_contracts.schema_texts import NAMED, RECORDS, Types, kind_of, short_name

MAX_VALUES: Final = 100_000
"""Values that one record may hold: fields (those filled in as well), items, keys, records. A task of 2,048 messages
holds 10,000. So many take less than a tenth of a second to decode, and 32 MiB beyond the texts in them."""

_LENGTHS: Final = {"boolean": 1, "float": 4, "double": 8}
_LONGEST_NUMBER: Final = 10
_UNLIMITED: Final = 2**62

Scan = Callable[[bytes, int, list[int]], int]
"""Walks over one value: bytes, position, and the number of values left. Returns the position behind it."""


class TooManyValues(Exception):
    """The value holds more than MAX_VALUES values."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_VALUES} values")


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """The limit for values of one schema.

    Attributes:
        unscanned: Longest value in bytes that certainly keeps it.
    """

    unscanned: int
    _fixed: int
    _scan: Scan

    def check(self, data: bytes, start: int) -> None:
        """Raises TooManyValues, or IndexError or EOFError for malformed data."""
        left = [MAX_VALUES - self._fixed]
        if left[0] < 0:
            raise TooManyValues
        self._scan(data, start, left)


def limits_of(writer: Types, reader: Types | None) -> DecodingLimits:
    """The limit for values of a schema that has passed `successors.check_bounds`.

    Args:
        reader: The schema that they are read with, if it is another.
    """
    analysis = _Analysis(writer, reader)
    root = analysis.part(writer.root, None if reader is None else reader.root)
    if not analysis.density:
        return DecodingLimits(_UNLIMITED, root.values, root.scan)
    unscanned = int(max(MAX_VALUES - root.values, 0) / analysis.density)
    return DecodingLimits(unscanned, root.values, root.scan)


@dataclass(frozen=True, slots=True)
class _Extent:
    """What a value of some type is at least and at most, without the items of arrays and maps in it.

    Attributes:
        values: How many values it becomes at most.
        length: How many bytes it has at least.
    """

    values: int
    length: int
    scan: Scan


class _Analysis:
    """Attributes:
    density: How many values a byte of any array or map becomes at most.
    """

    def __init__(self, writer: Types, reader: Types | None) -> None:
        self.density = Fraction(0)
        self._writer = writer
        self._reader = reader
        self._known: dict[tuple[str, str], _Extent] = {}

    def part(self, written: Any, read: Any) -> _Extent:
        """Of a type as written, and as it is read; `read` is None if it is read as written, or skipped."""
        plain = self._writer.plain(written)
        kind = kind_of(plain)
        if kind == "union":
            parts = [self.part(branch, self._counterpart(branch, read)) for branch in plain]
            values = max((part.values for part in parts), default=1)
            return _Extent(values, 1, _union([part.scan for part in parts]))
        counterpart = self._counterpart(plain, read)
        if kind in NAMED:
            key = (plain["name"], "" if counterpart is None else counterpart["name"])
            if key not in self._known:
                self._known[key] = self._named(plain, counterpart)
            return self._known[key]
        if kind == "array":
            item = self.part(plain["items"], counterpart and counterpart["items"])
            self.density = max(self.density, Fraction(item.values, item.length))
            return _Extent(1, 1, _blocks(item.values, item.scan))
        if kind == "map":
            value = self.part(plain["values"], counterpart and counterpart["values"])
            self.density = max(self.density, Fraction(1 + value.values, 1 + value.length))
            return _Extent(1, 1, _blocks(1 + value.values, _sequence([_text, value.scan])))
        if kind == "null":
            return _Extent(1, 0, _nothing)
        if kind in ("string", "bytes"):
            return _Extent(1, 1, _text)
        if kind in _LENGTHS:
            return _Extent(1, _LENGTHS[kind], _given(_LENGTHS[kind]))
        return _Extent(1, 1, _number)

    def _named(self, written: Mapping[str, Any], read: Mapping[str, Any] | None) -> _Extent:
        if written["type"] == "fixed":
            return _Extent(1, written["size"], _given(written["size"]))
        if written["type"] not in RECORDS:
            return _Extent(1, 1, _number)
        fields: dict[str, Any] = {}
        for field in read["fields"] if read is not None else ():
            fields |= dict.fromkeys(field.get("aliases", ()), field) | {field["name"]: field}
        found = [fields.get(field["name"]) for field in written["fields"]]
        parts = [
            self.part(field["type"], None if counterpart is None else counterpart["type"])
            for field, counterpart in zip(written["fields"], found, strict=True)
        ]
        taken = {counterpart["name"] for counterpart in found if counterpart is not None}
        filled_in = {name: field for name, field in fields.items() if field["name"] not in taken}.values()
        values = 1 + sum(part.values for part in parts) + sum(_values_in(field.get("default")) for field in filled_in)
        return _Extent(values, sum(part.length for part in parts), _sequence([part.scan for part in parts]))

    def _counterpart(self, written: Any, read: Any) -> Any:
        """The type that a reader reads this one as; None if it is read as written, skipped, or cannot be read."""
        if read is None or self._reader is None:
            return None
        plain, choice = self._writer.plain(written), self._reader.plain(read)
        kind = kind_of(plain)
        if kind == "union":
            return choice
        for branch in choice if isinstance(choice, list) else [choice]:
            candidate = self._reader.plain(branch)
            if kind_of(candidate) != kind:
                continue
            if kind not in NAMED or short_name(candidate) == short_name(plain):
                return candidate
        return None


def _values_in(default: Any) -> int:
    if isinstance(default, dict):
        return 1 + sum(1 + _values_in(value) for value in default.values())
    return 1 + sum(map(_values_in, default)) if isinstance(default, list) else 1


def _long(data: bytes, at: int) -> tuple[int, int]:
    """A number as fastavro reads it, and the position behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift >= 7 * _LONGEST_NUMBER:
            raise EOFError
    number &= 0xFFFF_FFFF_FFFF_FFFF
    return (number >> 1) ^ -(number & 1), at


def _nothing(data: bytes, at: int, left: list[int]) -> int:
    return at


def _number(data: bytes, at: int, left: list[int]) -> int:
    while data[at] >= 0x80:
        at += 1
    return at + 1


def _text(data: bytes, at: int, left: list[int]) -> int:
    length, at = _long(data, at)
    at += length
    if length < 0 or at > len(data):
        raise EOFError
    return at


def _given(length: int) -> Scan:
    def scan(data: bytes, at: int, left: list[int]) -> int:
        at += length
        if at > len(data):
            raise EOFError
        return at

    return scan


def _sequence(scans: list[Scan]) -> Scan:
    def scan(data: bytes, at: int, left: list[int]) -> int:
        for each in scans:
            at = each(data, at, left)
        return at

    return scan


def _union(branches: list[Scan]) -> Scan:
    def scan(data: bytes, at: int, left: list[int]) -> int:
        index, at = _long(data, at)
        if index < 0:
            raise IndexError
        return branches[index](data, at, left)

    return scan


def _blocks(values: int, item: Scan) -> Scan:
    """An array or map whose items become so many values each."""

    def scan(data: bytes, at: int, left: list[int]) -> int:
        while True:
            count, at = _long(data, at)
            if not count:
                return at
            end = None
            if count < 0:
                count = -count
                size, at = _long(data, at)
                end = at + size
            left[0] -= count * values
            if left[0] < 0:
                raise TooManyValues
            for _ in range(count):
                at = item(data, at, left)
            # Where items are skipped, fastavro believes the size.
            if end is not None and at != end:
                raise EOFError

    return scan
