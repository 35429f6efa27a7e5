"""Records what each provider was sent: the evidence that no sensitive content left."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from headrace_models.conversation import ChatMessage, MediaPart, ToolCallPart

_MOST_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived. `sha256s` are those of the messages' texts, in order."""

    number: int
    provider: str
    node: str
    model: str
    sha256s: tuple[str, ...]
    size_bytes: int
    texts: tuple[str, ...]

    def describe(self, *, with_texts: bool) -> dict[str, Any]:
        document: dict[str, Any] = {
            "number": self.number,
            "provider": self.provider,
            "node": self.node,
            "model": self.model,
            "sha256s": list(self.sha256s),
            "size_bytes": self.size_bytes,
        }
        if with_texts:
            document["texts"] = list(self.texts)
        return document


def _all_in(message: ChatMessage) -> str:
    """Everything in a message: its texts, and what is not text, as it was sent."""
    more = [part.url for part in message.parts if isinstance(part, MediaPart)]
    more += [part.arguments for part in message.parts if isinstance(part, ToolCallPart)]
    return "\n".join([message.text, *more]) if more else message.text


class RequestRecorder:
    """Records all requests, in memory and optionally as JSON lines in a file of mode 0600.

    `complete` becomes false when the memory limit forced it to discard the oldest, so that a check cannot pass because
    evidence is missing.
    """

    def __init__(self, log: Path | None = None, *, log_texts: bool = False, most_bytes: int = _MOST_BYTES) -> None:
        self._entries: deque[RecordedRequest] = deque()
        self._bytes = 0
        self._most_bytes = most_bytes
        self._number = 0
        self._log_texts = log_texts
        self._log: TextIO | None = None
        self.complete = True
        if log is not None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._log = os.fdopen(descriptor, "a", encoding="utf-8")

    def record(self, provider: str, node: str, model: str, messages: Sequence[ChatMessage]) -> RecordedRequest:
        texts = tuple(_all_in(message) for message in messages)
        encoded = [text.encode() for text in texts]
        self._number += 1
        entry = RecordedRequest(
            number=self._number,
            provider=provider,
            node=node,
            model=model,
            sha256s=tuple(hashlib.sha256(data).hexdigest() for data in encoded),
            size_bytes=sum(len(data) for data in encoded),
            texts=texts,
        )
        self._entries.append(entry)
        self._bytes += entry.size_bytes
        while self._bytes > self._most_bytes and len(self._entries) > 1:
            self._bytes -= self._entries.popleft().size_bytes
            self.complete = False
        if self._log is not None:
            self._log.write(json.dumps(entry.describe(with_texts=self._log_texts)) + "\n")
            self._log.flush()
        return entry

    def of(self, provider: str | None) -> list[RecordedRequest]:
        """All requests in memory, or those of one provider."""
        return [entry for entry in self._entries if provider is None or entry.provider == provider]

    def count(self) -> int:
        """Number of requests that have arrived, discarded ones included."""
        return self._number

    def search(self, needles: Sequence[str]) -> list[tuple[int, RecordedRequest]]:
        """Pairs (index of the needle, request whose texts contain it)."""
        return [
            (index, entry)
            for entry in self._entries
            for index, needle in enumerate(needles)
            if any(needle in text for text in entry.texts)
        ]

    def clear(self) -> None:
        """Discard the requests in memory; the file stays."""
        self._entries.clear()
        self._bytes = 0
        self.complete = True

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
