"""What the providers do to the workers during a run: each kind of fault, at each of them, over and over."""

import random
from collections.abc import Iterator
from typing import Any, Final

PLANTED_MODEL: Final = "llama3:8b"
PLANTED_NODE: Final = "remote-1"
"""A node that passes this one model on to another host and does not say so. No sensitive task asks for it."""
_AS_LONG_AS_IT_RUNS: Final = 1_000_000

ORDINARY: Final = (
    ("groq", "rate_limit"), ("groq", "error"), ("groq", "disconnect"), ("groq", "refusal"), ("groq", "quota"),
    ("anthropic", "overloaded"), ("ollama", "error"), ("ollama", "overloaded"), ("ollama", "stream_error"),
    ("ollama", "disconnect"), ("ollama", "timeout"), ("groq", "stream_error"),
)  # fmt: skip
HOSTILE: Final = (
    "silence", "keep_alives", "unfinished", "broken_json", "json_body", "torn_character", "torn_bytes", "empty_answer",
    "unknown_finish", "null_counts", "negative_counts", "nan_counts", "vast_counts", "large_counts", "number_as_model",
    "half_character_as_model", "redirect", "redirect_away",
)  # fmt: skip
OF_OLLAMA: Final = ("repeated_token", "thinking_only", "thinking_to_the_end")
TALKERS: Final = ("ollama", "groq", "anthropic")
DECK: Final = (
    *ORDINARY,
    *((provider, kind) for provider in TALKERS for kind in HOSTILE),
    *(("ollama", kind) for kind in OF_OLLAMA),
)


def planted() -> dict[str, Any]:
    """The fault that is there from the start."""
    return {
        "provider": "ollama", "kind": "answered_remotely", "node": PLANTED_NODE, "model": PLANTED_MODEL,
        "count": _AS_LONG_AS_IT_RUNS,
    }  # fmt: skip


def faults(seed: int) -> Iterator[tuple[dict[str, Any], float]]:
    """Faults as the simulator takes them, each with the seconds until the next; every kind before any comes again."""
    random_ = random.Random(f"faults of {seed}")
    while True:
        deck = list(DECK)
        random_.shuffle(deck)
        for provider, kind in deck:
            yield {"provider": provider, "kind": kind, "count": random_.randint(1, 3)}, random_.uniform(0.2, 1.0)
