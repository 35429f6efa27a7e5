"""Settings of intake."""

from __future__ import annotations

from typing import Annotated, ClassVar

from headrace_contracts.limits import TENANT_PATTERN
from headrace_runtime.access import parse_key
from headrace_runtime.settings import ApiSettings, DatabaseSettings, ServiceSettings, setting
from headrace_runtime.submission_settings import SubmissionSettings
from headrace_runtime.tenants import TenantsSettings
from pydantic import AfterValidator, SecretStr


def _api_key(value: SecretStr | None) -> SecretStr | None:
    if value is not None and parse_key(value.get_secret_value()) is None:
        raise ValueError("must look like hr_<key id>_<secret>: 16 and 48 characters a-z, 2-7")
    return value


class IntakeSettings(ServiceSettings, ApiSettings, DatabaseSettings, SubmissionSettings, TenantsSettings):
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
    keys_per_tenant: int = setting(
        1_000, unit="keys", reason="Most API keys of a tenant that are not revoked: all services hold them.", ge=1
    )
    revoked_keys_days: float = setting(
        30.0, unit="days", reason="How long a revoked API key stays in the list of keys, and in memory.", gt=0
    )
    preferences_per_tenant: int = setting(
        10_000,
        unit="users",
        reason="Most users of a tenant with preferences of their own: all routers hold them.",
        ge=1,
    )
    pending_tasks_per_tenant: int = setting(
        20_000,
        unit="tasks",
        reason="Most tasks of a tenant that this process accepted and that have not ended; more get 429.",
        ge=1,
    )
    patience_seconds: float = setting(
        120.0,
        unit="s",
        reason="How long a task without a deadline can wait, unless it is for the batch lane; the routing policy's "
        "default for interactive tasks. Tasks that would wait too long, as measured here, get 429 or 503.",
        gt=0,
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
    file_limit_bytes: int = setting(
        104_857_600, unit="bytes", reason="Largest file of POST /v1/files; larger ones get 413.", ge=1_024
    )
    file_bytes_per_tenant: int = setting(
        1_073_741_824,
        unit="bytes",
        reason="Most bytes of a tenant's files in Postgres when another one is uploaded, with the results of batches.",
        ge=1_024,
    )
    files_per_tenant: int = setting(
        1_000, unit="files", reason="Most files of a tenant when another one is uploaded.", ge=1
    )
    batch_lines: int = setting(50_000, unit="lines", reason="Most requests of a batch.", ge=1, le=1_000_000)
    batches_per_tenant: int = setting(
        100, unit="batches", reason="Most batches of a tenant that have not ended; more get 429.", ge=1
    )
    batch_live_tasks_per_tenant: int = setting(
        1_000,
        unit="tasks",
        reason="Most tasks of a tenant's batches in flight, the rest waits in Postgres. Keep it far below the routers' "
        "HEADRACE_LIVE_TASKS_PER_TENANT, which its other tasks share.",
        ge=1,
    )
    batch_live_bytes_per_tenant: int = setting(
        67_108_864,
        unit="bytes",
        reason="Most bytes of these tasks' requests; far below the routers' HEADRACE_LIVE_BYTES_PER_TENANT.",
        ge=1_024,
    )
    batches_at_once: int = setting(
        4, unit="batches", reason="Most batches that this process works on at the same moment; they take turns.", ge=1
    )
    task_buffer_bytes: int = setting(
        262_144,
        unit="bytes",
        reason="Most text buffered in memory for one task; a slower caller is served from the topic again.",
        ge=4_096,
    )
    reply_memory_bytes: int | None = setting(
        None,
        unit="bytes",
        reason="Most text and results buffered in memory for all tasks.",
        shown_default="<a twelfth of the memory limit, at most 67108864>",
        ge=1_048_576,
    )
    rereaders: int = setting(
        32,
        unit="connections",
        reason="Most callers served from the topic at a time, each with a connection of its own.",
        ge=1,
    )
