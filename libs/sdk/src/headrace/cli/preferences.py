"""`headrace preferences`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from headrace.cli.output import ERR, OUT, JsonOption, print_json, table
from headrace.cli.running import open_client, run
from headrace.results import Preferences

app = typer.Typer(no_args_is_help=True, help="Show and set where work may run.")

User = Annotated[str, typer.Option(help="One user of the tenant; by default, the tenant's own defaults.")]


@app.command()
def get(user: User = "", json_output: JsonOption = False) -> None:
    """Show the effective preferences, and which record they come from."""
    _show(run(_get(user)), json_output)


async def _get(user: str) -> Preferences:
    async with open_client() as client:
        return await client.preferences(user)


@app.command("set")
def set_preferences(
    mode: Annotated[str | None, typer.Option(help="local, cloud or hybrid.")] = None,
    privacy_level: Annotated[
        str | None,
        typer.Option(help="high (sensitive), standard (at least internal), low (public unless a task demands more)."),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Provider to try first; empty for none.")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Provider that internal content may go to; repeatable. Replaces the list."),
    ] = None,
    allow_none: Annotated[bool, typer.Option("--allow-none", help="Internal content stays on our nodes.")] = False,
    user: User = "",
    json_output: JsonOption = False,
) -> None:
    """Change the given preferences, and keep the others. Users only raise what their tenant demands.

    Needs a key with the scope preferences, or tasks to raise a user's.

    \b
    Examples:
      headrace preferences set --mode hybrid --privacy-level standard --allow groq --allow anthropic
      headrace preferences set --user ann --mode local
    """
    run(_set(user, mode, privacy_level, provider, [] if allow_none else allow, json_output))


@app.command("remove")
def remove_preferences(user: User = "") -> None:
    """Remove the tenant's record, or with --user that of one of its users, so that nothing is demanded by it.

    Needs a key with the scope preferences.
    """
    run(_remove(user))


async def _remove(user: str) -> None:
    async with open_client() as client:
        await client.remove_preferences(user)
    ERR.print(f"the preferences of {user or 'the tenant'} are removed", style="dim", markup=False)


async def _set(
    user: str, mode: str | None, level: str | None, provider: str | None, allowed: list[str] | None, json_output: bool
) -> None:
    async with open_client() as client:
        now = await client.preferences(user)
        wanted = replace(
            now,
            user=user,
            ai_mode=mode or now.ai_mode,
            privacy_level=level or now.privacy_level,
            preferred_provider=now.preferred_provider if provider is None else provider or None,
            allowed_providers=now.allowed_providers if allowed is None else tuple(allowed),
        )
        _show(await client.set_preferences(wanted), json_output)


def _show(preferences: Preferences, json_output: bool) -> None:
    if json_output:
        print_json(preferences)
        return
    rows = table("", "")
    rows.show_header = False
    rows.add_row("mode", preferences.ai_mode or "(default)")
    rows.add_row("privacy level", preferences.privacy_level or "(default)")
    rows.add_row("preferred provider", preferences.preferred_provider or "(none)")
    rows.add_row("internal content may go to", ", ".join(preferences.allowed_providers) or "(our own nodes only)")
    rows.add_row("set by", preferences.source)
    OUT.print(rows)
