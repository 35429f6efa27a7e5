"""How to recognise the simulator's answers: by a header, and within each provider's own format."""

from __future__ import annotations

from typing import Final

SIMULATED_HEADER: Final = "x-headrace-simulated"
SIMULATOR_NAME: Final = "simulator"
"""Part of the version reported by a simulated Ollama node."""
SIMULATOR_FINGERPRINT: Final = "headrace-simulator"
"""The system_fingerprint of simulated OpenAI answers, and the owner of simulated models."""
SIMULATED_MESSAGE_PREFIX: Final = "msg_simulated_"
"""Prefix of the ids of simulated Anthropic messages."""
