"""`headrace models`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from headrace.cli.output import ERR, OUT, JsonOption, print_json, table
from headrace.cli.running import FAILED, addresses, open_client, operator_name, run
from headrace.cli.timeparse import time_before
from headrace.connecting import Cluster
from headrace.costs import DemandOutlook
from headrace.errors import HeadraceError
from headrace.nodes import newest_events, now_ms
from headrace_contracts.events import (
    PlacementAction,
    PlacementPhase,
    PlacementRequested,
    PlacementStatus,
)
from headrace_contracts.model_settings import LONGEST_CONTEXT, SHORTEST_CONTEXT, ModelSettingInvalid, duration
from headrace_contracts.topics import FLEET_STATUS, NODES_ANNOUNCED, NODES_DRAINED
from headrace_contracts.users import OPERATOR
from headrace_local_worker.decide.balancing import tagged
from headrace_router.adapters.policy_file import PolicyInvalid, load_policy
from headrace_router.decide.policy import Policy
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from headrace_devstack.models.forecast_check import METHODS, PATTERNS, errors
from headrace_devstack.models.plan import PlacementNode, PlacementPlan, plan
from headrace_devstack.models.requests import NotPlaced, Placement, place
from headrace_devstack.models.state import (
    MEMORY_LABEL,
    demands,
    expected_demands,
    load_settings,
    placement_nodes,
    stated_sizes,
)

app = typer.Typer(no_args_is_help=True, help="Models of our own nodes: see, plan, pull, load, unload and remove them.")

_VALID_SECONDS: Final = 4 * 3600.0
_SIMULATED_SEEDS: Final = 5

Model = Annotated[str, typer.Argument(help="Name of the model, as in gemma2:2b.")]
Nodes = Annotated[
    list[str] | None, typer.Option("--node", "-n", help="A node; repeatable. By default all that this is of use to.")
]
PolicyOption = Annotated[
    Path | None, typer.Option(help="Routing policy. [HEADRACE_POLICY_FILE, default: the one that ships]")
]


@app.command("list")
def list_models(json_output: JsonOption = False) -> None:
    """Which models are on which nodes, and which of them are in memory."""
    nodes = run(_nodes())
    if json_output:
        print_json([{**asdict(node), "loaded": sorted(node.loaded)} for node in nodes])
        return
    rows = table("node", "model", "size", "in memory", right=["size"], whole=["node"])
    for node in nodes:
        for model, size in sorted(node.on_disk.items()):
            rows.add_row(node.name, model, _size(size), "yes" if model in node.loaded else "")
    OUT.print(rows)


@app.command("plan")
def plan_models(
    policy: PolicyOption = None,
    since: Annotated[str, typer.Option(help="How old the use may be that tells the demand for roles.")] = "24h",
    ahead: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=167,
            help="Plan for what is expected of this hour and so many that follow (forecast), not for past use; "
            "models that no role is expected to use then leave the memory.",
        ),
    ] = None,
    pull_copies: Annotated[
        bool, typer.Option("--pull-copies", help="Also pull further copies, to nodes with memory left.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Carry the plan out.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Which models should be on which nodes by policy, demand and memory, and what to do for that. Changes nothing
    without --apply; never removes a model from a disk.

    A node's memory is known from its agent (`headrace node`), or from the label memory_gb in the worker's list of
    nodes; where nobody tells, nothing is added.

    \b
    Examples:
      headrace models plan
      headrace models plan --since 7d --pull-copies --apply
      headrace models plan --ahead 1 --apply     # every hour: loads before the hour of need, unloads after it
    """
    nodes, made = run(_plan(policy, since, ahead, pull_copies=pull_copies))
    if json_output:
        print_json(made)
    else:
        _print_plan(nodes, made)
    if apply and made.changes:
        steps = [(step.node, step.model, PlacementAction(step.action)) for step in made.changes]
        run(_place([_placement(node, model, action, _policy(policy)) for node, model, action in steps]))
    elif made.changes and not json_output:
        ERR.print("nothing was changed: --apply carries it out", style="dim")
    if made.unserved:
        raise typer.Exit(FAILED)


@app.command("forecast")
def forecast_models(
    by: Annotated[str, typer.Option(help="model or role.")] = "model",
    hours: Annotated[int, typer.Option(min=1, max=168, help="For how many hours from the present one on.")] = 24,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Show instead how far it is off on simulated weeks, beside baselines.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Which calls are expected to run at once, hour by hour, by the hours of the past six weeks.

    \b
    Examples:
      headrace models forecast --hours 48
      headrace models forecast --by role --json
      headrace models forecast --simulate
    """
    if simulate:
        _print_errors(json_output=json_output)
        return
    outlook = run(_outlook(by, hours))
    if json_output:
        print_json(outlook)
        return
    names = ("role",) if by == "role" else ("provider", "model")
    rows = table(
        *names, "now", "next hour", "most", "at", "on average", right=["now", "next hour", "most", "on average"]
    )
    for one in outlook.expected:
        busy = one.busy_calls or (0.0,)
        most = max(range(len(busy)), key=lambda place: busy[place])
        at = "" if outlook.start is None else f"{outlook.start + timedelta(hours=most):%a %H:%M}"
        shown = [f"{calls:.2f}" for calls in (busy[0], busy[min(1, len(busy) - 1)], busy[most])]
        rows.add_row(*(one.key.get(name, "") for name in names), *shown, at, f"{sum(busy) / len(busy):.2f}")
    OUT.print(rows)
    ERR.print("calls that run at once on average, in UTC", style="dim")


@app.command()
def pull(model: Model, node: Nodes = None) -> None:
    """Put a model on the disks of nodes; by default of all that do not have it.

    \b
    Example:
      headrace models pull gemma2:2b --node big
    """
    run(_place_at(PlacementAction.PULL, model, node))


@app.command()
def load(
    model: Model,
    node: Nodes = None,
    policy: PolicyOption = None,
    num_ctx: Annotated[
        int | None,
        typer.Option(min=SHORTEST_CONTEXT, max=LONGEST_CONTEXT, help="Length of the context, instead of the policy's."),
    ] = None,
    keep_alive: Annotated[
        str | None, typer.Option(help="How long it stays without a call, as 2h, instead of the policy's.")
    ] = None,
) -> None:
    """Put a model into the memory of nodes; by default of all that have it on disk.

    It is loaded as the calls will need it, by the policy's num_ctx and keep_alive: Ollama loads a model again for a
    call with a longer context.
    """
    try:
        kept = None if keep_alive is None else duration("--keep-alive", keep_alive)
    except ModelSettingInvalid as error:
        raise typer.BadParameter(str(error)) from None
    by_policy = _placement("", model, PlacementAction.LOAD, _policy(policy))
    chosen = replace(
        by_policy, num_ctx=by_policy.num_ctx if num_ctx is None else num_ctx, keep_alive=kept or by_policy.keep_alive
    )
    run(_place_at(PlacementAction.LOAD, model, node, chosen))


@app.command()
def unload(model: Model, node: Nodes = None) -> None:
    """Take a model out of the memory of nodes, once its calls have ended."""
    run(_place_at(PlacementAction.UNLOAD, model, node))


@app.command()
def remove(
    model: Model,
    node: Annotated[list[str], typer.Option("--node", "-n", help="A node; repeatable.")],
) -> None:
    """Take a model off the disks of nodes, which must be named."""
    run(_place_at(PlacementAction.REMOVE, model, node))


def _policy(file: Path | None) -> Policy:
    named = os.environ.get("HEADRACE_POLICY_FILE")
    try:
        return load_policy(file or (Path(named) if named else None))
    except PolicyInvalid as error:
        ERR.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(FAILED) from None


def _placement(node: str, model: str, action: PlacementAction, policy: Policy) -> Placement:
    if action is not PlacementAction.LOAD:
        return Placement(node, model, action)
    settings = load_settings(policy, model)
    return Placement(node, model, action, settings.num_ctx, settings.keep_alive)


async def _nodes() -> tuple[PlacementNode, ...]:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        reports, announced, drained = await newest_events(cluster, (FLEET_STATUS, NODES_ANNOUNCED, NODES_DRAINED))
    return placement_nodes(reports.values(), announced, drained, now_ms())


async def _plan(
    file: Path | None, since: str, ahead: int | None, *, pull_copies: bool
) -> tuple[tuple[PlacementNode, ...], PlacementPlan]:
    policy = _policy(file)
    nodes = await _nodes()
    if ahead is not None:
        outlook = await _outlook("role", ahead + 1)
        wanted = expected_demands(policy, outlook.expected)
        return nodes, plan(nodes, wanted, stated_sizes(policy), pull_copies=pull_copies, unload_unasked=True)
    used: dict[str, int] = {}
    try:
        async with open_client() as client:
            report = await client.costs(by=("role",), since=time_before(since))
        for group in report.groups:
            role, usage = group.key.get("role") or "", group.sums.usage
            used[role] = used.get(role, 0) + usage.input_tokens + usage.output_tokens
    except HeadraceError as error:
        ERR.print(f"all roles count alike: {error}", style="yellow", markup=False, soft_wrap=True)
    return nodes, plan(nodes, demands(policy, used), stated_sizes(policy), pull_copies=pull_copies)


async def _outlook(by: str, hours: int) -> DemandOutlook:
    async with open_client() as client:
        return await client.costs.forecast(by=by, hours=hours)


def _print_errors(*, json_output: bool) -> None:
    found = errors(_SIMULATED_SEEDS)
    if json_output:
        print_json(found)
        return
    rows = table("demand", *METHODS, right=list(METHODS))
    for pattern in PATTERNS:
        of = {error.method: error.share for error in found if error.pattern == pattern.name}
        rows.add_row(pattern.name, *(f"{of[method]:.0%}" for method in METHODS))
    OUT.print(rows)
    ERR.print(
        "sum of what the expectation of each hour is off, as a share of all demand: two weeks of forecasts for a day, "
        "made at midnight, after four weeks of history",
        style="dim", soft_wrap=True,
    )  # fmt: skip


def _print_plan(nodes: Sequence[PlacementNode], made: PlacementPlan) -> None:
    rows = table("node", "do", "model", "size", "why", right=["size"], whole=["node"])
    for step in made.steps:
        style = "dim" if step.action == "keep" else None
        rows.add_row(step.node, step.action, step.model, _size(step.size_bytes), step.reason, style=style)
    OUT.print(rows)
    for node in nodes:
        if node.memory_bytes is None:
            ERR.print(
                f"memory of {node.name} is unknown, so nothing is added there: run its agent, or add "
                f";{MEMORY_LABEL}=16 to it in the worker's list of nodes", style="yellow", markup=False, soft_wrap=True,
            )  # fmt: skip
    if made.unserved:
        ERR.print(f"no node has room for {', '.join(made.unserved)}", style="yellow", markup=False, soft_wrap=True)


async def _place_at(
    action: PlacementAction, model: str, named: Sequence[str] | None, settings: Placement | None = None
) -> None:
    wanted = tagged(model)
    nodes = {node.name: node for node in await _nodes()}
    if unknown := sorted(set(named or ()) - nodes.keys()):
        raise NotPlaced(f"no Ollama node that works is called {', '.join(unknown)}; there are {', '.join(nodes)}")
    chosen = list(named or (name for name, node in nodes.items() if _is_of_use(action, node, wanted)))
    if not chosen:
        ERR.print("there is nothing to do", style="dim")
        return
    asked = settings or Placement("", model, action)
    await _place([replace(asked, node=name) for name in chosen])


def _is_of_use(action: PlacementAction, node: PlacementNode, model: str) -> bool:
    match action:
        case PlacementAction.PULL:
            return model not in node.on_disk
        case PlacementAction.LOAD:
            return model in node.on_disk and model not in node.loaded
        case PlacementAction.UNLOAD:
            return model in node.loaded
        case _:
            return False


async def _place(placements: Sequence[Placement]) -> None:
    bars = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TextColumn("{task.fields[said]}", markup=False), console=ERR,
    )  # fmt: skip
    shown: dict[str, TaskID] = {}

    def on_status(request: PlacementRequested, status: PlacementStatus) -> None:
        name = request.request_id
        if name not in shown:
            shown[name] = bars.add_task(f"{request.action} {request.model} at {request.node}", total=None, said="")
        done = status.phase is PlacementPhase.DONE
        total = status.total_bytes or (1 if done else None)
        bars.update(
            shown[name], total=total, completed=total if done else status.completed_bytes or 0,
            said="" if done else status.reason,
        )  # fmt: skip

    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        with bars:
            ended = await place(
                cluster, placements, who=operator_name(), now_ms=now_ms(), valid_seconds=_VALID_SECONDS,
                on_status=on_status,
            )  # fmt: skip
    failed = [
        f"{request.action} {request.model} at {request.node}: {status.reason}"
        for request, status in ended
        if status.phase is PlacementPhase.FAILED
    ]
    if failed:
        raise NotPlaced("; ".join(failed))


def _size(size: int | None) -> str:
    return "" if not size else f"{size / 1e9:.1f} GB"
