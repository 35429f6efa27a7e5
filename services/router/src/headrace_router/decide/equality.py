"""When two tasks are equal, so that one answer can serve both."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Final

from headrace_contracts.cargo import asked_in, said_in
from headrace_contracts.events import Sampling, TaskSubmitted
from headrace_contracts.ids import digest

from headrace_router.decide.rules import TaskRules

_SAMPLING: Final = tuple(Sampling().to_avro())


def equality_digest(task: TaskSubmitted, rules: TaskRules, answer_version: str) -> str:
    """Digest of tenant, question and the rules it is answered under; empty for a task that shares no answer.

    The rules are part of it, so an answer never serves a task of another tenant, of another privacy level, or of a
    caller whose rules would have excluded the place where it was made.

    Args:
        answer_version: What of the policy an answer depends on (`decide.answer_policy`).
    """
    if not task.allow_cached:
        return ""
    routing = None if task.routing is None else json.dumps(task.routing.to_avro(), sort_keys=True)
    frame = _frame(rules, answer_version, task.role, task.model, routing)
    parts: list[str | bytes] = [frame % (_sampling(task.sampling), _quoted(task.tenant))]
    for message in task.messages:
        parts += said_in(message)
    parts += asked_in(task)
    return digest(parts)


@lru_cache(maxsize=4_096)
def _frame(rules: TaskRules, answer_version: str, role: str | None, model: str | None, routing: str | None) -> str:
    """The frame as sorted JSON, with places for the sampling and the tenant. Few rules occur."""
    frame = {
        "consented": sorted(rules.consented),
        "mode": rules.mode,
        "model": model,
        "policy": answer_version,
        "preferred": rules.preferred,
        "privacy": rules.privacy,
        "role": role,
    }
    rest = json.dumps(frame, sort_keys=True).removesuffix("}").replace("%", "%%")
    asked = "null" if routing is None else routing.replace("%", "%%")
    return f'{rest}, "routing": {asked}, "sampling": %s, "tenant": %s}}'


def _sampling(sampling: Sampling) -> str:
    said = sampling.to_avro()
    # Whether a number is whole is part of its JSON, and not of its hash.
    return _sampling_of(*[tuple(value) if isinstance(value, list) else value for value in said.values()])


@lru_cache(maxsize=1_024, typed=True)
def _sampling_of(*values: object) -> str:
    return json.dumps(dict(zip(_SAMPLING, values, strict=True)), sort_keys=True)


@lru_cache(maxsize=4_096)
def _quoted(text: str) -> str:
    return json.dumps(text)
