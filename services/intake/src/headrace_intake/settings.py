"""Settings of intake."""

from __future__ import annotations

from typing import Annotated, ClassVar

from headrace_contracts.limits import TENANT_PATTERN
from headrace_runtime.access import parse_key
from headrace_runtime.settings import ApiSettings, DatabaseSettings, ServiceSettings, setting
from pydantic import AfterValidator, SecretStr


def _api_key(value: SecretStr | None) -> SecretStr | None:
    if value is not None and parse_key(value.get_secret_value()) is None:
        raise ValueError("must look like hr_<key id>_<secret>: 16 and 48 characters a-z, 2-7")
    return value


class IntakeSettings(ServiceSettings, ApiSettings, DatabaseSettings):
    """All settings of intake."""

    service_name: ClassVar[str] = "intake"

    bootstrap_key: Annotated[SecretStr | None, AfterValidator(_api_key)] = setting(
        None,
        unit="API key",
        reason="An admin key that is stored if it is missing, with which the first ordinary keys can be made.",
    )
    bootstrap_tenant: str = setting(
        "default", unit="name", reason="Tenant of the bootstrap key.", pattern=TENANT_PATTERN
    )
    ack_seconds: float = setting(
        10.0, unit="s", reason="Longest wait for Kafka's acknowledgement before the caller gets an error.", gt=0
    )
    answer_seconds: float = setting(
        600.0, unit="s", reason="Longest wait for the answer of a chat completion without a deadline.", gt=0
    )
    wait_seconds: float = setting(
        300.0, unit="s", reason="Longest wait that a caller of the tasks API can request with Prefer: wait.", gt=0
    )
    history_days: float = setting(30.0, unit="days", reason="Retention in Postgres of tasks with their answers.", gt=0)
    idempotency_hours: float = setting(
        48.0,
        unit="h",
        reason="Retention of Idempotency-Keys; keep it below the retention of tasks.journal.",
        gt=0,
    )
    task_buffer_bytes: int = setting(
        262_144,
        unit="bytes",
        reason="Most text buffered in memory for one task; a slower caller is served from the topic again.",
        ge=4_096,
    )
    reply_memory_bytes: int = setting(
        67_108_864, unit="bytes", reason="Most text and results buffered in memory for all tasks.", ge=1_048_576
    )
    rereaders: int = setting(
        32,
        unit="connections",
        reason="Most callers served from the topic at a time, each with a connection of its own.",
        ge=1,
    )
