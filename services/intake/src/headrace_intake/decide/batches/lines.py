"""The lines of a batch's input file: found in its chunks as they come, and checked one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from headrace_runtime.bodies import parse_json
from headrace_runtime.problems import Problem

MOST_ERRORS: Final = 100
"""Most errors that a failed batch lists."""
LONGEST_CUSTOM_ID: Final = 512
_FIELDS: Final = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it is in the file.

    Attributes:
        number: Counted from 1, empty lines included.
        start: Offset of its first byte in the file.
        data: Without its end; None if it is longer than a line may be.
    """

    number: int
    start: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class CheckedLine:
    """A line that can become a task."""

    number: int
    start: int
    size: int
    custom_id: str


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a file is no batch, in OpenAI's form; without content of the file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def document(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        return asdict(self)


class LineSplitter:
    """Finds the lines in chunks of a file, holding no more than one line.

    Args:
        longest: Most bytes of a line.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._number = 1
        self._start = 0
        self._held = bytearray()
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[RawLine]:
        """The lines that end in this chunk; empty ones are left out."""
        first = 0
        while (end := chunk.find(b"\n", first)) >= 0:
            self._take(chunk[first:end])
            yield from self._ended()
            self._start += self._size + 1
            self._number += 1
            self._held, self._size = bytearray(), 0
            first = end + 1
        self._take(chunk[first:])

    def end(self) -> Iterator[RawLine]:
        """The last line, if the file does not end with the end of one."""
        yield from self._ended()

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._longest + 1:  # one more for a carriage return
            self._held += piece
        else:
            self._held = bytearray()

    def _ended(self) -> Iterator[RawLine]:
        data = bytes(self._held).removesuffix(b"\r")
        if self._size > self._longest + 1 or len(data) > self._longest:
            yield RawLine(self._number, self._start, None)
        elif data.strip():
            yield RawLine(self._number, self._start, data)


def check_line(raw: RawLine, endpoint: str) -> CheckedLine | LineError:
    """What a line asks for, as far as the file has to be right about it; its body is checked when it is its turn."""
    try:
        return _checked(raw, endpoint)
    except _WrongLine as wrong:
        return LineError(wrong.code, wrong.message, wrong.param, raw.number)


class _WrongLine(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def _checked(raw: RawLine, endpoint: str) -> CheckedLine:
    if raw.data is None:
        raise _WrongLine("line_too_large", "This line is larger than a request may be.")
    document = request_of(raw.data)
    for name in _FIELDS:
        if document.get(name) is None:
            raise _WrongLine("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    if unknown := sorted(document.keys() - set(_FIELDS)):
        # Options of a task belong into its body: beside it nobody would read them.
        what = f"There is only {', '.join(_FIELDS)} in a line, and what the request asks for is in its body."
        raise _WrongLine("unknown_parameter", what, unknown[0] if unknown[0].isidentifier() else None)
    custom_id = document["custom_id"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_CUSTOM_ID or "\0" in custom_id:
        what = f"'custom_id' must be a text of 1 to {LONGEST_CUSTOM_ID} characters, none of them NUL."
        raise _WrongLine("invalid_custom_id", what, "custom_id")
    if document["method"] != "POST":
        raise _WrongLine("invalid_method", "The method of a request in a batch is POST.", "method")
    if document["url"] != endpoint:
        what = "The URL provided for this request does not match the batch endpoint."
        raise _WrongLine("mismatched_url", what, "url")
    if not isinstance(document["body"], dict):
        raise _WrongLine("invalid_type", "'body' must be an object.", "body")
    return CheckedLine(raw.number, raw.start, len(raw.data), custom_id)


def request_of(line: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises an error for `check_line` if it is none."""
    try:
        document = parse_json(line)
    except Problem as problem:
        raise _WrongLine("invalid_json_line", f"This line is not parseable as valid JSON: {problem.detail}") from None
    if not isinstance(document, dict):
        raise _WrongLine("invalid_json_line", "This line is not a JSON object.")
    return document
