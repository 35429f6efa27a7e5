"""Logs: one structured line per event, JSON or human, from structlog and from libraries that use `logging`.

    log = get_logger("headrace.router")
    with log_context(task_id=task.id, tenant=task.tenant):
        log.info("dispatched", model=model)

Trace and span ids are added from the current span. Never pass prompts, answers or keys to a logger; `redact` is only
the second line of defence, by field name and by the shape of the text.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Literal, Protocol, TextIO, cast

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from opentelemetry import trace
from structlog.types import EventDict, Processor

from headrace_runtime.exceptions import format_exception
from headrace_runtime.redaction import redact_mapping

_QUIET: Final[Mapping[str, int]] = {
    # One line per request or per poll from these would drown everything else.
    "aiohttp.access": logging.WARNING,
    "aiokafka": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpcore2": logging.WARNING,
    # These log whole requests, prompts included, at debug.
    "openai": logging.WARNING,
    "anthropic": logging.WARNING,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
}


class LogStream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> int:
        """Append this."""
        ...

    def flush(self) -> None:
        """Pass on what has been written."""
        ...

    def isatty(self) -> bool:
        """Whether colours can be seen."""
        ...


_sharing: ContextVar[tuple[str, str] | None] = ContextVar("sharing", default=None)
"""Service and instance of the task or thread, where a process runs several."""


def speak_as(service: str, instance: str) -> None:
    """Lines of this task, and of the tasks and threads that it starts, are those of one of the process's services."""
    _sharing.set((service, instance))


def speaker() -> str | None:
    """The service that `speak_as` has named; None for the process itself."""
    named = _sharing.get()
    return None if named is None else named[0]


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose disabled levels cost one method call."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(logger_name=name))


def log_context(**values: str) -> AbstractContextManager[None]:
    """Adds `values` (task_id, tenant, ...) to every line written inside the block, also across awaits."""
    return structlog.contextvars.bound_contextvars(**values)


def configure(
    *,
    service: str,
    instance: str,
    format: Literal["json", "human"] = "json",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: LogStream | None = None,
) -> None:
    """Set up logging for the whole process; the last call wins. `stream` defaults to standard output."""
    # A text stream as structlog and `logging` name it; they use no more of it than `LogStream` has.
    out = cast(TextIO, stream if stream is not None else sys.stdout)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_logger_name,
        _add_trace_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _identify(service, instance),
        _format_exceptions,
        # Last, so that it sees all that will be written.
        redact,
    ]
    structlog.configure(
        processors=[*shared, *_rendering(format, colors=out.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(format, colors=out.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, threshold))
    server = logging.getLogger("aiohttp.server")
    server.filters = [_Malformed()]
    logging.captureWarnings(True)


def _rendering(format: Literal["json", "human"], *, colors: bool) -> Iterable[Processor]:
    if format == "json":
        return [
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    return [structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time")]


def _identify(service: str, instance: str) -> Processor:
    def add(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"], event["instance"] = _sharing.get() or (service, instance)
        return event

    return add


def _add_logger_name(_logger: Any, _method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    name = record.name if record is not None else event.pop("logger_name", None)
    if name is not None:
        event["logger"] = name
    return event


def _add_trace_ids(_logger: Any, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _format_exceptions(_logger: Any, _method: str, event: EventDict) -> EventDict:
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = format_exception(error)
    return event


def report_loop_error(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Logs what the event loop has nobody to raise to. Its own words would quote the exception and its values."""
    get_logger("asyncio").error("the event loop reports an error", what=context["message"].partition("\n")[0],
                                exc_info=context.get("exception"))  # fmt: skip


def report_thread_error(args: threading.ExceptHookArgs) -> None:
    """Logs the exception that ended a thread, for `threading.excepthook`."""
    name = args.thread.name if args.thread is not None else ""
    get_logger("threading").error("a thread has ended with an error", thread=name, exc_info=args.exc_value)


class _Malformed(logging.Filter):
    """Drops what aiohttp logs about requests that are not HTTP: a traceback and the bytes, for anybody who connects."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces what must not be logged: fields named like content or secrets, and texts that look like keys."""
    return redact_mapping(event)
