"""What it brings to send a prompt to the node that has read its beginning: time to the first token, tokens read anew.

Agents with long system prompts of their own talk in turns, on equal simulated nodes whose runner keeps a prompt in each
slot, as Ollama's does. Virtual time: seconds are those that the nodes would take, and the machine does not matter. Each
seed runs both ways, without regard to what nodes have read and with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_testing.warm_nodes import Figures, Load, measured
from rich.console import Console
from rich.table import Table

WAYS = ("without", "with")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many loads (default 5)")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    arguments = parser.parse_args()
    found: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for seed in range(1, arguments.seeds + 1):
        for way in WAYS:
            found[way].append(measured(Load(), warm=way == "with", seed=seed))
    rows = {way: _row(figures) for way, figures in found.items()}
    table = Table("regard to what is warm", "first token p50", "p95", "tokens not read again", box=None)
    for way, row in rows.items():
        table.add_row(way, f"{row['p50_seconds']:.2f} s", f"{row['p95_seconds']:.2f} s", f"{row['share_cached']:.0%}")
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "ways": rows}, indent=1) + "\n")


def _row(figures: list[Figures]) -> dict[str, float]:
    return {
        "p50_seconds": statistics.median(one.p50 for one in figures),
        "p95_seconds": statistics.median(one.p95 for one in figures),
        "share_cached": statistics.median(one.share_cached for one in figures),
    }


if __name__ == "__main__":
    main()
