"""The frameworks, where each comes from, and what pins its version."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent.parent
SCRIPTS: Final = HERE / "frameworks"
PYTHON_LOCKS: Final = HERE / "python"
NODE: Final = HERE / "node"
ASKED: Final = HERE / "asked.json"
COLUMNS: Final = ("chat", "stream", "tools", "structured", "image", "embeddings", "batch")
TITLES: Final = {"tools": "tool loop", "structured": "structured output"}
"""Of columns whose heads are not their names."""
NODE_ENVIRONMENT: Final = "node"


@dataclass(frozen=True, slots=True)
class Framework:
    """A row: a script in an environment. `packages` are those whose versions the table names."""

    key: str
    title: str
    environment: str
    script: str
    packages: tuple[str, ...]
    argument: str = ""

    def versions(self) -> dict[str, str]:
        """The pinned versions of its packages."""
        pinned = node_pins() if self.environment == NODE_ENVIRONMENT else python_pins(self.environment)
        return {package: pinned[package] for package in self.packages}


_IN_PARALLEL: Final = "its own `batch`: requests in parallel, with no batch API"
REMARKS: Final = {
    ("langchain-openai", "batch"): _IN_PARALLEL,
    ("langchain-anthropic", "batch"): _IN_PARALLEL,
    ("langchain-ollama", "batch"): _IN_PARALLEL,
    ("dspy", "batch"): _IN_PARALLEL,
    ("instructor", "stream"): "in the mode `JSON_SCHEMA`: models of Ollama write the calls of its default mode whole",
    ("instructor", "tools"): "its `PARALLEL_TOOLS`: objects instead of calls, which the program runs itself",
}
"""What to say of a cell that works, by framework and column, in Markdown."""
REASONS: Final = {
    ("anthropic", "batch"): "Headrace has no `/v1/messages/batches`; its batch API is [OpenAI's](http-api.md)",
}
"""What to say of a cell that does not, instead of what the framework says."""

FRAMEWORKS: Final = (
    Framework("openai-chat", "openai (Python), chat completions", "packages", "openai_chat.py", ("openai",)),
    Framework("openai-responses", "openai (Python), Responses", "packages", "openai_responses.py", ("openai",)),
    Framework("openai-node", "openai (node), `runTools`", NODE_ENVIRONMENT, "openai_node.mjs", ("openai",)),
    Framework("anthropic", "anthropic (Python)", "packages", "anthropic_messages.py", ("anthropic",)),
    Framework("ollama", "ollama (Python)", "packages", "ollama_chat.py", ("ollama",)),
    Framework(
        "langchain-openai", "LangChain, `ChatOpenAI`", "langchain", "langchain_models.py",
        ("langchain", "langchain-openai"), "openai",
    ),
    Framework(
        "langchain-anthropic", "LangChain, `ChatAnthropic`", "langchain", "langchain_models.py",
        ("langchain", "langchain-anthropic"), "anthropic",
    ),
    Framework(
        "langchain-ollama", "LangChain, `ChatOllama`", "langchain", "langchain_models.py",
        ("langchain", "langchain-ollama"), "ollama",
    ),
    Framework(
        "llamaindex", "LlamaIndex, `OpenAILike`", "llamaindex", "llama_index_agent.py",
        ("llama-index-core", "llama-index-llms-openai-like"),
    ),
    Framework(
        "pydantic-ai", "pydantic-ai, `OpenAIChatModel`", "pydantic-ai", "pydantic_agent.py",
        ("pydantic-ai-slim",), "chat",
    ),
    Framework(
        "pydantic-ai-responses", "pydantic-ai, `OpenAIResponsesModel`", "pydantic-ai", "pydantic_agent.py",
        ("pydantic-ai-slim",), "responses",
    ),
    Framework(
        "openai-agents", "OpenAI Agents SDK, `OpenAIChatCompletionsModel`", "openai-agents", "openai_agents.py",
        ("openai-agents",), "chat",
    ),
    Framework(
        "openai-agents-responses", "OpenAI Agents SDK, `OpenAIResponsesModel`", "openai-agents", "openai_agents.py",
        ("openai-agents",), "responses",
    ),
    Framework("instructor", "instructor", "instructor", "instructor_models.py", ("instructor",)),
    Framework("smolagents", "smolagents, `OpenAIModel`", "smolagents", "smol_agents.py", ("smolagents",)),
    Framework(
        "autogen", "AutoGen, `OpenAIChatCompletionClient`", "autogen", "autogen_agents.py",
        ("autogen-agentchat", "autogen-ext"),
    ),
    Framework("dspy", "dspy", "dspy", "dspy_programs.py", ("dspy",)),
    Framework("litellm", "LiteLLM, as a client", "litellm", "litellm_client.py", ("litellm",)),
    Framework(
        "vercel-openai", "Vercel AI, `@ai-sdk/openai` (Responses)", NODE_ENVIRONMENT, "vercel_ai.mjs",
        ("ai", "@ai-sdk/openai"), "openai",
    ),
    Framework(
        "vercel-compatible", "Vercel AI, `@ai-sdk/openai-compatible`", NODE_ENVIRONMENT, "vercel_ai.mjs",
        ("ai", "@ai-sdk/openai-compatible"), "compatible",
    ),
)  # fmt: skip
CORE: Final = ("openai-chat", "langchain-openai", "pydantic-ai", "openai-agents")
"""Those that `make test` runs: quick to install, and each another way to write requests and to read streams."""


def python_pins(environment: str) -> dict[str, str]:
    """Versions by package in a lock of a Python environment."""
    text = (PYTHON_LOCKS / f"{environment}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, re.MULTILINE))


def node_pins() -> dict[str, str]:
    """Versions by package in the lock of the node environment."""
    lock = json.loads((NODE / "package-lock.json").read_text(encoding="utf-8"))
    return {
        path.removeprefix("node_modules/"): entry["version"]
        for path, entry in lock["packages"].items()
        if path.startswith("node_modules/") and path.count("node_modules/") == 1
    }
