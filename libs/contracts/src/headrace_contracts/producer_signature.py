"""Shows which tenant's producer has written a record.

Kafka tells consumers nothing about who wrote a record, and whoever may write to tasks.submitted, tasks.cancelled or
skills.submitted can name any tenant in it. So producers sign their records with a key that belongs to an API key of
their tenant. It follows from the installation's secret and the id of the API key, so services store none: who has the
secret can check every signature, and who has one signing key can make signatures of its API key only.

The header `headrace_signature` is `v1 <key id> <code>`. The code is HMAC-SHA-256 (RFC 2104) over what
`record_mac.framed` makes of topic, key and value, in hexadecimal. Its key are the 64 characters of the signing key, as
they are. Other headers, partition and time are not signed, and a signature does not expire.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Final, Self

from headrace_contracts.record_mac import framed

SIGNATURE_HEADER: Final = "headrace_signature"

_PURPOSE: Final = b"headrace signing key 1"
_KEY_ID: Final = r"[a-z2-7]{16}"
_HEX: Final = r"[0-9a-f]{64}"
_HEADER: Final = re.compile(rf"v1 ({_KEY_ID}) ({_HEX})".encode())
_SIGNING_KEY: Final = re.compile(rf"({_KEY_ID}):({_HEX})")


class SigningKeyInvalid(ValueError):
    """Use the signing key as it was given with its API key: `<key id>:<64 hexadecimal digits>`."""

    def __init__(self) -> None:
        super().__init__("a signing key is <key id>:<64 hexadecimal digits>, as it was given with its API key")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key with which the holder of an API key signs records; a secret like the API key itself.

    `str` gives the form in which it is handed out, `<key id>:<code>`; `repr` does not show the secret part.

    Attributes:
        key_id: Id of the API key.
        code: The secret part, 64 hexadecimal digits.
    """

    key_id: str
    code: str

    def __str__(self) -> str:
        return f"{self.key_id}:{self.code}"

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.key_id!r})"

    @classmethod
    def of(cls, secret: str, key_id: str) -> Self:
        """The signing key of an API key of the installation with this secret."""
        return cls(key_id, hmac.digest(secret.encode(), _PURPOSE + key_id.encode(), "sha256").hex())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The signing key in its form `<key id>:<code>`. Raises SigningKeyInvalid."""
        match = _SIGNING_KEY.fullmatch(text.strip())
        if match is None:
            raise SigningKeyInvalid
        return cls(match[1], match[2])

    def header(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[str, bytes]:
        """See `record_mac.RecordSigner`."""
        return SIGNATURE_HEADER, f"v1 {self.key_id} {self._sign(topic, key, value)}".encode()

    def fits(self, code: str, topic: str, key: bytes | None, value: bytes | None) -> bool:
        """Whether this key has made the code in a signature of the record."""
        return hmac.compare_digest(code, self._sign(topic, key, value))

    def _sign(self, topic: str, key: bytes | None, value: bytes | None) -> str:
        return hmac.digest(self.code.encode(), framed(topic, key, value), "sha256").hex()


def parse_signature(header: bytes | None) -> tuple[str, str] | None:
    """Key id and code in a header's value; None if it is no signature."""
    match = _HEADER.fullmatch(header or b"")
    return (match[1].decode(), match[2].decode()) if match else None
