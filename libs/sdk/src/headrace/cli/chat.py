"""`headrace chat`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer
from headrace_contracts.ids import new_id
from rich.text import Text

from headrace.cli.output import ERR, dollars, print_text, where_text
from headrace.cli.pieces import show_pieces, show_waiting
from headrace.cli.running import FAILED, INTERRUPTED, addresses, exit_code, fail, open_client, tell
from headrace.cli.submit import ModeOption, PrivacyOption, image_at
from headrace.client import Client
from headrace.errors import HeadraceError, Misconfigured, no_answer
from headrace.messages import Image, Message
from headrace.requests import TaskOptions
from headrace.results import Task

_PROMPT: Final = "> "
_CONTINUED: Final = "… "
_HELP: Final = """\
/image PATH   show the model an image, with your next message
/model NAME   go on with another model (auto lets the policy choose)
/reset        forget the conversation and begin another one
/quit         end; so does Ctrl-D
/help         this
A line that ends with a backslash goes on in the next one.
A space before a slash makes the line a message.
Ctrl-C cancels the answer that is being given."""


def chat(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model: auto, provider/model, or a bare model name.")
    ] = None,
    role: Annotated[str | None, typer.Option("--role", "-r", help="Role, which chooses the model.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="What the model is to be and to do.")] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Name of the session, whose tasks keep their order. It does not bring back what was said."),
    ] = None,
    privacy: Annotated[
        PrivacyOption | None, typer.Option("--privacy", "-p", help="sensitive: never leaves our own nodes.")
    ] = None,
    mode: Annotated[ModeOption | None, typer.Option(help="Where to run; by default as the preferences say.")] = None,
    user: Annotated[str | None, typer.Option(help="User on whose behalf you speak; their preferences apply.")] = None,
    budget: Annotated[float | None, typer.Option(help="Maximum cost of each answer, in US dollars.", min=0)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum length of an answer, in tokens.", min=1)] = None,
) -> None:
    """Talk with a model; its answers appear as they are made.

    Ctrl-C cancels the answer that is being given, Ctrl-D ends, /help lists the commands.

    Only this program remembers what was said: each message is a task with the conversation before it.

    Without a terminal, each line of stdin is a message; the first that is not answered ends with exit code 1.

    \b
    Examples:
      headrace chat
      headrace chat -r code_reviewer --privacy sensitive
      headrace chat -m ollama/phi3:3.8b -s "Answer in one sentence."
      printf 'Name a river.\\nAnother one.\\n' | headrace chat
    """
    options: TaskOptions = {
        "model": model,
        "role": role,
        "privacy": privacy.value if privacy else None,
        "mode": mode.value if mode else None,
        "user": user,
        "budget": budget,
        "max_tokens": max_tokens,
        "kind": "chat",
        "priority": "interactive",
        "allow_cached": False,
        "session": session or new_id(),
    }
    interactive = sys.stdin.isatty()
    try:
        addresses().require("url")
    except Misconfigured as error:
        raise fail(str(error), exit_code(error) or FAILED) from None
    talk = _Talk(options, system)
    with asyncio.Runner() as runner:
        client = open_client()
        try:
            _converse(talk, client, runner, interactive=interactive)
        finally:
            runner.run(client.close())


@dataclass(slots=True)
class _Talk:
    """A conversation, as far as it was answered."""

    options: TaskOptions
    system: str | None
    said: list[Message] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was said."""
        self.said = [] if self.system is None else [Message.system(self.system)]
        self.images = []

    def next_message(self, text: str) -> Message:
        """A message with the images that were chosen for it."""
        return Message.user(text, *self.images)

    def answered(self, message: Message, answer: Message) -> None:
        self.said += [message, answer]
        self.images = []


def _converse(talk: _Talk, client: Client, runner: asyncio.Runner, *, interactive: bool) -> None:
    if interactive:
        # Gives `input` the keys of a shell: arrows, history, search. Where it is missing, lines are typed plainly.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        ERR.print(_greeting(talk), style="dim", soft_wrap=True)
    for line in _lines(interactive=interactive):
        if line.startswith("/") and interactive:
            if not _command(talk, line):
                return
            continue
        if not line.strip():
            continue
        message = talk.next_message(line.strip())
        try:
            task = runner.run(_answer(client, [*talk.said, message], talk.options))
            if not task.answered or task.message is None:
                raise no_answer(task)
        except KeyboardInterrupt:
            if not interactive:
                raise typer.Exit(INTERRUPTED) from None
            ERR.print("\n(cancelled; your message is not part of the conversation)", style="yellow")
            continue
        except (HeadraceError, ValueError) as error:
            tell(error)
            if not interactive:
                raise typer.Exit(exit_code(error) or FAILED) from None
            continue
        talk.answered(message, task.message)
        if interactive:
            ERR.print(_origin(task), style="dim", soft_wrap=True)


def _greeting(talk: _Talk) -> str:
    role = talk.options.get("role")
    asked = talk.options.get("model") or ("auto" if role is None else f"role {role}")
    return f"{asked} at {addresses().url}. /help lists the commands, Ctrl-D ends."


def _lines(*, interactive: bool) -> Iterator[str]:
    """What is typed, line by line; those that end with a backslash with the next one."""
    if not interactive:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    begun: list[str] = []
    while True:
        try:
            line = input(_CONTINUED if begun else _PROMPT)
        except EOFError:
            ERR.print()
            return
        except KeyboardInterrupt:
            # As in a shell: the line is given up, and the program stays.
            begun = []
            ERR.print("\n(Ctrl-D ends)", style="dim")
            continue
        if line.endswith("\\"):
            begun.append(line[:-1])
            continue
        yield "\n".join([*begun, line])
        begun = []


def _command(talk: _Talk, line: str) -> bool:
    """Do what a line that begins with a slash says; False to end."""
    name, _, argument = line.strip().partition(" ")
    argument = argument.strip()
    match name:
        case "/quit" | "/exit":
            return False
        case "/help":
            ERR.print(_HELP, markup=False, soft_wrap=True)
        case "/reset":
            talk.begin()
            talk.options["session"] = new_id()
            ERR.print("(a new conversation)", style="dim")
        case "/model" if argument:
            talk.options["model"], talk.options["role"] = argument, None
            ERR.print(f"(from now on {argument})", style="dim", markup=False)
        case "/image" if argument:
            try:
                talk.images.append(image_at(argument))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                ERR.print(f"{argument}: {why}", style="yellow", markup=False)
            else:
                ERR.print(f"({len(talk.images)} with your next message)", style="dim")
        case "/model" | "/image":
            ERR.print(f"{name} what? /help lists the commands.", style="yellow")
        case _:
            ERR.print(f"there is no {name}: /help lists the commands.", style="yellow", markup=False)
    return True


async def _answer(client: Client, messages: list[Message], options: TaskOptions) -> Task:
    """The ended task, its answer shown. Interrupted, the task is cancelled."""
    stream = client.stream(messages, on_waiting=show_waiting, **options)
    try:
        # Text that a later attempt retracts can be marked on a terminal, but not in a pipe.
        if sys.stdout.isatty():
            await show_pieces(stream)
        task = await stream.result()
        if not sys.stdout.isatty() and task.answer is not None:
            print_text(task.answer)
        return task
    except asyncio.CancelledError:
        if stream.task_id is not None:
            await client.cancel(stream.task_id, "interrupted")
        raise
    finally:
        await stream.close()


def _origin(task: Task) -> Text:
    """What answered, and what it cost, in a line."""
    took = (task.completed_at - task.submitted_at).total_seconds() if task.submitted_at and task.completed_at else 0.0
    line = Text.assemble(where_text(task), f", {dollars(task.cost_nanodollars)}, {took:.2f} s")
    if task.finish_reason == "length":
        line.append(", cut off at the output limit", "yellow")
    if task.status == "refused":
        line.append(", declined", "yellow")
    return line
