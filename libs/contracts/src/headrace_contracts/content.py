"""Converts between text and `Content`."""

from __future__ import annotations

from headrace_contracts.events import Content

PLAIN = "none"


class ContentSealed(Exception):
    """The text is sealed with a data key that this program does not have."""


def plain(text: str) -> Content:
    """Text as unsealed content. Lone surrogates, which UTF-8 cannot encode, become U+FFFD."""
    return Content(cipher=PLAIN, data=text.encode("utf-8", "replace"))


def text_of(content: Content) -> str:
    """The text. Raises ContentSealed if it is sealed; bytes that are not UTF-8 become U+FFFD."""
    return bytes_of(content).decode("utf-8", "replace")


def bytes_of(content: Content) -> bytes:
    """The bytes of a file, or of a text in UTF-8. Raises ContentSealed if they are sealed."""
    if content.cipher != PLAIN:
        raise ContentSealed(f"content is sealed with data key {content.cipher!r}")
    return content.data
