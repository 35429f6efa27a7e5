"""Settings of the cost accountant."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from headrace_runtime.settings import ApiSettings, DatabaseSettings, ServiceSettings, setting
from headrace_runtime.tenants import TenantsSettings


class CostAccountantSettings(ServiceSettings, ApiSettings, DatabaseSettings, TenantsSettings):
    """Settings of the service."""

    service_name: ClassVar[str] = "cost-accountant"

    price_book: Path | None = setting(
        None,
        unit="path",
        reason="Price book to use instead of the shipped one; give all services the same file.",
        shown_default="(shipped)",
    )
    ledger_batch: int = setting(
        500, unit="events", reason="Most usage events booked in one transaction.", ge=1, le=10_000
    )
    windows_publish_seconds: float = setting(
        1.0, unit="s", reason="How often changed live windows are written to spend.windows.", gt=0
    )
    windows_replication: int = setting(
        1, unit="copies", reason="Replication factor of the changelog topics of live windows; 3 on a cluster.", ge=1
    )
    forecast_lead_seconds: float = setting(
        900.0,
        unit="s",
        reason="How long before an hour the forecast in the metrics tells of it: the time that pods, nodes and models "
        "need to start.",
        ge=0,
        le=86_400,
    )
