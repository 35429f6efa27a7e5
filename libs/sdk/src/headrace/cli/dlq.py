"""`headrace dlq`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final

import typer
from headrace_contracts.users import OPERATOR

from headrace.cli.output import ERR, OUT, JsonOption, print_json
from headrace.cli.running import FAILED, USAGE, addresses, fail, operator_name, run
from headrace.cli.timeparse import time_before

if TYPE_CHECKING:
    from headrace_contracts.errors import UnreadableValue
    from headrace_streams.records import Record

    from headrace.connecting import Cluster
    from headrace.dead_letters import DeadLetterSelection, DeadLetterTopics, StoredDeadLetter

_MOST_TOLD: Final = 10

app = typer.Typer(
    no_args_is_help=True,
    help="Records that services could not decode or handle: inspect, replay or drop them. Connects to Kafka and "
    "the registry directly, subject to their ACLs; needs no API key.",
)

Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Ids as listed, such as tasks.submitted/3/14, or as logs name the record: topic[3]@14."),
]
Topic = Annotated[list[str] | None, typer.Option("--topic", "-t", help="Only of this topic; repeatable.")]
Error = Annotated[str | None, typer.Option("--error", "-e", help="Only with this type of error, such as BadBytes.")]
ServiceOption = Annotated[str | None, typer.Option(help="Only those written by this service.")]
TenantOption = Annotated[str | None, typer.Option(help="Only of this tenant, according to the headers.")]
Since = Annotated[str | None, typer.Option(help="Written at or after a time (2027-01-01T12:00:00Z) or an age (2h).")]
Until = Annotated[str | None, typer.Option(help="Written before a time or an age.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
By = Annotated[str | None, typer.Option("--by", help="Name to record as the operator; by default user@host.")]


@app.command("list")
def list_letters(
    topic: Annotated[
        list[str] | None, typer.Argument(help="Only these topics, such as tasks.submitted; by default all.")
    ] = None,
    error: Error = None,
    service: ServiceOption = None,
    tenant: TenantOption = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that were replayed or dropped.")] = False,
    count: Annotated[
        int, typer.Option("--count", "-n", help="Number of newest dead letters to show; 0 for the counts alone.", min=0)
    ] = 20,
    json_output: Annotated[bool, typer.Option("--json", help="Print counts and all dead letters as JSON.")] = False,
) -> None:
    """Open dead letters: counts by topic, error and service, then the dead letters, without their content.

    \b
    Examples:
      headrace dlq list
      headrace dlq list tasks.submitted --error BadBytes --since 24h
      headrace dlq list --json | jq '.letters[] | select(.attempts > 1) | .id'
    """
    selection = _selection(topic, error, service, tenant, since, until, handled=everything)
    run(_list(selection, count, json_output=json_output))


@app.command()
def show(
    letter: Annotated[list[str], typer.Argument(help="Id: topic/partition/offset, or TOPIC PARTITION/OFFSET.")],
    content: Annotated[bool, typer.Option("--content", help="Show prompts and answers, and raw bytes.")] = False,
    json_output: JsonOption = False,
) -> None:
    """One dead letter: its error, service and origin, its headers, and the event in it if that can be decoded.

    \b
    Examples:
      headrace dlq show tasks.submitted/3/14
      headrace dlq show tasks.submitted.dlq 0/7 --content
      headrace dlq show tasks.submitted/3/14 --content --json | jq -r .value_base64 | base64 -d > record.bin
    """
    run(_show("/".join(letter), content=content, json_output=json_output))


@app.command()
def replay(
    ids: Ids = None,
    topic: Topic = None,
    error: Error = None,
    service: ServiceOption = None,
    tenant: TenantOption = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Include those already replayed or dropped.")] = False,
    unreadable: Annotated[
        bool, typer.Option("--unreadable", help="Include those that still cannot be decoded, and would come back.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Write records to their own topic again, for its services to handle: same partition, key, value and ids.

    Do it once the cause is fixed. Consumers that have already handled the record recognise it by its ce_id. An
    interrupted replay can be run again: records that were replayed are recorded as handled, and are skipped.

    \b
    Examples:
      headrace dlq replay tasks.submitted/3/14
      headrace dlq replay --topic usage.recorded --error KeyError --since 2h --dry-run
      headrace dlq replay --all --yes --reason "schema 17 is registered now"
    """
    selection = _selection(topic, error, service, tenant, since, until, handled=again)
    chosen = _Chosen(ids or (), selection, everything=everything, again=again)
    run(_replay(chosen, reason, by or operator_name(), unreadable=unreadable, dry_run=dry_run, yes=yes))


@app.command()
def drop(
    ids: Ids = None,
    topic: Topic = None,
    error: Error = None,
    service: ServiceOption = None,
    tenant: TenantOption = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    reason: Annotated[str, typer.Option(help="Why nothing needs to be done; recorded with your name.")] = "",
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Record that nothing needs to be done about dead letters. They stay in their topic until its retention ends.

    \b
    Examples:
      headrace dlq drop tasks.submitted/3/14 --reason "test data of a broken producer"
      headrace dlq drop --topic tasks.submitted --error BadBytes --until 7d --reason "older than our deadline"
    """
    if not reason.strip():
        raise fail("give a reason: --reason '…' is recorded with the dead letter", USAGE)
    selection = _selection(topic, error, service, tenant, since, until, handled=False)
    chosen = _Chosen(ids or (), selection, everything=everything, again=False)
    run(_drop(chosen, reason, by or operator_name(), dry_run=dry_run, yes=yes))


class _Chosen:
    """Dead letters selected by id, or by common properties."""

    def __init__(self, ids: Sequence[str], selection: DeadLetterSelection, *, everything: bool, again: bool) -> None:
        from headrace.dead_letters import DeadLetterSelection

        restricted = selection != DeadLetterSelection(handled=selection.handled)
        if ids and (restricted or everything):
            raise fail("choose dead letters by id, or by topic, error, service or time: not both", USAGE)
        if not (ids or restricted or everything):
            raise fail(
                "choose dead letters: by id, by --topic, --error, --service or --since, or --all open ones", USAGE
            )
        self._ids = ids
        self._selection = selection
        self._again = again

    async def letters(self, topics: DeadLetterTopics) -> list[StoredDeadLetter]:
        """Raises typer.Exit for a dead letter that is already handled."""
        if not self._ids:
            return await topics.letters(self._selection)
        found = await topics.find(self._ids)
        if not self._again:
            for letter in found:
                if letter.handled is not None:
                    raise fail(f"{letter.id} was {_handled(letter)}; use `dlq replay --again` to replay it anyway")
        return found


async def _list(selection: DeadLetterSelection, count: int, *, json_output: bool) -> None:
    from headrace.cli.dead_letters_view import letter_document, letters_report
    from headrace.dead_letters import grouped

    async with _cluster() as cluster, _topics(cluster) as topics:
        letters = await topics.letters(selection)
        prefix = cluster.codec.topic_prefix
    if json_output:
        print_json({"groups": grouped(letters), "letters": [letter_document(letter) for letter in letters]})
    elif letters:
        for part in letters_report(letters, count, prefix):
            OUT.print(part, soft_wrap=True)
    else:
        OUT.print("no dead letters" if selection.handled else "no open dead letters")


async def _show(text: str, *, content: bool, json_output: bool) -> None:
    from headrace_contracts.errors import UnreadableValue

    from headrace.cli.dead_letters_view import whole_document, whole_report

    async with _cluster() as cluster, _topics(cluster) as topics:
        (letter,) = await topics.find([text])
        whole = await topics.whole(letter)
        try:
            read = None if whole.omitted_bytes is not None else await topics.event(whole)
            flaw = None
        except UnreadableValue as error:
            read, flaw = None, error.reason
    if json_output:
        print_json(whole_document(letter, whole, read, flaw, content=content))
    else:
        OUT.print(whole_report(letter, whole, read, flaw, content=content), soft_wrap=True)


async def _replay(chosen: _Chosen, reason: str, by: str, *, unreadable: bool, dry_run: bool, yes: bool) -> None:
    from headrace_streams.errors import AppendUncertain, StreamsError

    async with _cluster() as cluster, _topics(cluster, by) as topics:
        letters = await chosen.letters(topics)
        if not unreadable:
            letters = await _readable(topics, letters)
        if not _confirmed(letters, "replay", cluster.codec.topic_prefix, dry_run=dry_run, yes=yes):
            return
        done = 0
        refused: list[str] = []

        def on_refused(letter: StoredDeadLetter, why: str) -> None:
            refused.append(letter.id)
            if len(refused) <= _MOST_TOLD:
                ERR.print(f"not replayed: {letter.id}: {why}", style="yellow", markup=False, soft_wrap=True)

        try:
            async with aclosing(topics.replay(letters, reason, on_refused)) as replayed:
                async for letter, appended in replayed:
                    done += 1
                    OUT.print(f"replayed {letter.id} as {appended.topic}/{appended.partition}/{appended.offset}")
        except AppendUncertain as error:
            _stopped("replayed", done, letters)
            raise fail(
                f"{error}: the next record may or may not have been written. Run the same command again: a repeat "
                "carries the same ce_id, by which consumers recognise it"
            ) from error
        except StreamsError:
            _stopped("replayed", done, letters)
            raise
        ERR.print(f"replayed {done}; `headrace dlq list` shows any that come back", style="dim")
        if refused:
            raise fail(
                f"{len(refused)} cannot be written to their topics again: drop them, or raise the topics' limits"
            )


async def _drop(chosen: _Chosen, reason: str, by: str, *, dry_run: bool, yes: bool) -> None:
    from headrace_streams.errors import StreamsError

    async with _cluster() as cluster, _topics(cluster, by) as topics:
        letters = await chosen.letters(topics)
        if not _confirmed(letters, "drop", cluster.codec.topic_prefix, dry_run=dry_run, yes=yes):
            return
        done = 0
        try:
            async with aclosing(topics.drop(letters, reason)) as dropped:
                async for letter in dropped:
                    done += 1
                    OUT.print(f"dropped {letter.id}")
        except StreamsError:
            _stopped("dropped", done, letters)
            raise
        ERR.print(f"dropped {done}; `headrace dlq list --all` still shows them", style="dim")


async def _readable(topics: DeadLetterTopics, letters: Sequence[StoredDeadLetter]) -> list[StoredDeadLetter]:
    """Those that can be decoded with today's schemas, or were too large to check. Raises typer.Exit for none."""
    flaws = await topics.flaws(letters)
    held = [letter for letter in letters if letter.id in flaws]
    for letter in held[:_MOST_TOLD]:
        said = f"skipped: {letter.id} still cannot be decoded: {flaws[letter.id]}"
        ERR.print(said, style="yellow", markup=False, soft_wrap=True)
    if held:
        more = f"and {len(held) - _MOST_TOLD} more; " if len(held) > _MOST_TOLD else ""
        said = f"{more}these would only come back: drop them, or replay them anyway with --unreadable"
        ERR.print(said, style="yellow", soft_wrap=True)
    left = [letter for letter in letters if letter.id not in flaws]
    if held and not left:
        raise fail("nothing is left to replay")
    return left


def _confirmed(letters: Sequence[StoredDeadLetter], what: str, prefix: str, *, dry_run: bool, yes: bool) -> bool:
    """Whether to proceed. Raises typer.Exit when there is no terminal to ask on, or when there is nothing to do."""
    from headrace.cli.dead_letters_view import letters_report

    if not letters:
        raise fail(f"nothing to {what}: no selected dead letter is open", FAILED)
    if dry_run or not yes:
        for part in letters_report(letters, _MOST_TOLD, prefix):
            (OUT if dry_run else ERR).print(part, soft_wrap=True)
    if dry_run:
        ERR.print(f"would {what} {len(letters)}", style="dim")
        return False
    if yes:
        return True
    question = f"{what} {len(letters)} {'dead letters' if len(letters) > 1 else 'dead letter'}?"
    if not sys.stdin.isatty():
        raise fail(f"{question} There is no terminal to ask on: use --yes", USAGE)
    return typer.confirm(question, err=True)


def _stopped(what: str, done: int, letters: Sequence[StoredDeadLetter]) -> None:
    ERR.print(f"{what} {done} of {len(letters)} and recorded that; the others are still open", style="yellow")


def _selection(
    topics: list[str] | None, error: str | None, service: str | None, tenant: str | None, since: str | None,
    until: str | None, *, handled: bool,
) -> DeadLetterSelection:  # fmt: skip
    from headrace.dead_letters import DeadLetterSelection

    return DeadLetterSelection(
        topics=frozenset(topics or ()),
        error_type=error,
        service=service,
        tenant=tenant,
        since=time_before(since),
        until=time_before(until),
        handled=handled,
    )


def _cluster() -> Cluster:
    from headrace.connecting import Cluster

    return Cluster.at(addresses(), user=OPERATOR)


def _topics(cluster: Cluster, by: str = "") -> DeadLetterTopics:
    from headrace.dead_letters import DeadLetterTopics

    return DeadLetterTopics(cluster, handled_by=by, on_unreadable=_tell)


def _tell(record: Record, error: UnreadableValue) -> None:
    ERR.print(f"{error.origin} is skipped: {error.reason}", style="yellow", soft_wrap=True, markup=False)


def _handled(letter: StoredDeadLetter) -> str:
    from headrace.cli.dead_letters_view import handled_text

    return handled_text(letter)
