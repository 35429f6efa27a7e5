"""`headrace topics`."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.output import OUT, JsonOption, print_json, table
from headrace.cli.running import FAILED, USAGE, addresses, fail, run

app = typer.Typer(
    no_args_is_help=True,
    help="The topics as they are, and more partitions for them. Connects to Kafka directly, subject to its ACLs; needs "
    "no API key.",
)


@app.command("list")
def list_topics(json_output: JsonOption = False) -> None:
    """All topics: partitions, ids, and what differs from the specifications.

    \b
    Examples:
      headrace topics list
      headrace topics list --json | jq '.[] | select(.differs != null)'
    """
    run(_list(json_output=json_output))


@app.command()
def resize(
    what: Annotated[str, typer.Argument(help="tasks, skills, or a topic that belongs to neither.")],
    partitions: Annotated[int, typer.Argument(help="Number of partitions it is to have.", min=1)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
) -> None:
    """Add partitions while all services run. There is no way back: Kafka cannot take partitions away.

    Topics that belong together are extended in the order that keeps every task whole: tasks.submitted is the last of
    its group. After an interruption, the same command goes on. Services follow within a minute.

    \b
    Examples:
      headrace topics resize tasks 12
      headrace topics resize usage.recorded 12 --dry-run
    """
    run(_resize(what, partitions, dry_run=dry_run))


async def _list(*, json_output: bool) -> None:
    from headrace_contracts.topics import TOPICS
    from headrace_streams.resizing import differences

    from headrace.connecting import Cluster

    async with Cluster.at(addresses()) as cluster:
        prefix = cluster.codec.topic_prefix
        described = await cluster.log.admin().describe_topics([prefix + name for name in TOPICS])
    differs = differences(described, prefix)
    rows = [(name, described.get(prefix + name), differs.get(name)) for name in TOPICS]
    if json_output:
        print_json([
            {
                "topic": name,
                "partitions": None if found is None else found.partitions,
                "topic_id": None if found is None else found.topic_id,
                "differs": difference,
            }
            for name, found, difference in rows
        ])  # fmt: skip
        return
    made = table("topic", "partitions", "id", "differs", right=("partitions",), whole=("topic", "id"))
    for name, found, difference in rows:
        made.add_row(
            name, "-" if found is None else str(found.partitions), found.topic_id if found else "-", difference
        )
    OUT.print(made)


async def _resize(what: str, partitions: int, *, dry_run: bool) -> None:
    from headrace_streams.errors import RecordRefused
    from headrace_streams.resizing import Extension, ResizeRefused
    from headrace_streams.resizing import resize as extend

    from headrace.connecting import Cluster

    def say(step: Extension) -> None:
        would = "would get" if dry_run else "gets"
        OUT.print(f"{step.topic} has {step.present} partitions and {would} {step.wanted}", soft_wrap=True)

    async with Cluster.at(addresses()) as cluster:
        try:
            prefix = cluster.codec.topic_prefix
            steps = await extend(cluster.log.admin(), what, partitions, prefix, say=say, dry_run=dry_run)
        except ResizeRefused as error:
            raise fail(str(error), USAGE) from None
        except RecordRefused as error:
            raise fail(f"{error}; the same command goes on from here", FAILED) from None
    if not steps:
        OUT.print(f"nothing to do: {what} has {partitions} partitions")
