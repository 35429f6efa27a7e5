"""Assembles the commands. Other packages add theirs by entry points of the group `headrace.commands`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Final

import typer

from headrace.cli import (
    chat,
    costs,
    dlq,
    doctor,
    journal,
    keys,
    node,
    nodes,
    preferences,
    schemas,
    skills,
    submit,
    switches,
    tail,
    tasks,
    topics,
)
from headrace.cli.running import EXIT_CODES, use_stack

PLUGINS: Final = "headrace.commands"

_EPILOG: Final = (
    "Addresses and key come from HEADRACE_URL, HEADRACE_SKILLS_URL, HEADRACE_COSTS_URL, HEADRACE_API_KEY, "
    "HEADRACE_BOOTSTRAP_SERVERS and HEADRACE_REGISTRY_URL, or from the .headrace/stack.json of a running stack, found "
    f"in this folder or a parent folder. {EXIT_CODES}"
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"headrace {version('headrace')}")
        raise typer.Exit


def _options(
    stack: Annotated[
        Path | None,
        typer.Option(help="Use the addresses in this stack.json.", envvar="HEADRACE_STACK", dir_okay=False),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Headrace carries the work of AI agents on Apache Kafka: submit tasks, read topics, share skills, see costs."""
    use_stack(stack)


def build(plugins: Sequence[EntryPoint]) -> typer.Typer:
    """The command line, including these plugin commands."""
    app = typer.Typer(
        name="headrace",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        epilog=_EPILOG,
        callback=_options,
    )
    for plugin in plugins:
        added = plugin.load()
        if isinstance(added, typer.Typer):
            app.add_typer(added, name=plugin.name)
        else:
            app.command(plugin.name)(added)
    app.command("submit")(submit.submit)
    app.command("chat")(chat.chat)
    app.add_typer(tasks.app, name="tasks")
    app.command("tail")(tail.tail)
    app.add_typer(skills.app, name="skills")
    app.command("costs")(costs.costs)
    app.add_typer(preferences.app, name="preferences")
    app.add_typer(keys.app, name="keys")
    app.command("node")(node.node)
    app.add_typer(nodes.app, name="nodes")
    app.add_typer(switches.app, name="switches")
    app.add_typer(dlq.app, name="dlq")
    app.add_typer(journal.app, name="journal")
    app.add_typer(schemas.app, name="schemas")
    app.add_typer(topics.app, name="topics")
    app.command("doctor")(doctor.doctor)
    return app


_OWN: Final = frozenset({
    "submit", "chat", "tasks", "tail", "skills", "costs", "preferences", "keys", "dlq", "journal", "schemas", "topics",
    "doctor", "node", "nodes", "switches",
})  # fmt: skip


def _plugins(arguments: Sequence[str]) -> list[EntryPoint]:
    """The plugin commands; if the user named one, only that one, since loading them takes time."""
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named in _OWN or "--version" in arguments:
        return []
    found = sorted(entry_points(group=PLUGINS), key=lambda plugin: plugin.name, reverse=True)
    return [plugin for plugin in found if plugin.name == named] or found


def main() -> None:
    """The program `headrace`."""
    try:
        build(_plugins(sys.argv[1:]))()
    except BrokenPipeError:
        # The reader of our output has closed it; what is left in the buffer must not cause an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
