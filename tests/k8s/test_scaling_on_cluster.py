"""KEDA scales on the seconds of work that a running local worker tells: from zero, up, and back to zero.

Real are the worker (a process, on real Kafka, with a simulated node), KEDA's operator and metrics server, and the
cluster's own autoscaler; the pods that come and go are kwok's.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from headrace_contracts.events import Lane
from headrace_contracts.topics import WORK_LOCAL_BATCH
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_testing.k8s.helm import Record
from headrace_testing.k8s.keda import Keda
from headrace_testing.k8s.plane import ControlPlane, free_port
from headrace_testing.k8s.schemas import Definitions
from headrace_testing.k8s.toolchain import KEDA_PROGRAMS, Toolchain
from headrace_testing.services_on_kafka import topics_on_kafka
from headrace_testing.workers import attempt

ATTEMPTS = 60
MOST = 3

pytestmark = [pytest.mark.timeout(900), pytest.mark.stack]


@pytest.fixture(scope="module")
def keda(
    plane: ControlPlane, tools: Toolchain, definitions: Definitions, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keda]:
    if tools.missing(KEDA_PROGRAMS):
        pytest.skip("KEDA is not built; `make test-k8s KEDA=1` builds it, which takes long the first time")
    made = Keda(plane, tools, tmp_path_factory.mktemp("keda"))
    try:
        made.start(definitions)
        yield made
    finally:
        made.stop()


@contextmanager
def worker(folder: Path, ops_port: int, **variables: str) -> Iterator[None]:
    """A local worker as a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace_local_worker"],
            env={**kept, "HEADRACE_OPS_PORT": str(ops_port), **variables},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def deployment(namespace: str) -> dict[str, Any]:
    secure = {
        "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    pod = {"containers": [{"name": "worker", "image": "worker", "securityContext": secure}]}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "workers", "namespace": namespace},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "workers"}},
            "template": {"metadata": {"labels": {"app": "workers"}}, "spec": pod},
        },
    }  # fmt: skip


def scaled_object(namespace: str, url: str) -> dict[str, Any]:
    """As the chart writes it, but in seconds where a cluster would take minutes, and of the one worker there is."""
    work = {"url": url, "format": "json", "valueLocation": "outstanding_work_seconds", "targetValue": "5"}
    return {
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": "workers", "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "workers"},
            "pollingInterval": 1, "cooldownPeriod": 3, "minReplicaCount": 0, "maxReplicaCount": MOST,
            "advanced": {
                "horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}
            },
            "triggers": [{"type": "metrics-api", "name": "work-seconds", "metadata": work}],
        },
    }  # fmt: skip


class PodWatch:
    """How many pods there are, as time goes by."""

    def __init__(self, plane: ControlPlane, namespace: str, keda: Keda) -> None:
        self._plane = plane
        self._namespace = namespace
        self._keda = keda
        self.seen: list[int] = []

    async def until(self, wanted: int, seconds: float) -> float:
        began = time.monotonic()
        while True:
            found = await asyncio.to_thread(self._plane.get, "pods", "-n", self._namespace)
            ready = [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]
            if not self.seen or self.seen[-1] != len(ready):
                self.seen.append(len(ready))
            if len(ready) == wanted:
                return time.monotonic() - began
            assert time.monotonic() - began < seconds, f"{self.seen}\n{self._keda.logs()}"
            await asyncio.sleep(0.5)


async def outstanding(url: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return float((await answer.json())["outstanding_work_seconds"])


async def test_pods_come_with_work_and_go_without(
    plane: ControlPlane, keda: Keda, namespace: str, kafka: str, registry_url: str, topic_prefix: str, tmp_path: Path,
    record: Record,
) -> None:  # fmt: skip
    port = free_port()
    url = f"http://127.0.0.1:{port}/work"
    async with (
        topics_on_kafka(kafka, registry_url, topic_prefix) as topics,
        Simulator(SimulatorConfig(speed=Speed(1.0))) as simulator,
    ):
        variables = {
            "HEADRACE_BOOTSTRAP_SERVERS": kafka, "HEADRACE_REGISTRY_URL": registry_url,
            "HEADRACE_TOPIC_PREFIX": topic_prefix, "HEADRACE_INSTANCE_ID": "worker-0",
            "HEADRACE_OLLAMA_NODES": f"{simulator.ollama_url('workstation')};slots=1",
        }  # fmt: skip
        with worker(tmp_path, port, **variables):
            assert await is_ready(f"http://127.0.0.1:{port}/readyz"), (tmp_path / "worker.log").read_text()
            assert await outstanding(url) == 0
            pods = PodWatch(plane, namespace, keda)
            await asyncio.to_thread(plane.apply, deployment(namespace))
            await pods.until(1, 60)
            await asyncio.to_thread(plane.apply, scaled_object(namespace, url))
            record.times["KEDA: to zero without work"] = round(await pods.until(0, 90), 1)

            requests = [replace(attempt(f"task-{number}"), lane=Lane.BATCH) for number in range(ATTEMPTS)]
            await topics.publish(
                WORK_LOCAL_BATCH, "acme", [(f"p:{one.task_id}", one.attempt_id, one) for one in requests]
            )
            record.times["KEDA: from zero to the first pod"] = round(await pods.until(1, 60), 1)
            work = await outstanding(url)
            assert work > 0
            record.times["KEDA: to all pods"] = round(await pods.until(MOST, 90), 1)
            record.lines.append(f"KEDA scaled on {work:.0f} s of outstanding work to {MOST} pods")
            record.times["KEDA: back to zero, the work itself included"] = round(await pods.until(0, 300), 1)
            assert await outstanding(url) == 0
    assert max(pods.seen) == MOST
    record.lines.append(f"pods, one after the other: {pods.seen}")


async def is_ready(url: str) -> bool:
    """Wait until a service is ready; whether it came to that."""
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return True
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    return False
