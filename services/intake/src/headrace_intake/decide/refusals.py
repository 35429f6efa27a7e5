"""A request that cannot be fulfilled, and the error for its caller."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class Refusal(Exception):
    """Answer the caller with `status`; `kind` is for programs, `detail` for people, `param` names the field.

    None of them contains content of the request. `headers` say when to come back, where that is known.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.headers = headers
        self.status = status
        self.kind = kind
        self.detail = detail
        self.param = param


def bad_request(detail: str, param: str, kind: str = "invalid-request") -> Refusal:
    """400 for one field."""
    return Refusal(400, kind, detail, param)
