"""`headrace replay`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from headrace.cli.output import ERR, OUT, JsonOption, print_json
from headrace.cli.running import USAGE, addresses, fail, run
from headrace.cli.timeparse import parse_time_or_age
from headrace.connecting import Cluster
from headrace.nodes import newest_events
from headrace_contracts.topics import FLEET_STATUS, POLICIES, PREFERENCES
from headrace_contracts.users import OPERATOR
from headrace_models.prices import PriceBook, PriceBookInvalid, load_price_book
from headrace_router.adapters.policy_file import PolicyInvalid, parse_policy, policy_text
from headrace_router.decide.policy import Policy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headrace_devstack.policy.publishing import policy_in_force, revisions_in
from headrace_devstack.replay.comparing import Comparing, Comparison, document
from headrace_devstack.replay.deciding import Decider
from headrace_devstack.replay.reading import Span, count_tasks, recorded_tasks
from headrace_devstack.replay.recorded import ModelName
from headrace_devstack.replay.report import lines, page, summary


def replay(
    policy: Annotated[Path, typer.Option(help="The other policy, as YAML.", dir_okay=False, exists=True)],
    since: Annotated[str, typer.Option("--from", help="First tasks: a time, or an age such as 2h or 7d.")] = "24h",
    until: Annotated[str, typer.Option("--to", help="Tasks before this time, or age.")] = "0s",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's tasks.", show_default=False)] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that is to count as available though nobody offers it, as provider/model; repeatable.",
            show_default=False,
        ),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="A price book other than the shipped one.", dir_okay=False, show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with charts, too.", dir_okay=False, show_default=False),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Where recorded tasks would have gone with another policy, and what that changes: cost, time, privacy, refusals.

    Nothing is sent anywhere: tasks are read from their topic, and what was decided from the journal. Both policies, the
    one in force and the new one, decide about each task on the fleet that reports now, without what the recorded
    decision found unavailable, and as if the task were alone: what only load decides is left out.

    \b
    Examples:
      headrace replay --policy new.yaml --from 7d
      headrace replay --policy new.yaml --from 2027-01-01 --to 2027-01-08 --html report.html
      headrace replay --policy new.yaml --assume groq/llama-3.1-8b-instant --json
    """
    now = datetime.now(UTC)
    span = Span(_time(since, now), _time(until, now))
    if span.since >= span.until:
        raise fail("--from must be before --to", USAGE)
    try:
        new = parse_policy(*policy_text(policy))
        book = load_price_book(prices)
    except (PolicyInvalid, PriceBookInvalid) as error:
        raise fail(str(error)) from None
    assumed = [_model(each) for each in assume or ()]
    comparison = run(_compare(new, span, tenant, assumed, book))
    if html is not None:
        html.write_text(page(comparison, f"Replay with {policy.name}, {since} to {until}"), encoding="utf-8")
        ERR.print(f"wrote {html}", style="dim", markup=False)
    if json_output:
        print_json(document(comparison))
        return
    for text in summary(comparison):
        OUT.print(text, markup=False, highlight=False)
    if comparison.moves:
        OUT.print(lines(comparison))


async def _compare(
    new: Policy, span: Span, tenant: str | None, assumed: list[ModelName], prices: PriceBook
) -> Comparison:
    async with Cluster.at(addresses(), user=OPERATOR) as cluster:
        reports, preferences, published = await newest_events(cluster, (FLEET_STATUS, PREFERENCES, POLICIES))
        revisions = revisions_in(published)
        try:
            old = policy_in_force(revisions)
        except PolicyInvalid as error:
            raise fail(f"the policy in force cannot be read: {error}") from None

        def decider(policy: Policy) -> Decider:
            return Decider(policy, published, reports.values(), prices, assumed=assumed, preferences=preferences)

        comparing = Comparing(decider(old), decider(new), prices)
        with _bar(await count_tasks(cluster, span)) as advance:
            async for recorded in recorded_tasks(cluster, span, tenant=tenant, advance=advance):
                comparing.take(recorded)
        return comparing.result()


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        task = progress.add_task("tasks", total=total)
        yield lambda done: progress.advance(task, done)


def _time(text: str, now: datetime) -> int:
    try:
        return round(parse_time_or_age(text, now).timestamp() * 1000)
    except ValueError as error:
        raise fail(str(error), USAGE) from None


def _model(text: str) -> ModelName:
    provider, slash, model = text.partition("/")
    if not slash or not provider or not model:
        raise fail(f"{text!r} is no model: write provider/model", USAGE)
    return provider, model
