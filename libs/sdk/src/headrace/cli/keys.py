"""`headrace keys`."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.output import ERR, OUT, JsonOption, moment, plain_data, print_json, table
from headrace.cli.running import open_client, run
from headrace.results import Key, NewKey

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys. Needs a key with the scope admin.")


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Tenant of the key.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="tasks, skills, costs, preferences or admin; repeatable. Default: the first three."),
    ] = None,
    per_minute: Annotated[int | None, typer.Option(help="Requests per minute; by default no limit.", min=1)] = None,
    json_output: JsonOption = False,
) -> None:
    """Create a key. It is printed only this once, on stdout; only a keyed hash of it is stored.

    Its signing key, for producers that write to Kafka, is printed on stderr if that is a terminal, and by --json.

    \b
    Examples:
      headrace keys create acme --name ci --scope tasks
      export HEADRACE_API_KEY=$(headrace keys create acme)
    """
    made = run(_create(tenant, name, scope, per_minute))
    if json_output:
        print_json({**plain_data(made.info), "key": made.key, "signing_key": made.signing_key})
        return
    print(made.key)
    ERR.print(f"key {made.info.id} of tenant {made.info.tenant}, scopes: {', '.join(made.info.scopes)}", style="dim")
    # Where stderr is a log, the secret would stay there.
    if made.signing_key is not None and ERR.is_terminal:
        ERR.print(f"for producers on Kafka: HEADRACE_SIGNING_KEY={made.signing_key}", style="dim", soft_wrap=True)


async def _create(tenant: str, name: str, scopes: list[str] | None, per_minute: int | None) -> NewKey:
    async with open_client() as client:
        return await client.keys.create(tenant, name=name, scopes=scopes, requests_per_minute=per_minute)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, json_output: JsonOption = False
) -> None:
    """All keys, including revoked ones; never their secrets."""
    keys = run(_list(tenant))
    if json_output:
        print_json(keys)
        return
    rows = table("key", "tenant", "name", "may", "a minute", "made", "revoked", right=["a minute"], whole=["key"])
    for key in keys:
        rate = "" if key.requests_per_minute is None else str(key.requests_per_minute)
        rows.add_row(
            key.id, key.tenant, key.name, ", ".join(key.scopes), rate, moment(key.created_at), moment(key.revoked_at)
        )
    OUT.print(rows)


async def _list(tenant: str | None) -> tuple[Key, ...]:
    async with open_client() as client:
        return await client.keys.list(tenant)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="Id of the key, as listed.")]) -> None:
    """Revoke a key, everywhere within moments and permanently."""
    run(_revoke(key_id))
    ERR.print(f"{key_id} is revoked", style="dim")


async def _revoke(key_id: str) -> None:
    async with open_client() as client:
        await client.keys.revoke(key_id)
