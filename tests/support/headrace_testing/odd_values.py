"""Values that nobody foresaw: reading them fails with an error of a kind that no loop names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin

ODD = b"an odd value"
UNFORESEEN = (ValueError("what a user wrote"), MemoryError(), AttributeError("x"), RecursionError())


def fail_on_odd_values(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From now on, reading `ODD` from a record fails with this error."""
    decode: Callable[..., Any] = Codec.decode

    def failing(self: Codec, record: type[Any], value: bytes | None, origin: Origin) -> Any:
        if value == ODD:
            raise error
        return decode(self, record, value, origin)

    monkeypatch.setattr(Codec, "decode", failing)
