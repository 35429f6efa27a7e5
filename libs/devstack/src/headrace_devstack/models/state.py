"""What a plan starts from: nodes by what workers report and agents announce, and roles by policy and ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headrace.costs import ExpectedDemand
from headrace_contracts.events import ModelSettings, NodeAnnounced, NodeDrained, NodeStatus, Place
from headrace_local_worker.decide.balancing import tagged
from headrace_models.local_servers import OLLAMA
from headrace_router.decide.policy import Policy

from headrace_devstack.models.plan import PlacementNode, RoleDemand

MEMORY_LABEL: Final = "memory_gb"
"""Label of a node in the worker's list: memory that models may take, in 10⁹ bytes."""
_SHARE_OF_MAIN_MEMORY: Final = 0.7
"""What models may take of a machine without a graphics processor: the rest is the system's and the contexts'."""
_SHARE_OF_GPU_MEMORY: Final = 0.9
LEAST_BUSY_CALLS: Final = 0.02
"""Expected calls at once from which on a role is expected to be used: somewhat more than a minute in an hour."""
_HOURS_OF_DAY: Final = 24
_LEAST_WEIGHT: Final = 0.01
"""Of a role that nobody has used, beside the share of those that were."""


def placement_nodes(
    reports: Iterable[NodeStatus],
    announced: Mapping[str, NodeAnnounced],
    drained: Mapping[str, NodeDrained],
    now_ms: int,
) -> tuple[PlacementNode, ...]:
    """Ollama nodes that get calls now, by name."""
    newest: dict[str, NodeStatus] = {}
    for report in reports:
        current = report.healthy and now_ms < report.reported_at + report.valid_for_ms
        if report.place is Place.LOCAL and report.provider == OLLAMA and current and report.node not in drained:
            known = newest.get(report.node)
            if known is None or known.reported_at < report.reported_at:
                newest[report.node] = report
    return tuple(
        PlacementNode(
            name=name,
            memory_bytes=memory_for_models(report, announced.get(name)),
            on_disk={tagged(model.name): model.size_bytes or 0 for model in report.models},
            loaded=frozenset(tagged(model.name) for model in report.models if model.loaded),
        )
        for name, report in sorted(newest.items())
    )


def memory_for_models(report: NodeStatus, said: NodeAnnounced | None) -> int | None:
    """Bytes that models may take on a node: as its label says, else by what its agent sees; None if nobody tells."""
    label = report.hardware.get(MEMORY_LABEL, "")
    try:
        stated = float(label) if label else 0.0
    except ValueError:
        stated = 0.0
    if 0 < stated < 1e6:
        return int(stated * 1e9)
    if said is None:
        return None
    on_gpus = sum(gpu.memory_bytes or 0 for gpu in said.gpus)
    if on_gpus:
        return int(on_gpus * _SHARE_OF_GPU_MEMORY)
    return None if said.memory_bytes is None else int(said.memory_bytes * _SHARE_OF_MAIN_MEMORY)


def demands(policy: Policy, tokens_by_role: Mapping[str, int]) -> tuple[RoleDemand, ...]:
    """The roles that run on Ollama nodes; their weights by the tokens that they used, equal if nothing is known."""
    used = sum(tokens_by_role.values())
    found = []
    for name, role in policy.roles.items():
        models = tuple(tagged(ref.model) for ref in role.models if ref.provider == OLLAMA)
        if models:
            share = tokens_by_role.get(name, 0) / used if used else 0.0
            found.append(RoleDemand(name, models, max(share, _LEAST_WEIGHT)))
    return tuple(found)


def expected_demands(policy: Policy, expected: Sequence[ExpectedDemand]) -> tuple[RoleDemand, ...]:
    """The roles that run on Ollama nodes and are expected to be used, by the most that is expected of an hour.

    While nobody has used any role for a day, all count alike. A role that has been used for less than a day is not
    taken for unused. Tasks without a role count as the default role's.
    """
    known = {one.key.get("role", "") or policy.defaults.role: one for one in reversed(expected)}
    informed = any(one.history_hours >= _HOURS_OF_DAY for one in expected)
    found = []
    for name, role in policy.roles.items():
        models = tuple(tagged(ref.model) for ref in role.models if ref.provider == OLLAMA)
        said = known.get(name)
        busy = 0.0 if said is None else max(said.busy_calls, default=0.0)
        is_new = said is not None and said.history_hours < _HOURS_OF_DAY
        if models and (not informed or is_new or busy >= LEAST_BUSY_CALLS):
            found.append(RoleDemand(name, models, max(busy, LEAST_BUSY_CALLS)))
    return tuple(found)


def load_settings(policy: Policy, model: str) -> ModelSettings:
    """How to load a model so that the calls which follow find it as they need it.

    Of the roles that have it as their first model here, the longest context: a model that is in memory with more than a
    call needs is not loaded again, one with less is. How long it stays is the model's own, since each call says anew.
    """
    own = next((facts for name, facts in policy.models.items() if tagged(name) == tagged(model)), None)
    lengths = [] if own is None or own.num_ctx is None else [own.num_ctx]
    for role in policy.roles.values():
        first = next((ref.model for ref in role.models if ref.provider == OLLAMA), None)
        if first is not None and tagged(first) == tagged(model) and role.num_ctx is not None:
            lengths.append(role.num_ctx)
    return ModelSettings(num_ctx=max(lengths, default=None), keep_alive=None if own is None else own.keep_alive)


def stated_sizes(policy: Policy) -> Mapping[str, int]:
    """Sizes of models in memory, in bytes, as far as the policy states them."""
    return {
        tagged(name): int(facts.size_gb * 1e9) for name, facts in policy.models.items() if facts.size_gb is not None
    }
