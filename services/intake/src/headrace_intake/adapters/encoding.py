"""JSON as intake writes it: compact, in UTF-8."""

from __future__ import annotations

import json
from typing import Any


def dumps(value: Any) -> str:
    """Encode the value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
