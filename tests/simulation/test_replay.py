"""A seed is one schedule, to the letter: in every process, whatever Python's hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

FIRST, SEEDS = 4_000, 12


def digests(hash_seed: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "headrace_testing.simulation", "--digest", f"--seed={FIRST}", f"--seeds={SEEDS}"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_a_seed_replays_to_the_letter() -> None:
    first = digests("1")
    assert len(set(first.splitlines())) == SEEDS
    assert digests("2") == first
