"""The metrics of every service: `python -m headrace_testing.exported_metrics` prints names and labels as JSON.

It builds each service from its settings and reads its registry; nothing is started. It runs in a process of its own,
since Kafka clients connect to brokers as soon as they are created.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from headrace_devstack.services import SERVICES

from headrace_testing.described_services import settings_of, wiring_of

_SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
_ENVIRONMENT: Final = {
    "HEADRACE_DATABASE_URL": "postgresql://unused:unused@127.0.0.1:1/none",
    "HEADRACE_KEY_PEPPER": "a pepper for metrics alone",
    "HEADRACE_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "GROQ_API_KEY": "none",
}


def exported() -> dict[str, list[str]]:
    """Labels of each time series by name, across all services."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


async def _collect() -> dict[str, list[str]]:
    from headrace_runtime.health import Health
    from headrace_runtime.ops import OpsServer

    series: dict[str, list[str]] = {}
    for service in SERVICES:
        built = wiring_of(service).build(settings_of(service).load())
        OpsServer(
            host="", port=0, service=service.name, version="", instance="", health=Health(), metrics=built.metrics
        )  # registers the metrics that every process has
        registry: Any = built.metrics.registry
        for collector in set(registry._names_to_collectors.values()):
            labels = list(getattr(collector, "_labelnames", ()))
            for metric in collector.collect():
                for suffix in _SUFFIXES.get(metric.type, ("",)):
                    series[metric.name + suffix] = labels
    return series


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_collect())))
    sys.stdout.flush()
    # The clients' threads are still trying to connect.
    os._exit(0)
