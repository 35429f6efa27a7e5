"""Which roles of the routing policy can be served by the nodes and providers that are there."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_contracts.events import Place
from headrace_local_worker.decide.balancing import tagged
from headrace_models.local_servers import OLLAMA
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.policy import Policy, RolePolicy

from headrace_devstack.ollama_checkup import models_on


@dataclass(frozen=True, slots=True)
class UnservedRoles:
    """Roles that lack something, in the policy's order.

    Attributes:
        nowhere: No model of theirs is there, or only in the cloud where they must not go.
        cloud_only: Served by cloud providers alone, so not for content that must stay.
        pull: Models that Ollama nodes would need for all of them: the first choice of each.
    """

    nowhere: tuple[str, ...] = ()
    cloud_only: tuple[str, ...] = ()
    pull: tuple[str, ...] = ()


def unserved_roles(policy: Policy, on_nodes: Collection[tuple[str, str]], cloud: Collection[str]) -> UnservedRoles:
    """What is missing for the roles of a policy.

    Args:
        on_nodes: Provider and model, by its name there, of nodes that answer.
        cloud: Names of the cloud providers that are offered.
    """
    here = {(provider, tagged(model)) for provider, model in on_nodes}
    nowhere: list[str] = []
    cloud_only: list[str] = []
    pull: dict[str, None] = {}
    for name, role in policy.roles.items():
        local = [ref for ref in role.models if policy.place(ref.provider) is Place.LOCAL]
        if any((ref.provider, tagged(ref.model)) in here for ref in local):
            continue
        in_cloud = _in_cloud(policy, role, cloud)
        if in_cloud and not local:
            # As it is meant.
            continue
        (cloud_only if in_cloud else nowhere).append(name)
        if (on_ollama := next((ref.model for ref in local if ref.provider == OLLAMA), None)) is not None:
            pull[on_ollama] = None
    return UnservedRoles(tuple(nowhere), tuple(cloud_only), tuple(pull))


def _in_cloud(policy: Policy, role: RolePolicy, cloud: Collection[str]) -> bool:
    if role.always_local:
        return False
    ladder = policy.ladder if role.ladder is None else role.ladder
    return any(ref.provider in cloud and policy.place(ref.provider) is Place.CLOUD for ref in (*role.models, *ladder))


def told(unserved: UnservedRoles, nodes_answer: bool) -> Sequence[str]:
    """For people: what cannot be served, and what mends it; nothing if all can be."""
    lines: list[str] = []
    if unserved.nowhere:
        lines.append(f"nothing here serves {_listed(unserved.nowhere)}: their tasks wait until their deadlines")
    if unserved.cloud_only:
        lines.append(f"only the cloud serves {_listed(unserved.cloud_only)}: sensitive content waits")
    if lines and unserved.pull:
        lines.append(
            f"on a node: {' && '.join(f'ollama pull {model}' for model in unserved.pull)}"
            if nodes_answer
            else f"start a node that has {', '.join(unserved.pull)}"
        )
    return lines


async def what_is_missing(ollama_nodes: str, cloud: Collection[str]) -> Sequence[str]:
    """For people: nodes that do not answer, and roles that nothing here serves by the policy of this environment."""
    file = os.environ.get("HEADRACE_POLICY_FILE")
    policy = load_policy(Path(file) if file else None)
    models, silent = await models_on(ollama_nodes)
    return [*silent, *told(unserved_roles(policy, models, cloud), nodes_answer=bool(models) or not silent)]


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
