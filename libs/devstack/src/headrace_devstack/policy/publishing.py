"""Publishing revisions of policies, and reading those that are published."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from headrace.connecting import Cluster
from headrace.errors import HeadraceError
from headrace.nodes import newest_events
from headrace.operating import publish, remove
from headrace_contracts.events import PolicyPublished
from headrace_contracts.topics import POLICIES
from headrace_router.adapters.policy_file import parse_policy, policy_text
from headrace_router.decide.policy import Policy
from headrace_router.decide.revisions import INSTALLATION, Revisions, revision_key


class PublishedMeanwhile(HeadraceError):
    """Look at what somebody else has published at the same time, and publish again."""


class NoSuchRevision(HeadraceError):
    """Choose a revision that `headrace policy history` shows."""


def own_file() -> Path | None:
    """The file that routers read where nothing is published; None for the shipped one."""
    named = os.environ.get("HEADRACE_POLICY_FILE")
    return Path(named) if named else None


def policy_in_force(revisions: Revisions) -> Policy:
    """The installation's policy that counts now. Raises PolicyInvalid."""
    newest = revisions.newest(INSTALLATION)
    if newest is None or not newest.text:
        return parse_policy(*policy_text(own_file()))
    return parse_policy(newest.text, f"revision {newest.revision}")


async def read_revisions(cluster: Cluster) -> Revisions:
    """All revisions as the topic has them now. Raises TransientError, RegistryUnavailable."""
    (found,) = await newest_events(cluster, (POLICIES,))
    return revisions_in(found)


def revisions_in(published: Mapping[str, PolicyPublished]) -> Revisions:
    """The revisions in the newest records of the topic `policies`, by their keys."""
    revisions = Revisions()
    for key, each in published.items():
        revisions.apply(key, each)
    return revisions


async def publish_revision(
    cluster: Cluster,
    scope: str,
    *,
    text: str,
    version: str,
    reason: str,
    who: str,
    now_ms: int,
    restores: int | None = None,
) -> PolicyPublished:
    """Publish the next revision of a scope, and remove those that are long past.

    Raises PublishedMeanwhile if another one became the next revision; then this one does not count. Raises
    StreamsError, ContractError.
    """
    before = (await read_revisions(cluster)).newest(scope)
    published = PolicyPublished(
        scope=scope,
        revision=1 if before is None else before.revision + 1,
        version=version,
        text=text,
        reason=reason,
        restores=restores,
        published_by=who,
        published_at=now_ms,
    )
    await publish(cluster, POLICIES, revision_key(published), published, now_ms)
    after = await read_revisions(cluster)
    counting = next((each for each in after.newest_first(scope) if each.revision == published.revision), published)
    if counting != published:
        raise PublishedMeanwhile(
            f"{counting.published_by} has published revision {published.revision} at the same time, and that one "
            "counts: look at it with `headrace policy diff`, and publish again"
        )
    if outdated := after.outdated(scope):
        await remove(cluster, POLICIES, *outdated)
    return published


def revision_of(revisions: Revisions, scope: str, number: int) -> PolicyPublished:
    """A revision by its number. Raises NoSuchRevision."""
    for published in revisions.newest_first(scope):
        if published.revision == number:
            return published
    known = ", ".join(str(each.revision) for each in revisions.newest_first(scope)) or "none"
    raise NoSuchRevision(f"{scope} has no revision {number}; there are {known}")
