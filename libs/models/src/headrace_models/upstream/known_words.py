"""Words of providers that may be shown: they name the cause, and cannot quote a prompt.

What a provider says is otherwise never shown or logged (`complaints`). An operator of own nodes needs the cause,
though: "it failed" does not tell that a GPU is full. So the sentences of Ollama's server that consist of nothing but
fixed words and numbers are recognised, and shown as they are.
"""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = r"[0-9.]{1,12} ?[KMGT]?i?B"
_SENTENCES: Final = (
    rf"model requires more system memory(?: \({_SIZE}\) than is available \({_SIZE}\))?",
    r"(?:llama runner|llama-server) process (?:has terminated|no longer running)"
    r"(?:: (?:exit status (?:0x)?[0-9a-f]{1,16}|signal: [a-z]{1,20}(?: \(core dumped\))?|CUDA error))?",
    r"timed out waiting for (?:llama runner|llama-server) to start",
    r"model failed to load, this may be due to resource limitations or an internal error",
    r"an error was encountered while running the model",
    r"maximum pending requests exceeded",
    r"(?:cudaMalloc failed: |CUDA error: )?out of memory",
    r"the input length exceeds the context length",
    r"token repeat limit reached",
    r"does not support (?:tools|thinking|embeddings|generate|chat|insert|vision)",
)
_KNOWN: Final = re.compile("|".join(f"(?:{one})" for one in _SENTENCES))


def known_words(said: str) -> str:
    """The first sentence in what a provider said that may be shown; empty if there is none."""
    found = _KNOWN.search(said[:10_000])
    return found[0] if found else ""
