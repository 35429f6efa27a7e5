"""Parameters of one provider's API that have no field here: `provider_options: {"groq": {"citation_options": …}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from headrace_contracts.cargo import LARGEST_EXTRA, MOST_EXTRA, RESERVED_EXTRA
from headrace_contracts.content import plain
from headrace_contracts.events import Content
from pydantic import Field

from headrace_intake.decide.refusals import bad_request

FIELD: Final = "provider_options"
ProviderOptions = Annotated[dict[str, dict[str, Any]], Field(max_length=1)]
HOW_TO_PASS_ON: Final = (
    "; a parameter of one provider's API goes into provider_options, such as "
    '{"groq": {"name": "value"}}, with a model of that provider'
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")


def extra_of(
    said: Mapping[str, Mapping[str, Any]] | None, *, model: str | None, preferred_provider: str | None
) -> dict[str, Content]:
    """The event's further parameters, for the provider that the task names. Raises Refusal.

    A parameter means something else at another provider, or nothing: so the task must name the one that gets it.
    """
    if not said:
        return {}
    ((provider, parameters),) = said.items()
    where, example = (f"{FIELD}.{provider}", provider) if _NAME.fullmatch(provider) else (FIELD, "groq")
    if preferred_provider != provider and not (model or "").startswith(f"{provider}/"):
        raise bad_request(
            f"{where}: only the provider that a task names gets them: give a model such as {example}/…, or "
            "preferred_provider.",
            where,
        )
    if len(parameters) > MOST_EXTRA:
        raise bad_request(f"{where}: there are {len(parameters)} parameters, and may be {MOST_EXTRA}.", where)
    for name in parameters:
        if not _NAME.fullmatch(name):
            raise bad_request(
                f"{where}: a name must have 1 to 64 letters, digits, dots, hyphens and underscores.", where
            )
        if name in RESERVED_EXTRA:
            why = "it has a field of its own, or decides what an answer may cost"
            raise bad_request(f"{where}.{name}: this cannot be passed on: {why}.", f"{where}.{name}")
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in parameters.items()}
    size = sum(len(text.encode()) for text in texts.values())
    if size > LARGEST_EXTRA:
        raise bad_request(f"{where}: the parameters have {size} bytes, and may have {LARGEST_EXTRA}.", where)
    return {name: plain(text) for name, text in texts.items()}
