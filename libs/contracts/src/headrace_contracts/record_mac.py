"""Shows that a record was written by a service of this installation, and not by anybody who may write to Kafka.

Keys and preferences decide what others may do, so whoever could write them could give itself any right. Their records
carry a message authentication code: HMAC-SHA-256 (RFC 2104) over topic, key and value, under a key that is derived from
the installation's secret. Readers that have the secret take no others. A record that is copied elsewhere, or changed,
no longer fits; an old one of the same key does, so what a table holds must not be undone by an older record.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable
from typing import Final, Protocol

MAC_HEADER: Final = "headrace_mac"

_PURPOSE: Final = b"headrace record mac 1"
_LENGTH: Final = struct.Struct(">q")
_ABSENT: Final = _LENGTH.pack(-1)


class RecordSigner(Protocol):
    """Signs records: as a service of this installation, or as a producer of one tenant (`producer_signature`)."""

    def header(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[str, bytes]:
        """Name and value of the header that shows who wrote the record. `topic` has its prefix."""
        ...


def framed(topic: str, key: bytes | None, value: bytes | None) -> bytes:
    """The bytes that a code is made of. `topic` has its prefix.

    Each part comes with its length in 8 bytes, big-endian, so that no two records have the same bytes. A part that is
    absent has the length -1: a tombstone is no empty value.
    """
    parts = [topic.encode(), key, value]
    return b"".join(_ABSENT if part is None else _LENGTH.pack(len(part)) + part for part in parts)


class RecordMac:
    """Makes and checks the codes of one installation.

    Args:
        secret: The installation's secret, the same that API keys are hashed under.
    """

    def __init__(self, secret: str) -> None:
        self._key = hmac.new(secret.encode(), _PURPOSE, hashlib.sha256).digest()

    def __repr__(self) -> str:
        return "RecordMac()"

    def of(self, topic: str, key: bytes | None, value: bytes | None) -> bytes:
        """The value of the header `headrace_mac` of a record, in hexadecimal. `topic` has its prefix."""
        return hmac.digest(self._key, framed(topic, key, value), "sha256").hex().encode()

    def header(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[str, bytes]:
        """See `RecordSigner`."""
        return MAC_HEADER, self.of(topic, key, value)

    def fits(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
    ) -> bool:
        """Whether a record carries its code, once."""
        codes = [code for name, code in headers if name == MAC_HEADER]
        return len(codes) == 1 and codes[0] is not None and hmac.compare_digest(codes[0], self.of(topic, key, value))
