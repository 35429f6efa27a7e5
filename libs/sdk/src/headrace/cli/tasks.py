"""`headrace tasks`."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from headrace_contracts.users import CONTENT_READER
from rich.text import Text

from headrace.cli.output import (
    ERR,
    OUT,
    JsonOption,
    dollars,
    moment,
    print_json,
    print_text,
    status_text,
    table,
    task_summary,
    where_text,
)
from headrace.cli.running import FAILED, USAGE, addresses, fail, open_client, run
from headrace.cli.timeparse import time_before
from headrace.results import Task
from headrace.savings import SavingsReport, savings_of
from headrace.times import local_clock
from headrace.why_not import against

if TYPE_CHECKING:
    from headrace_contracts.events import JournalEntry

    from headrace.proofs import Proof

app = typer.Typer(no_args_is_help=True, help="List, show, explain and cancel tasks.")

Id = Annotated[str, typer.Argument(help="Id of the task.")]


@app.command("list")
def list_tasks(
    status: Annotated[
        str | None, typer.Option(help="accepted, succeeded, refused, failed, cancelled or expired.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Only tasks of this role.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only tasks of this kind.")] = None,
    session: Annotated[str | None, typer.Option(help="Only tasks of this session.")] = None,
    user: Annotated[str | None, typer.Option(help="Only tasks of this user.")] = None,
    since: Annotated[str | None, typer.Option(help="A time (2027-01-01T12:00:00Z) or an age (30m, 2h, 7d).")] = None,
    until: Annotated[str | None, typer.Option(help="A time or an age.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Maximum number.", min=1)] = 20,
    json_output: JsonOption = False,
) -> None:
    """List tasks, newest first.

    \b
    Examples:
      headrace tasks list --status failed --since 2h
      headrace tasks list -n 1000 --json | jq .[].id
    """
    found = run(
        _list(
            limit, status=status, role=role, kind=kind, session=session, user=user, since=time_before(since),
            until=time_before(until),
        )
    )  # fmt: skip
    if json_output:
        print_json(found)
        return
    rows = table("submitted", "status", "role", "by", "cost", "task", right=["cost"], whole=["status", "task"])
    for task in found:
        role_or_model = task.role or task.requested_model or ""
        rows.add_row(
            moment(task.submitted_at), status_text(task.status), role_or_model, where_text(task),
            dollars(task.cost_nanodollars), task.id,
        )  # fmt: skip
    OUT.print(rows)


async def _list(limit: int, **filters: str | datetime | None) -> list[Task]:
    found: list[Task] = []
    async with open_client() as client:
        tasks = client.list_all(limit=min(limit, 200), **filters)
        async for task in tasks:
            found.append(task)
            if len(found) == limit:
                break
    return found


@app.command()
def savings(
    role: Annotated[str | None, typer.Option(help="Only tasks of this role.")] = None,
    since: Annotated[str, typer.Option(help="A time (2027-01-01T12:00:00Z) or an age (30m, 2h, 7d).")] = "24h",
    until: Annotated[str | None, typer.Option(help="A time or an age.")] = None,
    json_output: JsonOption = False,
) -> None:
    """What cascades have saved, by role: the share of tasks that the smallest model has answered, what they have cost,
    and what the last rung would have cost; and how much the members of ensembles agree.

    \b
    Examples:
      headrace tasks savings --since 7d
      headrace tasks savings --role general --json | jq .cascades[].saved_nanodollars
    """
    report = run(_savings(role=role, since=time_before(since), until=time_before(until)))
    if json_output:
        print_json(report)
        return
    if not report.cascades and not report.ensembles:
        ERR.print("no task was answered by several models", style="dim")
    if report.cascades:
        rows = table(
            "role", "cascades", "smallest", "not passed", "cost", "saved",
            right=["cascades", "smallest", "not passed", "cost", "saved"],
        )  # fmt: skip
        for one in report.cascades:
            rows.add_row(
                one.role or "(none named)", str(one.tasks), f"{one.share_small:.0%}", str(one.insufficient),
                dollars(one.spent_nanodollars), _signed(one.saved_nanodollars),
            )  # fmt: skip
        OUT.print(rows)
    if report.ensembles:
        rows = table(
            "role", "ensembles", "coherence", "at goal", "cost", right=["ensembles", "coherence", "at goal", "cost"]
        )
        for each in report.ensembles:
            alike = "" if each.mean_coherence is None else f"{each.mean_coherence:.2f}"
            rows.add_row(
                each.role or "(none named)",
                str(each.tasks),
                alike,
                f"{each.at_goal} of {each.compared}",
                dollars(each.cost_nanodollars),
            )
        OUT.print(rows)


def _signed(nanodollars: int) -> str:
    return dollars(nanodollars) if nanodollars >= 0 else f"-{dollars(-nanodollars)}"


async def _savings(**filters: str | datetime | None) -> SavingsReport:
    async with open_client() as client:
        return savings_of([task async for task in client.list_all(limit=200, **filters)])


@app.command()
def show(task_id: Id, json_output: JsonOption = False) -> None:
    """A task with its answer. Exit code 1 if there is no task with this id."""
    task = run(_get(task_id))
    if json_output:
        print_json(task)
        return
    if task.answer is not None:
        print_text(task.answer)
    ERR.print(task_summary(task), soft_wrap=True)


async def _get(task_id: str) -> Task:
    async with open_client() as client:
        return await client.get(task_id)


@app.command()
def cancel(
    task_id: Id,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Cancel a task. Exit code 1 if it had already ended."""
    ended = run(_cancel(task_id, reason))
    if json_output:
        print_json({"id": task_id, "asked": ended is None, "task": ended})
    if ended is not None:
        raise fail(f"the task had already ended: {ended.status}")
    ERR.print("cancellation requested; the task ends as cancelled, unless it finishes first", style="dim")


async def _cancel(task_id: str, reason: str) -> Task | None:
    async with open_client() as client:
        return await client.cancel(task_id, reason)


@app.command()
def why(
    task_id: Id,
    journal: Annotated[
        bool, typer.Option("--journal", help="Read the router's journal in Kafka: also what was rejected, and why.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Explain the decisions about a task, step by step."""
    task = run(_get(task_id))
    entries = run(_journal(task)) if journal else []
    if json_output:
        print_json({"id": task.id, "status": task.status, "trail": task.trail,
                    "journal": [entry.to_avro() for entry in _without_texts(entries)]})  # fmt: skip
        return
    if journal:
        for entry in entries:
            _print_entry(entry)
    else:
        rows = table("at", "step", "model", "reason")
        for step in task.trail:
            model = "/".join(part for part in (step.provider, step.model) if part)
            rows.add_row(step.at.astimezone().strftime("%H:%M:%S.%f")[:-3], step.step, model, step.reason)
        OUT.print(rows)
    ERR.print(task_summary(task), soft_wrap=True)
    if not task.trail and not entries:
        raise typer.Exit(FAILED)


@app.command("why-not")
def why_not(
    task_id: Id,
    model: Annotated[str, typer.Argument(help="`provider/model`, the name of a model, or a provider.")],
    json_output: JsonOption = False,
) -> None:
    """Say why a task did not run at a model.

    \b
    Example:
      headrace tasks why-not 0199b9d0-6f1e-7000-8000-1c0e5b7b2d11 groq/llama-3.3-70b-versatile
    """
    task = run(_get(task_id))
    found = against(model, task.trail)
    if json_output:
        print_json({"id": task.id, "model": model, "ran": found.ran, "reasons": list(found.lines)})
        return
    for line in found.lines:
        print_text(line)


async def _journal(task: Task) -> list[JournalEntry]:
    from headrace_contracts.events import JournalEntry

    from headrace.connecting import Cluster
    from headrace.consuming import consume

    if task.submitted_at is None:
        return []
    begin = task.submitted_at - timedelta(seconds=1)
    async with Cluster.at(addresses(), user=CONTENT_READER) as cluster:
        journal = consume(
            "tasks.journal", JournalEntry, start=begin, follow=False, cluster=cluster,
            on_unreadable=lambda _record, _error: None,
        )  # fmt: skip
        async with journal:
            entries = [decision.event async for decision in journal if decision.event.task_id == task.id]
    return sorted(entries, key=lambda entry: entry.decided_at)


def _without_texts(entries: list[JournalEntry]) -> list[JournalEntry]:
    """The entries without the task's state, which contains its prompt."""
    from dataclasses import replace

    return [replace(entry, state=None) for entry in entries]


def _print_entry(entry: JournalEntry) -> None:
    when = local_clock(entry.decided_at)
    does = ", ".join(f"{command.kind.value} to {command.topic}" for command in entry.commands) or "nothing to do"
    phase = f" → {entry.state.phase.value}" if entry.state else ""
    OUT.print(Text.assemble((when, "dim"), "  ", (entry.cause, "bold"), f"{phase}: {does}"), soft_wrap=True)
    for rejected in entry.rejected:
        OUT.print(
            Text.assemble("    not ", f"{rejected.provider}/{rejected.model}", (f"  {rejected.code}  ", "yellow"),
                          (rejected.detail, "dim")),
            soft_wrap=True,
        )  # fmt: skip


@app.command()
def prove(
    task_id: Annotated[str | None, typer.Argument(help="Id of the task.")] = None,
    verify: Annotated[Path | None, typer.Option(help="Check the signature of this proof instead.")] = None,
    json_output: JsonOption = False,
) -> None:
    """List every place where a task's text was, from topics alone, signed with the installation's secret.

    Reads whole topics in Kafka. HEADRACE_KEY_PEPPER holds the secret, as for the services. Exit code 1 if there is no
    record of the task, or a proof is not genuine.

    \b
    Examples:
      headrace tasks prove 0197c0a2-... --json > proof.json
      headrace tasks prove --verify proof.json
    """
    secret = os.environ.get("HEADRACE_KEY_PEPPER", "")
    if not secret:
        raise fail(
            "HEADRACE_KEY_PEPPER is not set: proofs are signed with the installation's secret "
            "(that of `headrace up` is in secrets/key-pepper below its data)",
            USAGE,
        )
    if (task_id is None) is (verify is None):
        raise fail("give the id of a task, or a proof with --verify", USAGE)
    if verify is not None:
        _verify_proof(verify, secret)
        return
    assert task_id is not None
    _show_proof(run(_prove(task_id)), secret, json_output=json_output)


async def _prove(task_id: str) -> Proof:
    from headrace.connecting import Cluster
    from headrace.proofs import prove as prove_it

    async with Cluster.at(addresses(), user=CONTENT_READER) as cluster:
        return await prove_it(cluster, task_id)


def _show_proof(proof: Proof, secret: str, *, json_output: bool) -> None:
    from headrace.proofs import signed

    if not proof.sightings and not proof.unreadable:
        raise fail(f"the topics hold no record of task {proof.task_id}")
    document = signed(proof, secret)
    if json_output:
        print_json(document)
        return
    rows = table("at", "kind", "where", "text", "what", whole=["where", "text"])
    for seen in proof.sightings:
        rows.add_row(local_clock(seen.at_ms), seen.kind, seen.where, seen.text, seen.what)
    OUT.print(rows)
    for name in proof.unreadable:
        ERR.print(f"{name} could not be read: what it says of the task is not known", style="yellow")
    where = "left our own nodes" if proof.left else "stayed on our own nodes"
    ERR.print(
        f"task {proof.task_id} ({proof.tenant}, {proof.privacy}) {where}; signature {document['signature'][:16]}…"
    )


def _verify_proof(path: Path, secret: str) -> None:
    from headrace.proofs import is_genuine

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise fail(f"{path}: {error}", USAGE) from error
    if not isinstance(document, dict) or not is_genuine(document, secret):
        raise fail(f"{path} was not made with this installation's secret, or has been changed since")
    ERR.print(f"{path} is genuine: task {document.get('task_id')}", style="green")
