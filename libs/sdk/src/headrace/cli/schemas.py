"""`headrace schemas`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from headrace_contracts.users import OPERATOR

from headrace.cli.output import ERR, OUT, JsonOption, print_json, table
from headrace.cli.running import FAILED, USAGE, addresses, fail, run

if TYPE_CHECKING:
    from headrace.schema_ids import IdUse, Repair

app = typer.Typer(
    no_args_is_help=True,
    help="The schema ids in records, and whether the registry still has their schemas under them. Connects to Kafka "
    "and the registry directly, subject to their ACLs; needs no API key.",
)

Records = Annotated[
    int, typer.Option("--records", "-n", min=1, help="Number of newest records of each partition to look at.")
]


@app.command("check")
def check_ids(
    records: Records = 200,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also show what matches.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Compare the ids that records name with the registry: exit code 1 if one of them is lost or given away.

    Keep what --json prints while all is well: `headrace schemas repair --from` needs no records then.

    \b
    Examples:
      headrace schemas check
      headrace schemas check --json > schema-ids.json
    """
    uses = run(_uses(records))
    bad = [use for use in uses if not use.matches]
    if json_output:
        print_json([_document(use) for use in uses])
    else:
        _show(uses if everything else bad)
        OUT.print(f"{len(uses) - len(bad)} of {len(uses)} ids match")
    if bad:
        ERR.print("`headrace schemas repair` brings lost ids back", highlight=False)
        raise typer.Exit(FAILED)


@app.command()
def repair(
    records: Records = 200,
    from_file: Annotated[
        Path | None,
        typer.Option("--from", exists=True, dir_okay=False, help="Take the ids from this output of check --json."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Register the released schemas under the ids that records name, in a registry that has lost them.

    Do it before anything else registers schemas: an id that the registry has given away cannot be given back. Services
    continue by themselves within a minute; records that became dead letters can then be replayed (headrace dlq).

    \b
    Examples:
      headrace schemas repair --dry-run
      headrace schemas repair --from schema-ids.json
    """
    uses = run(_uses(records))
    if from_file is not None:
        uses = [*_from(from_file), *(use for use in uses if use.status == "missing")]
    uses = [use for use in uses if not use.matches]
    if not uses:
        OUT.print("nothing to repair: the registry has every schema under the id that records name")
        return
    _show(uses)
    if dry_run:
        return
    if not yes and not typer.confirm(f"Register {len(uses)} schemas?"):
        raise typer.Exit(FAILED)
    done = run(_repair(uses))
    _tell(done)
    if done.refused:
        raise typer.Exit(FAILED)


def _from(file: Path) -> list[IdUse]:
    from headrace.schema_ids import parse_ids

    try:
        return parse_ids(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise fail(f"{file}: {error}", USAGE) from None


async def _uses(records: int) -> list[IdUse]:
    from headrace.connecting import Cluster, registry_at
    from headrace.schema_ids import check, unreadable

    where = addresses(OPERATOR)
    async with Cluster.at(where, user=OPERATOR) as cluster, registry_at(where) as registry:
        if closed := await unreadable(cluster.log, where.topic_prefix):
            said = f"not looked at, since missing or not to be read by this Kafka user: {', '.join(closed)}"
            ERR.print(said, style="yellow", soft_wrap=True, highlight=False)
        return await check(cluster.log, registry, where.topic_prefix, records=records)


async def _repair(uses: Sequence[IdUse]) -> Repair:
    from headrace.connecting import registry_at
    from headrace.schema_ids import repair

    where = addresses(OPERATOR)
    async with registry_at(where) as registry:
        return await repair(registry, uses, where.topic_prefix)


def _show(uses: Sequence[IdUse]) -> None:
    if not uses:
        return
    shown = table("TOPIC", "ID", "RECORDS", "STATUS", "REGISTRY HAS", "BELONGS THERE", right=("ID", "RECORDS"))
    for use in uses:
        belongs = "" if use.version is None else f"{use.version} {use.version.fingerprint[:12]}"
        shown.add_row(
            use.topic,
            "" if use.schema_id is None else str(use.schema_id),
            str(use.records),
            use.status,
            use.registry_has,
            f"{belongs}; {use.note}" if belongs and use.note else belongs or use.note,
        )
    OUT.print(shown)


def _document(use: IdUse) -> dict[str, Any]:
    return {
        "topic": use.topic,
        "schema_id": use.schema_id,
        "records": use.records,
        "status": use.status,
        "registry_has": use.registry_has,
        "version": None if use.version is None else use.version.version,
        "fingerprint": None if use.version is None else use.version.fingerprint,
        "note": use.note,
    }


def _tell(done: Repair) -> None:
    for lost in done.restored:
        OUT.print(f"{lost.subject}: id {lost.schema_id} has its schema again", highlight=False)
    for subject in done.registered:
        OUT.print(f"{subject}: registered", highlight=False)
    for refused in done.refused:
        OUT.print(f"{refused.lost.subject}: id {refused.lost.schema_id}: {refused.reason}", highlight=False)
    if done.refused:
        OUT.print(
            "What to do: restore the registry from its backup; or empty it, run `headrace schemas repair` before "
            "anything registers a schema, and then start what does (services, provisioning, other teams).",
            highlight=False,
        )
