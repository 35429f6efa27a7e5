"""LiteLLM's proxy: an environment of its own, the settings that its makers recommend for production, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from headrace_clients.environments import python_environment

from headrace_gateway_bench.upstream import MODEL

LOCK: Final = Path(__file__).resolve().parent.parent / "locks" / "litellm.txt"
MASTER_KEY: Final = "sk-bench-0123456789abcdef"
SPEND_SECONDS: Final = 60
"""How long the proxy gathers spend before it writes it (`proxy_batch_write_at`)."""

_START_SECONDS: Final = 600.0
"""It imports for ten seconds of processor time in each of its processes, which takes long on a busy machine."""
_HEALTHCHECK_SECONDS: Final = "120"
"""With the default of 5 s, workers of a busy machine are ended while they still import, again and again."""
_STOP_SECONDS: Final = 15.0
_PREPARE_SECONDS: Final = 240.0
_INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
_ENVIRONMENT: Final = {
    "LITELLM_MASTER_KEY": MASTER_KEY,
    "LITELLM_SALT_KEY": MASTER_KEY,
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    # The price list that the package has, instead of one from the web.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
}


class CannotRun(Exception):
    """The system cannot run here; the message says what is missing."""


class ProxyEnded(Exception):
    """The proxy has ended, or does not become ready; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class LiteLLM:
    """An installed proxy."""

    environment: Path
    version: str

    @property
    def python(self) -> Path:
        """Of its environment."""
        return self.environment / "bin" / "python"


def installed() -> LiteLLM:
    """The pinned release, installed if it is not there. Raises CannotInstall."""
    pins = LOCK.read_text(encoding="utf-8").splitlines()
    version = next(line.split()[0].partition("==")[2] for line in pins if line.startswith("litellm=="))
    return LiteLLM(python_environment(LOCK, "bench"), version)


def config(upstream: str, *, database: bool) -> dict[str, Any]:
    """The proxy's configuration, after the page "Production Best Practices" of its documentation."""
    model = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "none"}
    settings: dict[str, Any] = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
    }
    if database:
        settings["general_settings"] = {
            "proxy_batch_write_at": SPEND_SECONDS,
            "database_connection_pool_limit": 10,
            "disable_error_logs": True,
        }
    return settings


async def prepare_database(litellm: LiteLLM, database_url: str, upstream: str, folder: Path) -> None:
    """Generate the client of the proxy's database, and make its tables.

    Raises:
        CannotRun: with what the generator or the migration has said at last.
    """
    schema = next(litellm.environment.glob("lib/python*/site-packages/litellm/proxy/schema.prisma"))
    variables = {"DATABASE_URL": database_url, "PRISMA_HOME_DIR": str(litellm.environment)}
    steps = {
        "the client of its database cannot be generated (it needs npm, and Prisma's query engine, a program that no "
        "package has and that it gets from its maker's server)": ("-m", "prisma", "generate", "--schema", str(schema)),
        "its tables cannot be made": (
            "-m", "litellm.proxy.proxy_cli", "--config", str(_write_config(folder, config(upstream, database=True))),
            "--skip_server_startup", "--enforce_prisma_migration_check",
        ),
    }  # fmt: skip
    for trouble, arguments in steps.items():
        process = await asyncio.create_subprocess_exec(
            str(litellm.python), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=_environment(litellm, variables), cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_PREPARE_SECONDS):
                said, _ = await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise CannotRun(f"{trouble}: not done after {_PREPARE_SECONDS:g} s") from None
        if process.returncode != 0:
            raise CannotRun(f"{trouble}: {last_line(said.decode(errors='replace'))}")


def last_line(text: str) -> str:
    """The last line that says something, cut to a table's width."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"


@asynccontextmanager
async def proxy_running(
    litellm: LiteLLM, settings: Mapping[str, Any], processors: int, folder: Path, *, database_url: str | None = None
) -> AsyncIterator[tuple[int, int]]:
    """The proxy from ready to stopped, with a worker for each processor: its port, and its first process.

    Args:
        settings: Its configuration.

    Raises:
        ProxyEnded: it does not become ready.
    """
    port = _free_port()
    variables = {}
    if database_url is not None:
        variables = {"DATABASE_URL": database_url, "DISABLE_SCHEMA_UPDATE": "true"}
        variables["PRISMA_HOME_DIR"] = str(litellm.environment)
    log = folder / "litellm.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(litellm.python), "-m", "litellm.proxy.proxy_cli",
            "--config", str(_write_config(folder, settings)),
            "--host", "127.0.0.1", "--port", str(port), "--num_workers", str(processors),
            "--timeout_worker_healthcheck", _HEALTHCHECK_SECONDS,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            env=_environment(litellm, variables), cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        await _until_ready(port, process, log)
        yield port, process.pid
    finally:
        await _stop(process)


def _environment(litellm: LiteLLM, variables: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # The generator of the database's client is a program of the environment.
    path = os.pathsep.join([str(litellm.environment / "bin"), inherited.get("PATH", os.defpath)])
    return {**inherited, **_ENVIRONMENT, **variables, "PATH": path}


def _write_config(folder: Path, settings: Mapping[str, Any]) -> Path:
    # JSON is YAML.
    path = folder / "config.yaml"
    path.write_text(json.dumps(settings, indent=2))
    return path


async def _until_ready(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"http://127.0.0.1:{port}/health/readiness") as response:
                    if response.status == 200:
                        return
            if process.returncode is not None or time.monotonic() > deadline:
                state = "has ended" if process.returncode is not None else f"is not ready after {_START_SECONDS:g} s"
                said = await asyncio.to_thread(log.read_text, errors="replace")
                raise ProxyEnded(f"LiteLLM's proxy {state}: {said[-1500:]}")
            await asyncio.sleep(0.25)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    # Workers that have outlived it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
