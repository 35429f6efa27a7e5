"""How answers of the simulator are recognised: by a header, and inside each provider's own format."""

from __future__ import annotations

from typing import Final

SIMULATED_HEADER: Final = "x-headrace-simulated"
SIMULATOR_NAME: Final = "simulator"
"""Part of the version that a simulated Ollama node reports."""
SIMULATOR_FINGERPRINT: Final = "headrace-simulator"
"""The system_fingerprint of simulated OpenAI answers, the owner of simulated models."""
SIMULATED_MESSAGE_PREFIX: Final = "msg_simulated_"
"""How the ids of simulated Anthropic messages begin."""
