"""Metrics have conventional names in one registry; traces pass through record headers and HTTP headers."""

from __future__ import annotations

import pytest
from headrace_runtime import tracing
from headrace_runtime.metrics import LATENCY_BUCKETS, Metrics
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode


def test_names_follow_the_convention_and_live_in_one_registry() -> None:
    metrics = Metrics("router")
    metrics.counter("decisions", "Decisions.", ("kind",)).labels("dispatch").inc()
    metrics.gauge("tasks", "Tasks.").set(3)
    metrics.latency("decision", "Time.").observe(0.0007)
    metrics.for_subsystem("kafka").size("record", "Size.").observe(300)
    registry = metrics.registry
    assert registry.get_sample_value("headrace_router_decisions_total", {"kind": "dispatch"}) == 1
    assert registry.get_sample_value("headrace_router_tasks") == 3
    assert registry.get_sample_value("headrace_router_decision_seconds_bucket", {"le": "0.0005"}) == 0
    assert registry.get_sample_value("headrace_router_decision_seconds_bucket", {"le": "0.001"}) == 1
    assert registry.get_sample_value("headrace_kafka_record_bytes_count") == 1
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1]) == (0.0005, 60.0)


def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    Metrics("a").counter("x", "X.").inc()
    other = Metrics("a")
    other.counter("x", "X.")
    assert other.registry.get_sample_value("headrace_a_x_total") == 0


def test_ids_flow_without_a_collector() -> None:
    with tracing.span("first") as first:
        headers = tracing.inject([("ce_id", b"e1")])
        trace_id = tracing.current_trace_id()
    assert tracing.current_trace_id() is None
    assert not first.is_recording()
    assert headers[0] == ("ce_id", b"e1")
    name, value = headers[1]
    assert name == "traceparent"
    assert value.decode().split("-")[1] == trace_id
    with tracing.span("second", parent=tracing.extract(headers)) as second:
        assert tracing.current_trace_id() == trace_id
        assert second.get_span_context().span_id != first.get_span_context().span_id


def test_a_span_inside_a_span_keeps_the_trace_and_changes_the_span() -> None:
    with tracing.span("outer") as outer, tracing.span("inner") as inner:
        assert inner.get_span_context().trace_id == outer.get_span_context().trace_id
        assert inner.get_span_context().span_id != outer.get_span_context().span_id


def test_an_older_context_in_the_headers_is_replaced() -> None:
    stale = [("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"), ("x", b"y")]
    with tracing.span("now"):
        headers = tracing.inject(stale)
        assert [name for name, _ in headers] == ["x", "traceparent"]
        assert headers[1][1].decode().split("-")[1] == tracing.current_trace_id()


@pytest.mark.parametrize(
    "headers",
    [None, [], [("traceparent", b"nonsense")], [("traceparent", None)], [("traceparent", b"\xff\xfe")]],
)
def test_a_missing_or_broken_context_starts_a_new_trace(headers: list[tuple[str, bytes | None]] | None) -> None:
    with tracing.span("work", parent=tracing.extract(headers)):
        assert tracing.current_trace_id() is not None


def test_a_parent_replaces_the_current_span() -> None:
    with tracing.span("consumer loop"):
        loop = tracing.current_trace_id()
        with tracing.span("work", parent=tracing.extract([])):
            assert tracing.current_trace_id() != loop


def test_spans_are_exported_with_their_parents_once_there_is_a_collector() -> None:
    memory = InMemorySpanExporter()
    end_export = tracing.setup(service="s", instance="i", version="1", endpoint=None, exporter=memory)
    try:
        with tracing.span("intake", {"task": "t1"}):
            headers = tracing.inject([])
        with pytest.raises(ValueError, match="boom"), tracing.span("router", parent=tracing.extract(headers)):
            raise ValueError("boom")
        end_export()
    finally:
        tracing.setup(service="s", instance="i", version="1", endpoint=None)
    intake, router = memory.get_finished_spans()
    assert (intake.name, router.name) == ("intake", "router")
    assert intake.attributes == {"task": "t1"}
    assert router.parent is not None
    assert intake.context is not None
    assert router.parent.span_id == intake.context.span_id
    assert router.status.status_code is StatusCode.ERROR
    assert intake.resource.attributes["service.name"] == "s"


def test_http_headers_carry_the_same_context() -> None:
    with tracing.span("call"):
        headers = tracing.inject_mapping({})
        trace_id = tracing.current_trace_id()
    with tracing.span("served", parent=tracing.extract_mapping(headers)):
        assert tracing.current_trace_id() == trace_id
    assert trace.get_current_span().get_span_context().is_valid is False
