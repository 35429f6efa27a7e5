"""`headrace topics`."""

from __future__ import annotations

from typing import Annotated

import typer
from headrace_contracts.users import OPERATOR, PROVISIONER

from headrace.cli.output import OUT, JsonOption, print_json, table
from headrace.cli.running import FAILED, USAGE, addresses, fail, run

app = typer.Typer(
    no_args_is_help=True,
    help="The topics as they are, and more partitions for them. Connects to Kafka directly, subject to its ACLs; needs "
    "no API key.",
)


@app.command("list")
def list_topics(json_output: JsonOption = False) -> None:
    """All topics, those of sites included: partitions, ids, and what differs from the specifications.

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


@app.command()
def configure(
    topics: Annotated[list[str] | None, typer.Argument(help="Only these topics; by default all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
) -> None:
    """Give topics the settings of their specifications, where theirs differ. Needs the right to alter their configs.

    Settings that no specification names stay as they are. Where another tool keeps the settings (a KafkaTopic of
    Strimzi), change them there.

    \b
    Examples:
      headrace topics configure --dry-run
      headrace topics configure tasks.journal
    """
    run(_configure(topics or [], dry_run=dry_run))


async def _list(*, json_output: bool) -> None:
    from headrace_streams.present_topics import expected_topics
    from headrace_streams.resizing import differences

    from headrace.connecting import Cluster

    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        prefix = cluster.codec.topic_prefix
        admin = cluster.log.admin()
        specs = await expected_topics(admin, prefix)
        described = await admin.describe_topics([prefix + name for name in specs])
    differs = differences(described, prefix, specs)
    rows = [(name, described.get(prefix + name), differs.get(name)) for name in specs]
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

    async with Cluster.at(addresses(), user=PROVISIONER) as cluster:
        try:
            prefix = cluster.codec.topic_prefix
            steps = await extend(cluster.log.admin(), what, partitions, prefix, say=say, dry_run=dry_run)
        except ResizeRefused as error:
            raise fail(str(error), USAGE) from None
        except RecordRefused as error:
            raise fail(f"{error}; the same command goes on from here", FAILED) from None
    if not steps:
        OUT.print(f"nothing to do: {what} has {partitions} partitions")


async def _configure(topics: list[str], *, dry_run: bool) -> None:
    from headrace_streams.errors import RecordRefused
    from headrace_streams.present_topics import expected_topics
    from headrace_streams.topic_settings import differing

    from headrace.connecting import Cluster, spec_named

    async with Cluster.at(addresses(), user=PROVISIONER) as cluster:
        prefix, admin = cluster.codec.topic_prefix, cluster.log.admin()
        specs = [spec_named(topic, prefix) for topic in topics] or list((await expected_topics(admin, prefix)).values())
        names = [prefix + spec.name for spec in specs]
        present, replication = await admin.topic_settings(names), await admin.replication(names)
        if topics and (unknown := sorted(set(names) - present.keys())):
            raise fail(f"missing, or not to be asked about by this user: {', '.join(unknown)}", FAILED)
        steps = {
            name: found
            for name, spec in zip(names, specs, strict=True)
            if name in present and (found := differing(spec, present[name], replication.replicas_of(name)))
        }
        for name, found in steps.items():
            for each in found:
                becomes = "would become" if dry_run else "becomes"
                OUT.print(f"{name}: {each.key} {each.present} {becomes} {each.wanted}", soft_wrap=True)
            if not dry_run:
                try:
                    await admin.change_topic_settings({name: {each.key: each.wanted for each in found}})
                except RecordRefused as error:
                    raise fail(f"{error}; the same command goes on from here", FAILED) from None
    if not steps:
        OUT.print("nothing to do: all settings are as specified")
