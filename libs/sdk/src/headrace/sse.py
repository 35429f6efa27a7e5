"""Parses server-sent events, as defined by the WHATWG specification, from bytes in pieces of any size."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """One event.

    Attributes:
        event: Its name, "message" if none was given.
        last_id: The Last-Event-ID for resuming after it; empty as long as no id was given.
    """

    event: str
    data: str
    last_id: str


class EventParser:
    """Takes bytes, returns events.

    Attributes:
        last_id: Where to resume if the connection breaks now. An id without data advances it too.
        retry_ms: The reconnection delay that the service last asked for.
    """

    def __init__(self, last_id: str = "") -> None:
        self.retry_ms: int | None = None
        self.last_id = last_id
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._began = False
        self._id = last_id
        self._event = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[ParsedEvent]:
        """The events that these bytes complete."""
        text = self._text + self._decoder.decode(data)
        if not self._began and text:
            self._began = True
            text = text.removeprefix("\ufeff")
        begin = 0
        while True:
            end = _line_end(text, begin)
            if end < 0:
                break
            # A carriage return at the very end may be half of a CRLF.
            if text[end] == "\r" and end + 1 == len(text):
                break
            line = text[begin:end]
            begin = end + (2 if text.startswith("\r\n", end) else 1)
            if line:
                self._field(line)
                continue
            self.last_id = self._id
            if self._data:
                yield ParsedEvent(self._event or "message", "\n".join(self._data), self.last_id)
            self._event = ""
            self._data.clear()
        self._text = text[begin:]

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)


def _line_end(text: str, begin: int) -> int:
    feed = text.find("\n", begin)
    carriage = text.find("\r", begin)
    if feed < 0 or carriage < 0:
        return max(feed, carriage)
    return min(feed, carriage)
