"""Logs: one structured line per event, JSON or human, from structlog and from libraries that use `logging`.

    log = get_logger("headrace.router")
    with log_context(task_id=task.id, tenant=task.tenant):
        log.info("dispatched", model=model)

Trace and span ids are added from the current span. Never pass prompts, answers or keys to a logger; `redact` is only
the second line of defence, by field name and by the shape of the text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, TextIO, cast

import structlog
from opentelemetry import trace
from structlog.types import EventDict, Processor

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
    stream: TextIO | None = None,
) -> None:
    """Set up logging for the whole process; the last call wins. `stream` defaults to standard output."""
    out = stream if stream is not None else sys.stdout
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_logger_name,
        _add_trace_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _identify(service, instance),
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
    logging.captureWarnings(True)


def _rendering(format: Literal["json", "human"], *, colors: bool) -> Iterable[Processor]:
    if format == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    # The rich traceback would print the values of local variables, prompts among them.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, timestamp_key="time")]


def _identify(service: str, instance: str) -> Processor:
    def add(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        event["instance"] = instance
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


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces what must not be logged: fields named like content or secrets, and texts that look like keys."""
    return redact_mapping(event)
