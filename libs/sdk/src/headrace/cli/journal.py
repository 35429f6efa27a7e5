"""`headrace journal`."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from headrace_contracts.users import CONTENT_READER, OPERATOR

from headrace.cli.output import OUT, JsonOption, moment, print_json, table
from headrace.cli.running import FAILED, USAGE, addresses, fail, operator_name, run
from headrace.times import utc

if TYPE_CHECKING:
    from headrace_streams.journal_inspection import InspectedRecord, JournalVerdict

_BYTES_SHOWN: Final = 16

app = typer.Typer(
    no_args_is_help=True,
    help="The router's journal: look at it, check it, and go on without a record that cannot be read. Connects to "
    "Kafka and the registry directly, subject to their ACLs; needs no API key.",
)

Partition = Annotated[int, typer.Argument(help="Partition of tasks.journal.", min=0)]


@app.command()
def show(
    partition: Partition,
    offset: Annotated[int | None, typer.Option(help="Records around this offset.", min=0)] = None,
    task: Annotated[str | None, typer.Option(help="Only records of this task.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="Number of records.", min=1)] = 20,
    json_output: JsonOption = False,
) -> None:
    """The newest records of a partition, or those around an offset, without the content of tasks.

    \b
    Examples:
      headrace journal show 0
      headrace journal show 0 --offset 1234
      headrace journal show 3 --task 0197c0a2-...
    """
    run(_show(partition, offset, task, count, json_output=json_output))


@app.command()
def verify(
    partition: Annotated[list[int] | None, typer.Argument(help="Only these partitions; by default all.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Read the journal as its next owner would. Exit code 1 if a partition has a record that cannot be read.

    Records that do not count are usual after a router was killed or replaced: readers ignore them.

    \b
    Examples:
      headrace journal verify
      headrace journal verify 0 --json
    """
    run(_verify(partition or [], json_output=json_output))


@app.command()
def skip(
    partition: Partition,
    offset: Annotated[int, typer.Argument(help="Offset of the record that cannot be read.", min=0)],
    reason: Annotated[str, typer.Option(help="Why; recorded in the journal.")],
    by: Annotated[str | None, typer.Option("--by", help="Name to record; by default user@host.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Let the router go on without a record that cannot be read. It takes the partition over within half a minute.

    Only records that cannot be read can be skipped. If it was a decision, that decision is lost: its task may never
    end, or be worked on again. Repair the registry first if it has lost schemas (`headrace schemas check`).

    \b
    Examples:
      headrace journal skip 0 1234 --reason "test data written by mistake"
    """
    if not reason.strip():
        raise fail("give a reason", USAGE)
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Go on without tasks.journal[{partition}]@{offset}, whatever it was?", abort=True)
    run(_skip(partition, offset, reason.strip(), by or operator_name()))


async def _show(partition: int, offset: int | None, task: str | None, count: int, *, json_output: bool) -> None:
    from headrace.connecting import Cluster
    from headrace.journal import records

    found: deque[InspectedRecord] = deque(maxlen=count)
    at = Cluster.at(addresses(), user=CONTENT_READER)
    async with at as cluster, aclosing(records(cluster, partition)) as all_of_them:
        async for each in all_of_them:
            if task is not None and (each.entry is None or each.entry.task_id != task):
                continue
            # About half of them stand before the offset.
            if offset is not None and len(found) >= count and found[len(found) // 2].record.offset >= offset:
                break
            found.append(each)
    rows = [_row(each) for each in found]
    if json_output:
        print_json(rows)
        return
    shown = table("offset", "written", "kind", "counts", "epoch", "task", "cause", "phase", "owner", "note",
                  right=("offset", "epoch"))  # fmt: skip
    for row in rows:
        shown.add_row(
            str(row["offset"]), moment(row["written_at"]), row["kind"], "yes" if row["counts"] else "no",
            "" if row["epoch"] is None else f"{row['epoch']}+{row['sequence']}", row["task_id"], row["cause"],
            row["phase"], row["owner"], row["note"],
        )  # fmt: skip
    OUT.print(shown)


def _row(found: InspectedRecord) -> dict[str, Any]:
    record, entry = found.record, found.entry
    value = record.value or b""
    if found.error is not None:
        note = f"{found.error.reason}; {len(value)} bytes, beginning with {value[:_BYTES_SHOWN].hex() or 'none'}"
    elif entry is None:
        note = "a tombstone"
    else:
        note = entry.note if entry.skipped_offset is None else f"skips {entry.skipped_offset}: {entry.note}"
    return {
        "offset": record.offset,
        "written_at": utc(record.timestamp_ms) if record.timestamp_ms >= 0 else None,
        "key": (record.key or b"").decode("utf-8", "replace"),
        "kind": "unreadable" if entry is None and found.error else "tombstone" if entry is None else entry.kind.value,
        "counts": found.counts,
        "epoch": None if entry is None else entry.epoch,
        "sequence": None if entry is None else entry.sequence,
        "task_id": "" if entry is None else entry.task_id,
        "cause": "" if entry is None else entry.cause,
        "phase": "" if entry is None or entry.state is None else entry.state.phase.value,
        "owner": "" if entry is None else entry.owner,
        "note": note,
    }


async def _verify(partitions: list[int], *, json_output: bool) -> None:
    from headrace.connecting import Cluster
    from headrace.journal import verify as verify_all

    async with Cluster.at(addresses(), user=CONTENT_READER) as cluster:
        verdicts = await verify_all(cluster, partitions)
    if json_output:
        print_json([_document(verdict) for verdict in verdicts])
    else:
        for verdict in verdicts:
            _print(verdict)
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(FAILED)


def _print(verdict: JournalVerdict) -> None:
    mark = "[green]✓[/green]" if verdict.ok else "[bold red]✗[/bold red]"
    counts = f"{verdict.records} records, {verdict.entries} entries that count, {verdict.epochs} epochs"
    if verdict.not_counting:
        counts += f", {len(verdict.not_counting)} that do not count"
    if verdict.skipped:
        counts += f", skipped: {', '.join(map(str, verdict.skipped))}"
    OUT.print(f"{mark} partition {verdict.partition}: {counts}")
    for offset, error in verdict.unreadable.items():
        OUT.print(f"    offset {offset}: {error.reason}", markup=False)
        OUT.print(
            f"    what to do: headrace journal show {verdict.partition} --offset {offset}, then headrace journal skip "
            f"{verdict.partition} {offset} --reason ...", markup=False, soft_wrap=True,
        )  # fmt: skip


def _document(verdict: JournalVerdict) -> dict[str, Any]:
    return {
        "partition": verdict.partition,
        "ok": verdict.ok,
        "records": verdict.records,
        "entries": verdict.entries,
        "epochs": verdict.epochs,
        "not_counting": list(verdict.not_counting),
        "unreadable": {str(offset): error.reason for offset, error in verdict.unreadable.items()},
        "skipped": {str(offset): {"by": skip.owner, "reason": skip.note} for offset, skip in verdict.skipped.items()},
    }


async def _skip(partition: int, offset: int, reason: str, operator: str) -> None:
    from headrace.connecting import Cluster
    from headrace.journal import skip as skip_it

    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        at = await skip_it(cluster, partition, offset, reason=reason, operator=operator)
    OUT.print(f"skipped: recorded at offset {at}; the router goes on within half a minute")
