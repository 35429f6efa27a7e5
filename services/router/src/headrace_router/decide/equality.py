"""When two tasks are equal, so that one answer can serve both."""

from __future__ import annotations

import json

from headrace_contracts.cargo import asked_in, said_in
from headrace_contracts.events import TaskSubmitted
from headrace_contracts.ids import digest

from headrace_router.decide.rules import TaskRules


def equality_digest(task: TaskSubmitted, rules: TaskRules, policy_version: str) -> str:
    """Digest of tenant, question and the rules it is answered under; empty for a task that shares no answer.

    The rules are part of it, so an answer never serves a task of another tenant, of another privacy level, or of a
    caller whose rules would have excluded the place where it was made.
    """
    if not task.allow_cached:
        return ""
    frame = {
        "tenant": task.tenant,
        "role": task.role,
        "model": task.model,
        "sampling": task.sampling.to_avro(),
        "privacy": rules.privacy,
        "mode": rules.mode,
        "consented": sorted(rules.consented),
        "preferred": rules.preferred,
        "policy": policy_version,
        "routing": None if task.routing is None else task.routing.to_avro(),
    }
    parts: list[str | bytes] = [json.dumps(frame, sort_keys=True)]
    for message in task.messages:
        parts += said_in(message)
    parts += asked_in(task)
    return digest(parts)
