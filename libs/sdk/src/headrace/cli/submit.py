"""`headrace submit`."""

from __future__ import annotations

import asyncio
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from headrace_contracts.narrowing import STRATEGIES

from headrace.answer_forms import AnswerForm
from headrace.cli.output import ERR, print_json, print_text, task_summary
from headrace.cli.pieces import show_pieces, show_waiting
from headrace.cli.running import FAILED, USAGE, fail, open_client, run
from headrace.client import Client
from headrace.errors import NoAnswer, NotYet
from headrace.messages import Image, Message
from headrace.requests import TaskOptions
from headrace.results import Task


class PrivacyOption(StrEnum):
    """How far the content may travel."""

    sensitive = "sensitive"
    internal = "internal"
    public = "public"


class PriorityOption(StrEnum):
    """Whether a caller waits for the answer."""

    interactive = "interactive"
    batch = "batch"


class ModeOption(StrEnum):
    """Where to run."""

    local = "local"
    cloud = "cloud"
    hybrid = "hybrid"


def submit(
    text: Annotated[
        str | None, typer.Argument(help="What to do. Without it, or with -, it is read from stdin.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Add a file's text (- for stdin) to the prompt; repeatable."),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", "-i", help="Show the model an image: a file, or a URL; repeatable.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="A file with the JSON Schema that the answer must fit; it is then printed as JSON."),
    ] = None,
    role: Annotated[str | None, typer.Option("--role", "-r", help="Role for the task, such as code_reviewer.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model: auto, provider/model, or a bare model name.")
    ] = None,
    privacy: Annotated[
        PrivacyOption | None, typer.Option("--privacy", "-p", help="sensitive: never leaves our own nodes.")
    ] = None,
    priority: Annotated[PriorityOption | None, typer.Option(help="Lane; by default that of the role.")] = None,
    mode: Annotated[ModeOption | None, typer.Option(help="Where to run; by default as the preferences say.")] = None,
    provider: Annotated[str | None, typer.Option(help="Provider to try first if the rules allow it.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A provider, or provider/model, that may run it, and no other; repeatable.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A provider, or provider/model, that must not run it; repeatable.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help=f"How models are put in order: {', '.join(STRATEGIES)}.", show_default=False)
    ] = None,
    cascade: Annotated[
        bool | None, typer.Option("--cascade/--no-cascade", help="The role's small models first, or not.")
    ] = None,
    ensemble: Annotated[
        bool | None, typer.Option("--ensemble/--no-ensemble", help="Several models of the role together, or not.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Maximum cost, in US dollars.", min=0)] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which the answer is useless.", min=0)] = None,
    session: Annotated[str | None, typer.Option(help="Conversation whose tasks keep their order.")] = None,
    user: Annotated[str | None, typer.Option(help="User on whose behalf you submit; their preferences apply.")] = None,
    subject: Annotated[str | None, typer.Option(help="The person whom the content is about.")] = None,
    kind: Annotated[str | None, typer.Option(help="Your own name for this type of work.")] = None,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", "-q", help="What a role with research searches for; repeatable."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label NAME=VALUE; repeatable.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not use a cached answer.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum length of the answer, in tokens.", min=1)] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submitting again with the same key creates no second task.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answer, or print only the id.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the task continues.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the task as JSON.")] = False,
) -> None:
    """Submit a task and show its answer as it arrives.

    The answer goes to stdout; what gave it, whether it was simulated, its cost and why it ran there go to stderr.
    Exit code 1 if the task ends without an answer.

    \b
    Examples:
      headrace submit "Why do rivers meander?"
      headrace submit -r code_reviewer "Review this module" -f app.py
      git diff | headrace submit -r code_reviewer --privacy sensitive "Review this change" -f -
      headrace submit -r research -q "lake depth" -q "lake area" "How much water is in the lake?"
      headrace submit --image chart.png --image legend.png "What does it show?"
      headrace submit --schema findings.json "Review this module" -f app.py | jq .findings
      headrace submit --json --no-wait --priority batch "Summarise" -f report.txt
    """
    options: TaskOptions = {
        "role": role,
        "model": model,
        "privacy": privacy.value if privacy else None,
        "priority": priority.value if priority else None,
        "mode": mode.value if mode else None,
        "preferred_provider": provider,
        "provider": _choice(only=only, ignore=ignore, strategy=strategy, cascade=cascade, ensemble=ensemble),
        "budget": budget,
        "deadline": deadline,
        "session": session,
        "user": user,
        "subject": subject,
        "kind": kind,
        "queries": query,
        "labels": _labels(label or []),
        "allow_cached": False if fresh else None,
        "max_tokens": max_tokens,
    }
    prompt = Message.user(_prompt(text, file or []), *_images(image or []))
    form = None if schema is None else _form(schema)
    if form is not None:
        options["response_format"] = form.response_format()
    run(_submit(prompt, options, form, idempotency_key, wait=wait, timeout=timeout, json_output=json_output))


def _choice(**said: list[str] | str | bool | None) -> dict[str, Any] | None:
    """What is asked of the choice among models; None if nothing is."""
    return {name: value for name, value in said.items() if value or value is False} or None


async def _submit(
    prompt: Message, options: TaskOptions, form: AnswerForm[Any] | None, idempotency_key: str | None, *, wait: bool,
    timeout: float | None, json_output: bool,
) -> None:  # fmt: skip
    async with open_client() as client:
        # Text that a later attempt retracts can be marked on a terminal, but not in a pipe.
        pieces = wait and not json_output and form is None and sys.stdout.isatty()
        handle = await client.submit(prompt, idempotency_key=idempotency_key, stream=pieces, **options)
        if not wait:
            if json_output:
                print_json(handle.accepted)
            else:
                print(handle.id)
            return
        try:
            if pieces:
                task = await _show_pieces(client, handle.id, timeout)
            else:
                task = await client.wait(handle.id, timeout, on_waiting=show_waiting)
        except NotYet as error:
            raise fail(f"{error}: headrace tasks show {error.task_id}") from None
    if json_output:
        print_json(task)
    else:
        if form is not None and task.answered:
            _print_formed(form, task)
        elif not pieces and task.answer is not None:
            print_text(task.answer)
        ERR.print(task_summary(task), soft_wrap=True)
    if not task.answered:
        raise typer.Exit(FAILED)


async def _show_pieces(client: Client, task_id: str, timeout: float | None) -> Task:
    try:
        async with asyncio.timeout(timeout):
            return await show_pieces(client.follow(task_id, on_waiting=show_waiting))
    except TimeoutError:
        raise NotYet(task_id, timeout or 0.0) from None


def _print_formed(form: AnswerForm[Any], task: Task) -> None:
    """The answer as JSON. Raises AnswerInvalid, Declined."""
    try:
        print_json(form.parse(task))
    except NoAnswer:
        ERR.print(task_summary(task), soft_wrap=True)
        raise


def image_at(place: str) -> Image:
    """The image in a file, or at an address. Raises OSError, ValueError."""
    return Image.at(place) if place.startswith(("http://", "https://")) else Image.from_file(place)


def _images(places: list[str]) -> list[Image]:
    found = []
    for place in places:
        try:
            found.append(image_at(place))
        except (OSError, ValueError) as error:
            why = f"{place}: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise fail(f"--image {why}", USAGE) from None
    return found


def _form(file: Path) -> AnswerForm[Any]:
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise fail(f"--schema {file}: {error.strerror}", USAGE) from None
    except ValueError as error:
        raise fail(f"--schema {file} is not JSON: {error}", USAGE) from None
    if not isinstance(schema, dict):
        raise fail(f"--schema {file}: a JSON Schema is an object", USAGE)
    return AnswerForm(schema)


def _prompt(text: str | None, files: list[Path]) -> str:
    parts = []
    if text == "-" or (text is None and not files):
        if sys.stdin.isatty():
            raise fail("no prompt: use headrace submit TEXT, or pipe text in", USAGE)
        parts.append(sys.stdin.read())
    elif text is not None:
        parts.append(text)
    for path in files:
        if str(path) == "-":
            parts.append(sys.stdin.read())
            continue
        try:
            parts.append(f"{path.name}:\n{path.read_text(encoding='utf-8')}")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise fail(f"{path}: {reason}", USAGE) from None
    prompt = "\n\n".join(part for part in parts if part.strip())
    if not prompt:
        raise fail("the prompt is empty", USAGE)
    return prompt


def _labels(texts: list[str]) -> dict[str, str] | None:
    labels = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found or not name:
            raise fail(f"--label {text!r}: expected NAME=VALUE", USAGE)
        labels[name] = value
    return labels or None
