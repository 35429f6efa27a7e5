"""Events of the domain spend.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from headrace_contracts.events.common import Usage
from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a tenant consumed in one window of time.

    Attributes:
        seconds: Length of the window, in seconds.
        start: Start of the window. Milliseconds since the epoch, UTC.
        executions: Executions in it.
        usage: What they consumed.
        cost_nanodollars: What they cost, in nano-dollars.
    """

    FULL_NAME: ClassVar[str] = "headrace.spend.Window"

    seconds: int
    start: int
    executions: int = 0
    usage: Usage
    cost_nanodollars: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "start": self.start,
            "executions": self.executions,
            "usage": self.usage.to_avro(named),
            "cost_nanodollars": self.cost_nanodollars,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Window:
        return cls(
            seconds=data["seconds"],
            start=data["start"],
            executions=data["executions"],
            usage=Usage.from_avro(data["usage"]),
            cost_nanodollars=data["cost_nanodollars"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SpendWindows:
    """A tenant's live spend, one entry for each length of window. A view that can be rebuilt; the ledger is authoritative.

    Attributes:
        tenant: The tenant.
        windows: Current windows.
        updated_at: When it was computed. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.spend.SpendWindows"

    tenant: str
    windows: tuple[Window, ...] = ()
    updated_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "windows": [item.to_avro(named) for item in self.windows],
            "updated_at": self.updated_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SpendWindows:
        return cls(
            tenant=data["tenant"],
            windows=tuple([Window.from_avro(item) for item in data["windows"]]),
            updated_at=data["updated_at"],
        )
