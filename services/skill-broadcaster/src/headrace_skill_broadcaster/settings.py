"""Settings of the skill broadcaster."""

from __future__ import annotations

from typing import ClassVar

from headrace_runtime.settings import ApiSettings, ServiceSettings, setting
from headrace_runtime.submission_settings import SubmissionSettings
from headrace_runtime.tenants import TenantsSettings


class SkillBroadcasterSettings(ServiceSettings, ApiSettings, SubmissionSettings, TenantsSettings):
    """Settings of the service."""

    service_name: ClassVar[str] = "skill-broadcaster"

    skill_body_bytes: int = setting(
        262_144, unit="bytes", reason="Largest body of a skill; the whole body is pushed to every agent.", ge=1
    )
    skills_per_tenant: int = setting(
        20_000, unit="skills", reason="Most skills of a tenant, revoked ones included; more are refused.", ge=1
    )
    skill_bytes_per_tenant: int = setting(
        67_108_864,
        unit="bytes",
        reason="Most bytes of a tenant's skills together: every broadcaster holds them all in memory.",
        ge=1_048_576,
    )
    revoked_skills_days: float = setting(
        30.0,
        unit="days",
        reason="How long a revoked skill stays in the catalog. Older submissions are refused; keep it above the "
        "retention of skills.submitted.",
        ge=7,
    )
    publish_wait_seconds: float = setting(
        5.0, unit="s", reason="How long a publisher waits for its skill to be in the catalog before it gets 202.", gt=0
    )
    feed_memory_bytes: int = setting(
        67_108_864,
        unit="bytes",
        reason="Recent feed events held in memory, so that agents that reconnect are served without reading Kafka.",
        ge=1_048_576,
    )
    feed_buffer_bytes: int = setting(
        1_048_576,
        unit="bytes",
        reason="Unread bytes after which a slow agent is disconnected; it resumes where it stopped.",
        ge=65_536,
    )
    feed_interests: int = setting(
        50, unit="interests", reason="Most domains that one connection to the feed can follow.", ge=1
    )
