"""Settings of the router."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from headrace_contracts.limits import record_bytes
from headrace_models.prices import PriceBookInvalid, load_price_book
from headrace_runtime.settings import (
    DatabaseSettings,
    ServiceSettings,
    SignedRecordSettings,
    postgres_url,
    setting,
)
from headrace_runtime.site_settings import SitesSettings
from headrace_runtime.submission_settings import SubmissionSettings
from headrace_runtime.tenants import TenantsSettings
from pydantic import AfterValidator, SecretStr, field_validator, model_validator

from headrace_router.adapters.policy_file import PolicyInvalid, load_policy

_DEFAULT_SESSION_SECONDS = 10.0
_BESIDE_AN_ENTRY_BYTES = 194_304
"""Room in a record for its key and its headers, and for what a batch adds."""


class RouterSettings(
    ServiceSettings, SignedRecordSettings, SubmissionSettings, TenantsSettings, SitesSettings, DatabaseSettings
):
    """Settings of the router."""

    service_name = "router"

    key_pepper: SecretStr | None = setting(
        None,
        unit="secret",
        reason="The installation's secret, as in the services with an API. With it, preferences that none of them has "
        "signed are ignored, and so are tasks with a wrong signature; without it all are believed. Replies have tokens "
        "made with it, and intake passes none on without.",
        min_length=16,
    )
    policy_file: Path | None = setting(
        None, unit="path", reason="Routing policy in YAML: roles, models, privacy, retries. Default: the shipped one."
    )
    price_file: Path | None = setting(
        None, unit="path", reason="Price book in YAML, for the budgets of tasks. Default: the shipped one."
    )
    in_flight: int = setting(
        2000,
        unit="decisions",
        reason="Most decisions awaiting Kafka's acknowledgement; bounds memory and the work repeated after a crash.",
        ge=1,
        le=50_000,
    )
    remembered_tasks: int = setting(
        50_000,
        unit="tasks per partition",
        reason="Ended tasks whose id is held, so that a task submitted twice runs once; about 100 bytes each.",
        ge=0,
    )
    live_tasks_per_tenant: int = setting(
        10_000,
        unit="tasks per partition",
        reason="Most tasks of a tenant that have not ended; more end at once as failed. All are held in memory.",
        ge=1,
    )
    live_bytes_per_tenant: int = setting(
        268_435_456,
        unit="bytes per partition",
        reason="Most bytes of a tenant's tasks that have not ended, with about what each takes beside its text.",
        ge=1_048_576,
    )
    attempts_per_tenant: int = setting(
        256,
        unit="attempts per partition and topic",
        reason="Most attempts that a tenant may have out in a topic of attempts, and 64 KiB for each: its other tasks "
        "wait for their turn in the router, and do not stand before the attempts of others. More only where a tenant "
        "has more model calls at one time than this times the partitions.",
        ge=1,
        le=1_000_000,
    )
    act_within_seconds: float = setting(
        4.0,
        unit="s",
        reason="A decision that Kafka took longer to acknowledge is left to the partition's next owner.",
        gt=0,
    )
    produce_within_seconds: float = setting(
        5.0,
        unit="s",
        reason="Longest time to deliver a record (delivery.timeout.ms); with HEADRACE_ACT_WITHIN_SECONDS it must fit "
        "into the group's session timeout, so that a stalled router does not publish alongside its successor.",
        gt=0,
    )
    database_url: Annotated[SecretStr, AfterValidator(postgres_url)] | None = setting(  # type: ignore[assignment]
        None,
        unit="URL",
        reason="Postgres database for stored answers, as postgresql://user:password@host:port/database. Without it the "
        "only cache is that of each partition.",
    )
    database_pool_size: int = setting(4, unit="connections", reason="Maximum connections of this process.", ge=1)
    stored_answer_wait_seconds: float = setting(
        0.05,
        unit="s",
        reason="Longest time that a task waits for the lookup of a stored answer; after a longer one nobody asks for "
        "5 s.",
        gt=0,
        le=5,
    )
    stored_answers_per_tenant: int = setting(
        1_000_000, unit="answers", reason="Most stored answers of a tenant; beyond it the oldest are deleted.", ge=1
    )
    stored_answer_bytes_per_tenant: int = setting(
        2_147_483_648, unit="bytes", reason="Most bytes of a tenant's stored answers.", ge=1_048_576
    )
    stored_answer_bytes: int = setting(
        8_589_934_592,
        unit="bytes",
        reason="Most bytes of all stored answers; beyond it the tenants with most lose their oldest.",
        ge=1_048_576,
    )
    commit_seconds: float = setting(
        5.0, unit="s", reason="Time between offset commits, which only lag monitors use.", gt=0
    )

    @field_validator("policy_file")
    @classmethod
    def _usable_policy(cls, path: Path | None) -> Path | None:
        try:
            load_policy(path)
        except PolicyInvalid as error:
            raise ValueError(str(error)) from None
        return path

    @field_validator("price_file")
    @classmethod
    def _usable_prices(cls, path: Path | None) -> Path | None:
        try:
            load_price_book(path)
        except (PriceBookInvalid, OSError) as error:
            raise ValueError(f"{path}: {error}") from None
        return path

    @model_validator(mode="after")
    def _can_tell_signatures(self) -> Self:
        if self.unsigned_submissions == "refuse" and self.key_pepper is None:
            raise ValueError(
                "HEADRACE_UNSIGNED_SUBMISSIONS=refuse needs HEADRACE_KEY_PEPPER: signatures are checked with it"
            )
        return self

    @model_validator(mode="after")
    def _within_session(self) -> Self:
        session = float(self.kafka_properties.get("session.timeout.ms", _DEFAULT_SESSION_SECONDS * 1000)) / 1000
        if self.act_within_seconds + self.produce_within_seconds > session:
            raise ValueError(
                "the sum of HEADRACE_ACT_WITHIN_SECONDS and HEADRACE_PRODUCE_WITHIN_SECONDS must stay within the "
                f"session timeout of {session:g} s (HEADRACE_KAFKA_SESSION_TIMEOUT_MS)"
            )
        return self

    @property
    def largest_entry_bytes(self) -> int:
        """Largest entry of the journal, in bytes; a task that exceeds it fails."""
        return record_bytes(self.body_limit_bytes) - _BESIDE_AN_ENTRY_BYTES

    def kafka_config(self) -> dict[str, str]:
        return {"delivery.timeout.ms": str(round(self.produce_within_seconds * 1000)), **super().kafka_config()}
