"""Why a task did not run at a model, in words, from the steps of its trail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.results import TrailStep

SENTENCES: Final[Mapping[str, str]] = {
    "privacy": "The task's privacy forbids it",
    "no_consent": "The task is internal, and nobody has consented to this provider",
    "mode": "The task's mode forbids it",
    "data_rules": "Its provider does not handle data as is demanded",
    "ignored": "The task leaves it out",
    "not_in_only": "The task asks for others only",
    "no_fallbacks": "The task asks for its first model and no other",
    "parameters_not_taken": "It does not take all parameters of the task",
    "over_max_price": "It is dearer than the task allows",
    "price_unknown": "Nobody knows what it costs, and the task limits that",
    "too_slow": "It has been slower than the task asks for",
    "switched_off": "An operator has switched it off",
    "failed_before": "It has failed for this task before",
    "incapable": "It cannot do all that the task demands",
    "over_budget": "It may cost more than the task's budget has left",
    "no_local_capacity": "No node of ours could run it then",
    "no_capacity": "Its provider did not offer it then",
    "context_too_small": "What is to be read is longer than its context",
}
"""A sentence for each rule of the router, by the code of its rejections."""


@dataclass(frozen=True, slots=True)
class ReasonsAgainst:
    """What a trail says about a model.

    Attributes:
        ran: Whether an attempt was sent there.
        lines: The reasons against it, in order, each once; or why there are none.
    """

    ran: bool
    lines: Sequence[str]


def against(model: str, trail: Iterable[TrailStep]) -> ReasonsAgainst:
    """The reasons against a model, `provider/model`, its name, or a provider alone, in the steps of a trail."""
    steps = list(trail)
    of_model = [step for step in steps if _means(model, step)]
    rejected = [step for step in of_model if step.step == "rejected"]
    ended = [step for step in of_model if step.step in ("fell_back", "not_asked", "retried")]
    lines = [*(_said_of(step) for step in rejected), *(_ended(step) for step in ended)]
    if any(step.step == "dispatched" for step in of_model):
        return ReasonsAgainst(
            True, tuple(dict.fromkeys((f"The task ran there: an attempt was sent to {model}.", *lines)))
        )
    if lines:
        return ReasonsAgainst(False, tuple(dict.fromkeys(lines)))
    chosen = next((step for step in reversed(steps) if step.step == "dispatched"), None)
    served = next((step for step in steps if step.step in ("cached", "coalesced")), None)
    if chosen is not None:
        name = f"{chosen.provider}/{chosen.model}"
        why = f"Nothing speaks against it: {name} comes before it in the order of the task's strategy and could run it"
        return ReasonsAgainst(False, (f"{why}, or it is no candidate at all (`headrace policy show`).",))
    if served is not None:
        return ReasonsAgainst(False, (f"No model was asked: {served.reason}.",))
    return ReasonsAgainst(False, ("The router has looked at no candidate yet, or the task ended before it did.",))


def _means(model: str, step: TrailStep) -> bool:
    if step.provider is None or step.model is None:
        return False
    return model in (step.provider, step.model, f"{step.provider}/{step.model}")


def _said_of(step: TrailStep) -> str:
    code, _, detail = step.reason.partition(": ")
    # A newer router may have rules that are not known here.
    sentence = SENTENCES.get(code, code)
    return f"{step.provider}/{step.model}: {sentence}" + (f": {detail}." if detail else ".")


def _ended(step: TrailStep) -> str:
    what = "No model was asked there" if step.step == "not_asked" else "An attempt there failed"
    return f"{step.provider}/{step.model}: {what}" + (f" ({step.reason})." if step.reason else ".")
