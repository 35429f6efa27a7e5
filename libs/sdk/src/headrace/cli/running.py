"""Runs a command's work, and turns errors into a message and an exit code."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import typer
from headrace_contracts.errors import RegistryAccessRefused, RegistryUnavailable
from rich.text import Text

from headrace.addresses import Addresses, locate
from headrace.cli.output import ERR
from headrace.client import Client
from headrace.errors import HeadraceError, Misconfigured, NotAllowed, RequestInvalid, RetryLater, Unavailable

T = TypeVar("T")

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
NOT_ALLOWED: Final = 4
TRY_LATER: Final = 5
INTERRUPTED: Final = 130

_PATIENCE_SECONDS: Final = 4.0

EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 failed or refused, 2 wrong usage or settings, 3 a service cannot be reached, "
    "4 the API key or login is missing or may not do this, 5 try again later, 130 interrupted."
)

_stack_file: Path | None = None


def use_stack(file: Path | None) -> None:
    """Use the addresses in this stack.json."""
    global _stack_file
    _stack_file = file


def addresses(user: str | None = None) -> Addresses:
    """The addresses for this run, with the logins of a user of a secure stack. Raises Misconfigured."""
    found = locate(stack_file=_stack_file)
    return found if user is None else found.as_user(user)


def open_client() -> Client:
    """The client for this run. On a terminal, it reports sooner that a service does not answer."""
    return Client(addresses=addresses(), patience_seconds=_PATIENCE_SECONDS)


def operator_name() -> str:
    """Who runs this command, as recorded for others: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"  # a user id without a name, as in containers
    return f"{user}@{socket.gethostname()}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to completion. Raises typer.Exit after printing an expected error."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of our output has closed it; `main` then ends quietly
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        tell(error)
        raise typer.Exit(code) from None


def tell(error: BaseException) -> None:
    """Print the message for an error to stderr."""
    text = str(error)
    if isinstance(error, Exception) and _kafka_exit_code(error) == UNREACHABLE:
        text = f"Kafka at {addresses().bootstrap_servers} does not answer properly: {text}"
    ERR.print(Text.assemble(("headrace: ", "bold red"), text), soft_wrap=True)
    if isinstance(error, RequestInvalid):
        for field, message in error.fields:
            # The text has the first few.
            if (line := f"{field}: {message}") not in text:
                ERR.print(f"  {line}", markup=False, soft_wrap=True)


def fail(message: str, code: int = FAILED) -> typer.Exit:
    """Print what is wrong; raise what it returns."""
    ERR.print(Text.assemble(("headrace: ", "bold red"), message), soft_wrap=True)
    return typer.Exit(code)


def exit_code(error: Exception) -> int | None:
    """The exit code for an expected error; None for any other."""
    match error:
        case Misconfigured() | ValueError():
            return USAGE
        case NotAllowed() | RegistryAccessRefused():
            return NOT_ALLOWED
        case Unavailable() | RegistryUnavailable():
            return UNREACHABLE
        case RetryLater():
            return TRY_LATER
        case HeadraceError():
            return FAILED
        case _:
            return _kafka_exit_code(error)


def _kafka_exit_code(error: Exception) -> int | None:
    from headrace_contracts.errors import ContractError
    from headrace_streams.errors import StreamsError, TransientError

    if isinstance(error, TransientError):
        return UNREACHABLE
    return FAILED if isinstance(error, StreamsError | ContractError) else None
