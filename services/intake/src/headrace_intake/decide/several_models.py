"""How several models have answered a task, as the history keeps it: the records of the contract as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from headrace_contracts.events import CascadeSummary, EnsembleSummary


def stored(summary: EnsembleSummary | CascadeSummary | None) -> str | None:
    """The text to keep; None for nothing."""
    return None if summary is None else json.dumps(_clean(summary.to_avro()), separators=(",", ":"))


def loaded_ensemble(text: str | None) -> EnsembleSummary | None:
    """What `stored` made. Raises ValueError and the like for any other text."""
    return None if text is None else EnsembleSummary.from_avro(json.loads(text))


def loaded_cascade(text: str | None) -> CascadeSummary | None:
    """What `stored` made. Raises ValueError and the like for any other text."""
    return None if text is None else CascadeSummary.from_avro(json.loads(text))


def shown(summary: EnsembleSummary | CascadeSummary | None) -> dict[str, Any] | None:
    """The summary as documents have it."""
    return None if summary is None else _clean(summary.to_avro())


def _clean(value: Any) -> Any:
    """Without what JSON, or Postgres, has no place for: anybody may have written the record."""
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return 0.0
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
