"""Exceptions as text that can be logged.

The message of our own exceptions is written by us, without content. That of others often quotes what they failed at: a
validator its input, a database driver the row, a client the provider's whole answer. So of others only the type and the
place are told, and the reason of the operating system where there is one.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Final

from headrace_streams.dead_letters import is_own

from headrace_runtime.redaction import redact_text

_MOST_FRAMES: Final = 30
_MOST_LINKED: Final = 10


def describe(error: BaseException) -> str:
    """Type of an exception, and its message if it is one of ours or the operating system's."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if is_own(error):
        message = str(error)
    elif isinstance(error, OSError) and error.strerror:
        message = error.strerror
    else:
        return name
    return f"{name}: {redact_text(message)}" if message else name


def format_exception(error: BaseException) -> str:
    """A traceback with the exceptions that led to it, each as `describe` tells it."""
    return "\n".join(_lines(error, set(), ""))


def _lines(error: BaseException, seen: set[int], indent: str) -> Iterator[str]:
    seen.add(id(error))
    before, words = _reason(error)
    if before is not None and id(before) not in seen and len(seen) < _MOST_LINKED:
        yield from _lines(before, seen, indent)
        yield f"{indent}{words}"
    yield f"{indent}Traceback (most recent call last):"
    frames = traceback.extract_tb(error.__traceback__)
    if len(frames) > _MOST_FRAMES:
        yield f"{indent}  ({len(frames) - _MOST_FRAMES} frames more)"
    for frame in frames[-_MOST_FRAMES:]:
        yield f'{indent}  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        if frame.line:
            yield f"{indent}    {frame.line}"
    yield f"{indent}{describe(error)}"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if id(inner) not in seen and len(seen) < _MOST_LINKED:
                yield from _lines(inner, seen, indent + "  | ")


def _reason(error: BaseException) -> tuple[BaseException | None, str]:
    if error.__cause__ is not None:
        return error.__cause__, "It is the cause of this one:"
    if error.__context__ is not None and not error.__suppress_context__:
        return error.__context__, "While it was handled, this one occurred:"
    return None, ""
