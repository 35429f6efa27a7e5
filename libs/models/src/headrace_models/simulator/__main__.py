"""`python -m headrace_models.simulator`: run the simulator until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from headrace_models.simulator.catalog import DEFAULT_NODES
from headrace_models.simulator.faults import parse_fault
from headrace_models.simulator.node_settings import SETTING_NAMES, NodeSettings, parse_node_settings
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig


def _node(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, models = text.partition("=")
    listed = tuple(model.strip() for model in models.split(",") if model.strip())
    return name, listed or DEFAULT_NODES["workstation"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m headrace_models.simulator",
        description="Stands in for Ollama, Groq, Anthropic and Tavily; all its answers are marked as simulated.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=11480, help="port to listen on, 0 for a free one (11480)")
    parser.add_argument(
        "--speed",
        type=Speed.parse,
        default=os.environ.get("HEADRACE_SIMULATOR_SPEED", "realistic"),
        help="instant, realistic, or a factor such as 10 (HEADRACE_SIMULATOR_SPEED, else realistic)",
    )
    parser.add_argument(
        "--node",
        type=_node,
        action="append",
        metavar="NAME[=MODEL,...]",
        help="an Ollama node and its models; repeatable (workstation and remote-1)",
    )
    parser.add_argument("--slots", type=int, default=4, help="calls of a loaded model that a node runs at once (4)")
    parser.add_argument(
        "--server",
        type=parse_node_settings,
        action="append",
        default=[],
        metavar="NAME:SETTING=VALUE,...",
        help="how an Ollama node is set, for example workstation:num_parallel=1,memory_gb=8,load_gb_per_second=1; "
        "repeatable; POST /control/nodes/NAME changes it on the run. Settings: " + ", ".join(SETTING_NAMES),
    )
    parser.add_argument("--log", type=Path, help="append what each provider was sent to this file, as JSON lines")
    parser.add_argument("--log-texts", action="store_true", help="log the texts themselves, not only their hashes")
    parser.add_argument(
        "--fault",
        type=parse_fault,
        action="append",
        default=[],
        metavar="PROVIDER:KIND[:COUNT]",
        help="make the next calls of a provider fail, for example groq:rate_limit:3; repeatable",
    )
    return parser


def _servers(arguments: argparse.Namespace) -> dict[str, NodeSettings]:
    found: dict[str, NodeSettings] = {}
    for name, changes in arguments.server:
        found.setdefault(name, NodeSettings(num_parallel=arguments.slots)).change(changes)
    return found


async def _serve(arguments: argparse.Namespace) -> int:
    config = SimulatorConfig(
        host=arguments.host,
        port=arguments.port,
        speed=arguments.speed,
        nodes=dict(arguments.node) if arguments.node else DEFAULT_NODES,
        slots_per_node=arguments.slots,
        servers=_servers(arguments),
        log=arguments.log,
        log_texts=arguments.log_texts,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        simulator = Simulator(config)
        for provider, fault, count in arguments.fault:
            simulator.faults.add(provider, fault, count)
        await simulator.start()
    except OSError as error:
        sys.stderr.write(f"simulator: cannot listen on {arguments.host}:{arguments.port} or write the log: {error}\n")
        return 1
    sys.stdout.write(f"simulator listening on {simulator.url}\n")
    sys.stdout.flush()
    await stopping.wait()
    await simulator.stop()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a signal, 1 when the address is taken."""
    return asyncio.run(_serve(_parser().parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
