"""The cases for real Ollama servers, on simulated ones."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.node_settings import NodeSettings

SCRIPT = Path(__file__).parents[2] / "real/ollama_cases.py"


async def told(simulator: Simulator, **environment: str) -> tuple[int | None, str]:
    hosts = " ".join(simulator.ollama_url(name) for name in simulator.nodes)
    values = {**os.environ, "OLLAMA_HOSTS": hosts, "OLLAMA_PATIENCE": "20", **environment}
    values["PYTHONPATH"] = str(SCRIPT.parents[1] / "support")
    process = await asyncio.create_subprocess_exec(sys.executable, SCRIPT, stdout=asyncio.subprocess.PIPE, env=values)
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.mark.long
async def test_each_case_is_told_and_one_that_is_wrong_is_seen() -> None:
    nodes = dict.fromkeys(("a", "b"), ("gemma2:2b", "phi3:3.8b", "gpt-oss:20b"))
    servers = {"a": NodeSettings(memory_gb=6.0), "b": NodeSettings()}
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=nodes, servers=servers)) as simulator:
        code, table = await told(
            simulator, OLLAMA_SECOND_MODEL="phi3:3.8b", OLLAMA_HUGE_MODEL="gpt-oss:20b",
            OLLAMA_THINKING_MODEL="gpt-oss:20b",
        )  # fmt: skip
        assert (code, table.count(" ok "), table.count(" WRONG ")) == (0, 10, 0), table
        assert table.count("needs OLLAMA_STOP_n") == 2
        simulator.nodes["b"].settings.removed = frozenset({"gemma2:2b"})
        code, table = await told(simulator)
        assert code == 1
        assert "each node answers" in table.split(" WRONG ")[0].splitlines()[-1]
