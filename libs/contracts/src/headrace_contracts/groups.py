"""The consumer groups: the single definition of each one's name, topics, and where its positions are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from headrace_contracts.sites import site_name
from headrace_contracts.topics import (
    ATTEMPTS_FINISHED,
    ATTEMPTS_FINISHED_CLOUD,
    HISTORY_CHANGED,
    PLACEMENTS_REQUESTED,
    PROVIDER_BATCHES,
    SKILLS_SUBMITTED,
    TASKS_CANCELLED,
    TASKS_COMPLETED,
    TASKS_SUBMITTED,
    USAGE_RECORDED,
    WORK_CLOUD_BATCH,
    WORK_CLOUD_INTERACTIVE,
    WORK_LOCAL_BATCH,
    WORK_LOCAL_INTERACTIVE,
    TopicSpec,
    site_topics,
)


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """One consumer group.

    Attributes:
        name: Name without the installation's prefix.
        service: Whose instances are its members.
        topics: What it reads, all of it.
        positions: Where its members find out where to go on. Those that go by another place commit to Kafka so that
            their lag can be seen.
    """

    name: str
    service: str
    topics: tuple[TopicSpec, ...]
    positions: Literal["kafka", "journal", "postgres", "catalog"]


ROUTER: Final = GroupSpec(
    "router",
    "router",
    (TASKS_SUBMITTED, TASKS_CANCELLED, ATTEMPTS_FINISHED, ATTEMPTS_FINISHED_CLOUD),
    "journal",
)
ROUTER_ANSWERS: Final = GroupSpec("router-answers", "router", (HISTORY_CHANGED,), "postgres")
LOCAL_WORKER: Final = GroupSpec("local-worker", "local-worker", (WORK_LOCAL_INTERACTIVE, WORK_LOCAL_BATCH), "kafka")
PLACEMENTS: Final = GroupSpec("local-worker-placements", "local-worker", (PLACEMENTS_REQUESTED,), "kafka")
CLOUD_WORKER: Final = GroupSpec("cloud-worker", "cloud-worker", (WORK_CLOUD_INTERACTIVE, WORK_CLOUD_BATCH), "kafka")
CLOUD_BATCHES: Final = GroupSpec("cloud-worker-batches", "cloud-worker", (PROVIDER_BATCHES,), "kafka")
INTAKE_VIEW: Final = GroupSpec("intake-view", "intake", (TASKS_SUBMITTED, TASKS_COMPLETED, HISTORY_CHANGED), "postgres")
LEDGER: Final = GroupSpec("cost-accountant.ledger", "cost-accountant", (USAGE_RECORDED,), "postgres")
LIVE_WINDOWS: Final = GroupSpec("cost-accountant.windows", "cost-accountant", (USAGE_RECORDED,), "kafka")
SKILL_BROADCASTER: Final = GroupSpec("skill-broadcaster", "skill-broadcaster", (SKILLS_SUBMITTED,), "catalog")

GROUPS: Final[Mapping[str, GroupSpec]] = {
    spec.name: spec
    for spec in (
        ROUTER,
        ROUTER_ANSWERS,
        LOCAL_WORKER,
        PLACEMENTS,
        CLOUD_WORKER,
        CLOUD_BATCHES,
        INTAKE_VIEW,
        LEDGER,
        LIVE_WINDOWS,
        SKILL_BROADCASTER,
    )
}


def local_worker_of(site: str) -> GroupSpec:
    """The group of the local workers of a site; that of those without one if the name is empty. Raises SiteInvalid."""
    if not site:
        return LOCAL_WORKER
    return replace(LOCAL_WORKER, name=f"{LOCAL_WORKER.name}.{site}", topics=site_topics([site]))


def placements_of(site: str) -> GroupSpec:
    """The group in which the local workers of a site place models, as for `local_worker_of`. Each site reads all
    requests: only its own nodes are there. Raises SiteInvalid."""
    return replace(PLACEMENTS, name=f"{PLACEMENTS.name}.{site_name(site)}") if site else PLACEMENTS


def groups_with(sites: Iterable[str]) -> tuple[GroupSpec, ...]:
    """All groups, with those of these sites. Raises SiteInvalid."""
    of_sites = [group for site in sites for group in (local_worker_of(site), placements_of(site))]
    return (*GROUPS.values(), *of_sites)
