"""`headrace switches`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from headrace_contracts.events import SwitchedOff
from headrace_contracts.limits import LONGEST_TEXT
from headrace_contracts.switches import FEATURES, switch_of
from headrace_contracts.users import OPERATOR

from headrace.cli.output import ERR, OUT, JsonOption, moment, print_json, table
from headrace.cli.running import USAGE, addresses, fail, operator_name, run
from headrace.cli.timeparse import duration_option
from headrace.connecting import Cluster
from headrace.nodes import now_ms
from headrace.switches import switch_off, switch_on, switched_off
from headrace.times import utc

app = typer.Typer(
    no_args_is_help=True,
    help="Kill switches: stop calls of a provider or model, a feature, or all tasks of a tenant, within a second.",
)

Switch = Annotated[
    str,
    typer.Argument(
        help="provider/NAME, model/NAME (at every provider), model/PROVIDER/NAME, tenant/NAME, or feature/NAME with "
        f"one of {', '.join(f'{name} ({what})' for name, what in FEATURES.items())}."
    ),
]


@app.command("list")
def list_switches(json_output: JsonOption = False) -> None:
    """What is switched off now, by whom and why."""
    found = run(_list())
    if json_output:
        print_json(list(found))
        return
    if not found:
        ERR.print("nothing is switched off", style="dim")
        return
    rows = table("off", "since", "until", "by", "reason", whole=["off"])
    for off in found:
        rows.add_row(
            f"{off.kind.value}/{off.name}", moment(utc(off.switched_at)),
            "" if off.until is None else moment(utc(off.until)), off.switched_by, off.reason,
        )  # fmt: skip
    OUT.print(rows)


async def _list() -> tuple[SwitchedOff, ...]:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        found = await switched_off(cluster)
    now = now_ms()
    return tuple(off for off in found.values() if off.until is None or now < off.until)


@app.command()
def off(
    switch: Switch,
    reason: Annotated[str, typer.Option(help="Why; callers whose tasks are concerned see it.")] = "",
    last: Annotated[
        str | None,
        typer.Option(
            "--for", help="Switch it on again by itself after this time, as in 30m or 2h.", show_default=False
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Switch something off. Calls that run are finished, none are begun.

    Tasks that may run elsewhere do; others wait until their deadline, or until it is on again. Tasks of a tenant that
    is switched off fail.

    \b
    Examples:
      headrace switches off provider/groq --reason "answers are garbled" --for 2h
      headrace switches off feature/cloud
    """
    if len(reason) > LONGEST_TEXT:
        raise fail(f"the reason has more than {LONGEST_TEXT} characters", USAGE)
    seconds = duration_option(last)
    now = round(datetime.now(UTC).timestamp() * 1000)
    until = None if seconds is None else now + round(seconds * 1000)

    async def switch_it_off() -> SwitchedOff:
        kind, name = switch_of(switch)
        async with Cluster.at(addresses(), user=OPERATOR) as cluster:
            return await switch_off(cluster, kind, name, reason=reason, who=operator_name(), now_ms=now, until_ms=until)

    made = run(switch_it_off())
    if json_output:
        print_json(made)
    else:
        ERR.print(f"{switch} is switched off; `headrace switches on {switch}` ends it", style="dim", markup=False)


@app.command()
def on(switch: Switch) -> None:
    """Switch something on again."""

    async def switch_it_on() -> bool:
        async with Cluster.at(addresses(), user=OPERATOR) as cluster:
            if switch not in await switched_off(cluster):
                return False
            await switch_on(cluster, switch)
            return True

    if not run(switch_it_on()):
        raise fail(f"{switch} is not switched off")
    ERR.print(f"{switch} is on", style="dim", markup=False)
