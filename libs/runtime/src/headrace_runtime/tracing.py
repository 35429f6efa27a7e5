"""Traces: W3C trace context from the caller's HTTP request through Kafka record headers and back.

Ids are always propagated, so that logs of all services can be joined; spans are recorded and exported only if a
collector is configured, because a recorded span costs several times as much as propagating ids.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

RecordHeaders = list[tuple[str, bytes]]
"""Headers of a Kafka record."""

_CARRIED: Final = ("traceparent", "tracestate")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_NO_PARENT: Final = Context()


class _IdTracer(Tracer):
    """Gives every span new ids within its parent's trace, and records nothing."""

    def start_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> Span:
        parent = trace.get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else random.getrandbits(128)
        flags = parent.trace_flags if parent.is_valid else TraceFlags(TraceFlags.DEFAULT)
        return NonRecordingSpan(SpanContext(trace_id, random.getrandbits(64) or 1, False, flags, parent.trace_state))

    def start_as_current_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> Any:
        return trace.use_span(self.start_span(name, context))


_tracer: Tracer = _IdTracer()
_own_tracer: ContextVar[Tracer | None] = ContextVar("own_tracer", default=None)
"""That of a service that shares its process."""


def setup(
    *,
    service: str,
    instance: str,
    version: str,
    endpoint: str | None,
    sample_ratio: float = 1.0,
    exporter: SpanExporter | None = None,
    shared: bool = False,
) -> Callable[[], None]:
    """Choose where the spans of this process go: `endpoint` (OTLP over HTTP), `exporter`, or nowhere if both are None.

    Where the process is `shared`, this holds for the current task and the tasks and threads that it starts.

    Returns a function that flushes and ends the export; it may block for some seconds, so call it from a thread.
    """
    if endpoint is None and exporter is None:
        _use(_IdTracer(), shared=shared)
        return lambda: None
    # Imported only here: a service without a collector starts faster and smaller without the SDK.
    from headrace_runtime.span_export import exporting_provider

    provider = exporting_provider(
        service=service,
        instance=instance,
        version=version,
        endpoint=endpoint,
        sample_ratio=sample_ratio,
        exporter=exporter,
    )
    _use(provider.get_tracer("headrace"), shared=shared)
    return provider.shutdown


def _use(tracer: Tracer, *, shared: bool) -> None:
    global _tracer
    if shared:
        _own_tracer.set(tracer)
    else:
        _tracer = tracer


def span(
    name: str,
    attributes: Attributes = None,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> AbstractContextManager[Span]:
    """A span around a block, current inside it. `parent` (from `extract`) replaces the current one as its parent.

    Attributes hold ids, names and counts, never content. An exception that leaves the block marks the span as failed
    with its type; its message might quote content.
    """
    tracer = _own_tracer.get() or _tracer
    if isinstance(tracer, _IdTracer):
        ids: AbstractContextManager[Span] = tracer.start_as_current_span(name, parent)
        return ids
    return _recorded(tracer, name, parent, kind, attributes)


@contextmanager
def _recorded(
    tracer: Tracer, name: str, parent: Context | None, kind: SpanKind, attributes: Attributes
) -> Iterator[Span]:
    with tracer.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield made
        except Exception as error:
            made.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def inject(headers: RecordHeaders) -> RecordHeaders:
    """Put the current trace context into `headers`, replacing an older one, and return them."""
    if any(key in _CARRIED for key, _ in headers):
        headers[:] = [item for item in headers if item[0] not in _CARRIED]
    _PROPAGATOR.inject(headers, setter=_SETTER)
    return headers


def extract(headers: Sequence[tuple[str, bytes | None]] | None) -> Context:
    """The trace context of a Kafka record; an empty one, which starts a new trace, if it is missing or malformed."""
    if not headers:
        return _NO_PARENT
    carried = {key: value.decode("ascii", "replace") for key, value in headers if key in _CARRIED and value is not None}
    return extract_mapping(carried)


def extract_mapping(headers: Mapping[str, str]) -> Context:
    """The trace context of HTTP headers."""
    return _PROPAGATOR.extract(headers, _NO_PARENT, getter=_GETTER)


def inject_mapping(headers: dict[str, str]) -> dict[str, str]:
    """Put the current trace context into HTTP headers and return them."""
    _PROPAGATOR.inject(headers)
    return headers


def current_trace_id() -> str | None:
    """The trace id in hexadecimal, or None outside any span."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


class _MappingGetter(Getter[Mapping[str, str]]):
    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key)
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


class _RecordSetter(Setter[RecordHeaders]):
    def set(self, carrier: RecordHeaders, key: str, value: str) -> None:
        carrier.append((key, value.encode("ascii")))


_GETTER: Final = _MappingGetter()
_SETTER: Final = _RecordSetter()
