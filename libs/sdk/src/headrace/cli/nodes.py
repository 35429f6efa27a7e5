"""`headrace nodes`."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Annotated, Final

import typer
from headrace_contracts.events import NodeDrained
from headrace_contracts.node_keys import NodeKey, NodeKeyInvalid
from headrace_contracts.users import OPERATOR
from rich.text import Text

from headrace.cli.output import ERR, OUT, JsonOption, escaped, moment, print_json, table
from headrace.cli.running import USAGE, addresses, fail, operator_name, run
from headrace.connecting import Cluster
from headrace.node.benchmark import Level, measure, suggested_slots
from headrace.nodes import NodeUnknown, NodeView, drain_node, read_node, read_nodes, undrain_node
from headrace.times import utc

app = typer.Typer(no_args_is_help=True, help="Nodes: list, drain and measure them, and make keys for their agents.")

Node = Annotated[str, typer.Argument(help="Name of the node, as `headrace nodes list` shows it.")]
_PEPPER: Final = "HEADRACE_KEY_PEPPER"
_GIBIBYTE: Final = 2**30
_CLOUD: Final = "cloud"
"""Models of providers are always in memory, as far as anybody can tell."""
_RELEASE: Final = "version"
"""A label that workers add: the release of Ollama, which says nothing of the machine."""


@app.command("list")
def list_nodes(json_output: JsonOption = False) -> None:
    """All nodes and providers: whether they work and why not, what they run, and what they are made of."""
    views = run(_list())
    if json_output:
        print_json(views)
        return
    numbers = ["slots", "tokens/s"]
    rows = table("node", "place", "site", "state", "in memory", *numbers, "hardware", right=numbers, whole=["node"])
    for view in views:
        style = None if view.healthy and view.drained is None else "yellow" if view.drained is not None else "red"
        rows.add_row(
            view.node, view.place, view.site, _styled(view.state, style),
            ", ".join(view.loaded) if view.place != _CLOUD else "",
            f"{view.busy}/{view.slots}" if view.slots else "", _speed(view.tokens_per_second), hardware_text(view),
        )  # fmt: skip
    OUT.print(rows)


async def _list() -> tuple[NodeView, ...]:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        return await read_nodes(cluster)


@app.command()
def show(node: Node, json_output: JsonOption = False) -> None:
    """Everything that is known of one node."""
    view = run(_show(node))
    if json_output:
        print_json(view)
        return
    rows = table("", "")
    rows.show_header = False
    rows.add_row("state", view.state)
    if view.drained is not None:
        rows.add_row("drained", f"{view.drained.reason} ({view.drained.drained_by}, {_when(view.drained.drained_at)})")
    rows.add_row("place", f"{view.place}{f', site {view.site}' if view.site else ''}")
    rows.add_row("workers", ", ".join(view.workers) or "(none)")
    rows.add_row("slots", f"{view.busy} of {view.slots} busy")
    rows.add_row("tokens/s", _speed(view.tokens_per_second))
    rows.add_row("hardware", hardware_text(view))
    rows.add_row("labels", ", ".join(f"{name}={value}" for name, value in sorted(view.hardware.items())))
    said = view.announced
    if said is not None:
        rows.add_row("address", said.url)
        rows.add_row("agent", f"{said.agent_version} on {said.host}, since {_when(said.started_at)}")
        rows.add_row("Ollama", said.ollama_version or said.reason)
        if said.running is not None:
            rows.add_row("proxy", f"{said.running} running, {said.waiting} waiting")
    rows.add_row("in memory", ", ".join(view.loaded))
    rows.add_row("models", ", ".join(view.models))
    OUT.print(rows)


async def _show(node: str) -> NodeView:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        return await read_node(cluster, node)


@app.command()
def drain(
    node: Node,
    reason: Annotated[str, typer.Option(help="Why, for those who wonder.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Give a node no new calls until it is undrained; those that run finish. Holds at all workers, and after restarts.

    \b
    Example:
      headrace nodes drain big --reason "more memory"
    """
    known, drained = run(_drain(node, reason))
    if json_output:
        print_json(drained)
        return
    if not known:
        ERR.print(f"no worker and no agent knows a node {escaped(node)}; it is drained when it comes", style="yellow")
    ERR.print(
        f"{node} gets no new calls; `headrace nodes show {node}` says how many still run", style="dim", markup=False
    )


async def _drain(node: str, reason: str) -> tuple[bool, NodeDrained]:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        try:
            view = await read_node(cluster, node)
            known = bool(view.workers) or view.announced is not None
            if view.place == _CLOUD:
                raise ValueError(f"{node} is a provider, not a node: `headrace switches off provider/{node}` does it")
        except NodeUnknown:
            known = False
        return known, await drain_node(cluster, node, reason=reason, who=operator_name())


@app.command()
def undrain(node: Node) -> None:
    """Let a drained node have calls again."""
    was_drained = run(_undrain(node))
    if not was_drained:
        raise fail(f"{node} is not drained")
    ERR.print(f"{node} gets calls again", style="dim", markup=False)


async def _undrain(node: str) -> bool:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        try:
            view = await read_node(cluster, node)
        except NodeUnknown:
            return False
        if view.drained is None:
            return False
        await undrain_node(cluster, node)
        return True


@app.command()
def key(
    node: Annotated[str, typer.Argument(help="Name of the node: letters, digits, dots, dashes, underscores.")],
) -> None:
    """Print the key of a node's agent, for HEADRACE_NODE_KEY there. It announces this node and no other.

    Follows from HEADRACE_KEY_PEPPER, which must be set here, and only here.
    """
    secret = os.environ.get(_PEPPER, "")
    if not secret:
        raise fail(f"{_PEPPER} is not set: keys of nodes follow from the installation's secret", USAGE)
    try:
        print(NodeKey.of(secret, node))
    except NodeKeyInvalid as error:
        raise fail(str(error), USAGE) from None


@app.command()
def benchmark(
    node: Annotated[str, typer.Argument(help="Name of a node with an agent, or the address of any node.")],
    model: Annotated[str | None, typer.Option(help="By default one that is in memory.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure a node with 1, 2 and 4 calls at once, past all queues, and suggest its slots.

    It takes the node's time: drain it first if others wait for it. HEADRACE_NODE_TOKEN, and HEADRACE_NODE_TLS_CA, _CERT
    and _KEY say how to be let in, as for workers.
    """
    measured, levels = run(_benchmark(node, model))
    slots = suggested_slots(levels)
    if json_output:
        print_json({"model": measured, "levels": levels, "slots": slots})
        return
    columns = ["calls at once", "first token", "prompt tokens/s", "tokens/s of a call", "tokens/s of all"]
    rows = table(*columns, right=columns)
    for level in levels:
        rows.add_row(
            str(level.parallel), f"{level.first_token_seconds:.2f} s", _speed(level.prompt_per_second),
            _speed(level.tokens_per_second), f"{level.total_per_second:.1f}",
        )  # fmt: skip
    OUT.print(rows)
    OUT.print(f"{measured}: {slots} slots (set OLLAMA_NUM_PARALLEL={slots} there as well)", markup=False)


async def _benchmark(node: str, model: str | None) -> tuple[str, tuple[Level, ...]]:
    url = node.rstrip("/")
    if "://" not in node:
        async with Cluster.at(addresses(), user=OPERATOR) as cluster:
            view = await read_node(cluster, node)
        if view.announced is None:
            raise NodeUnknown(f"{node} has no agent that announces its address: give the address, as http://host:11434")
        url = view.announced.url
    token = os.environ.get("HEADRACE_NODE_TOKEN", "").strip() or None
    return await measure(url, model, token=token, tls=_tls())


def _tls() -> ssl.SSLContext | None:
    ca, certificate, private = (os.environ.get(f"HEADRACE_NODE_TLS_{part}") for part in ("CA", "CERT", "KEY"))
    if not ca and not certificate:
        return None
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if certificate:
            context.load_cert_chain(Path(certificate), Path(private) if private else None, password="")
    except (OSError, ValueError) as error:
        raise ValueError(f"HEADRACE_NODE_TLS_CA, _CERT and _KEY cannot be used: {error}") from error
    return context


def hardware_text(view: NodeView) -> str:
    """What a node is made of, in one line."""
    said = view.announced
    parts = []
    if said is not None:
        parts += [f"{said.cpus} CPUs"] if said.cpus else []
        parts += [f"{said.memory_bytes / _GIBIBYTE:.0f} GiB"] if said.memory_bytes else []
        for gpu in said.gpus:
            memory = f" {gpu.memory_bytes / _GIBIBYTE:.0f} GiB" if gpu.memory_bytes else ""
            parts.append(f"{gpu.name}{memory}")
        parts += [f"{said.watts:.0f} W"] if said.watts is not None else []
    labels = [f"{name}={value}" for name, value in sorted(view.hardware.items()) if name != _RELEASE]
    return ", ".join([*parts, *labels])


def _speed(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f"{tokens_per_second:.1f}"


def _styled(text: str, style: str | None) -> Text:
    return Text(text, style or "")


def _when(milliseconds: int) -> str:
    return moment(utc(milliseconds))
