"""Exports spans if there is a collector: the OpenTelemetry SDK with OTLP over HTTP."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased


def exporting_provider(
    *,
    service: str,
    instance: str,
    version: str,
    endpoint: str | None,
    sample_ratio: float,
    exporter: SpanExporter | None,
) -> TracerProvider:
    """A provider that exports to `exporter`, else to the collector at `endpoint`, in batches from a thread."""
    chosen = exporter if exporter is not None else OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    provider = TracerProvider(
        resource=Resource.create(
            {
                "service.namespace": "headrace",
                "service.name": service,
                "service.instance.id": instance,
                "service.version": version,
            }
        ),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(chosen))
    return provider
