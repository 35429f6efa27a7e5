"""What a benchmark ran on, for its report."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict
from typing import Any

from headrace_bench.ratios import Spread


def machine(load_before: float, elsewhere: Spread) -> dict[str, Any]:
    """The machine as JSON: date, versions, and its other work. `elsewhere` are processors that this kept busy."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "load_before": round(load_before, 1),
        "busy_elsewhere": asdict(elsewhere),
    }


def told(rounds: int, seconds: float, load_before: float, elsewhere: Spread, more: str = "") -> str:
    """The line below the tables. `more` stands before the rounds."""
    return (
        f"({time.strftime('%Y-%m-%d')}, {os.cpu_count()} processors, Python {platform.python_version()}, {more}"
        f"medians of {rounds} rounds of {seconds:g} s, smallest to largest in brackets; "
        f"load average before: {load_before:.1f}; "
        f"other work kept {elsewhere.median:.2f} ({elsewhere.low:.2f}–{elsewhere.high:.2f}) processors busy)"
    )
