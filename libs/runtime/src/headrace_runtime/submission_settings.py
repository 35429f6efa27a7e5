"""Settings of services that take what producers of tenants write to Kafka."""

from __future__ import annotations

from typing import Literal

from headrace_runtime.settings import Settings, setting


class SubmissionSettings(Settings):
    """For a service that reads tasks.submitted, tasks.cancelled or skills.submitted."""

    unsigned_submissions: Literal["refuse", "accept"] = setting(
        "accept",
        unit="refuse | accept",
        reason="Tasks, cancellations and skills that are written to Kafka without a signature. Accepted ones may name "
        "any tenant, so refuse them where Kafka requires logins; a wrong signature is refused in any case.",
    )
