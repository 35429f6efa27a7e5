"""Which model providers are real and which are simulated. The decision is pure; `find_ollama` probes for Ollama."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from headrace_models.cloud import CLOUD_PROVIDERS
from headrace_models.simulator.catalog import DEFAULT_NODES

OLLAMA_DEFAULT = "127.0.0.1:11434"
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Providers:
    """The providers that the workers use.

    ``simulated`` names the simulated ones; ``local`` and ``cloud`` are the environments of the two workers.
    """

    local: Mapping[str, str]
    cloud: Mapping[str, str]
    simulated: tuple[str, ...]


def ollama_url(environment: Mapping[str, str]) -> str:
    """The address of Ollama according to OLLAMA_HOST, as for its own tools (host, host:port or URL)."""
    address = environment.get("OLLAMA_HOST") or OLLAMA_DEFAULT
    scheme, separator, rest = address.rpartition("://")
    host, _, port = rest.rstrip("/").partition(":")
    # The same variable makes a server listen on all interfaces; a client cannot connect to that address.
    host = "127.0.0.1" if host in ("", "0.0.0.0") else host
    default_port = "443" if scheme == "https" else "80" if separator else "11434"
    return f"{scheme or 'http'}://{host}:{port or default_port}"


async def find_ollama(environment: Mapping[str, str] = os.environ) -> str | None:
    """The URL of an Ollama that answers, if one does."""
    url = ollama_url(environment)
    try:
        timeout = aiohttp.ClientTimeout(total=LOOK_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/api/version") as response:
            answer = await response.json() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    return url if isinstance(answer, dict) and "version" in answer else None


def choose_providers(
    environment: Mapping[str, str], *, ollama: str | None, simulator: str, simulate_all: bool = False
) -> Providers:
    """Decide which providers are real.

    Local nodes are those named in HEADRACE_OLLAMA_NODES, else the Ollama that was found, else simulated. The cloud is
    real if there is a key for one of its model providers: then only those with a key are offered, since simulated
    answers must not be mixed with paid ones. Without any key, the whole cloud is simulated.
    """
    simulated: list[str] = []
    nodes = None if simulate_all else environment.get("HEADRACE_OLLAMA_NODES") or ollama
    if not nodes:
        nodes = ",".join((*(f"{simulator}/ollama/{name}" for name in DEFAULT_NODES), *_searches(simulator)))
        simulated += ["ollama", "searxng"]
    keys = {
        provider: value
        for provider in CLOUD_PROVIDERS
        if (value := environment.get(provider.key_variable)) and not simulate_all
    }
    if any(provider.runs_models for provider in keys):
        cloud = {provider.key_variable: value for provider, value in keys.items()}
    else:
        cloud = {
            "GROQ_API_KEY": "simulated",
            "HEADRACE_GROQ_URL": f"{simulator}/groq/openai/v1",
            "ANTHROPIC_API_KEY": "simulated",
            "HEADRACE_ANTHROPIC_URL": f"{simulator}/anthropic",
            "TAVILY_API_KEY": "simulated",
            "HEADRACE_TAVILY_URL": f"{simulator}/tavily",
        }
        simulated += ["groq", "anthropic", "tavily"]
    return Providers(local={"HEADRACE_OLLAMA_NODES": nodes}, cloud=cloud, simulated=tuple(simulated))


def _searches(simulator: str) -> tuple[str, ...]:
    """Search engines for research: one that would ask the web, and one that would not."""
    return (
        f"metasearch={simulator}/searxng/metasearch;server=searxng",
        f"intranet={simulator}/searxng/intranet;server=searxng;reach=inside",
    )


def offered_in_the_cloud(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the providers of which a cloud worker with this environment has a key."""
    return tuple(provider.name for provider in CLOUD_PROVIDERS if environment.get(provider.key_variable))
