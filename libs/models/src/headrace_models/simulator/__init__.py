"""A stand-in for Ollama, Groq, Anthropic and Tavily on loopback, for demos and tests without keys or models.

It implements their wire formats well enough for the real client packages, answers by a pure function of the prompt, and
records what each provider was sent, so that a demo can prove what never left. Answers are recognisable as simulated.
"""

from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig

__all__ = ["Simulator", "SimulatorConfig", "Speed"]
