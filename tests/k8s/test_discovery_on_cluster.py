"""The local worker finds its nodes by the EndpointSlices of a real API server, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_contracts.events import Outcome
from headrace_contracts.topics import ATTEMPTS_FINISHED
from headrace_local_worker.adapters import cluster as adapter
from headrace_local_worker.adapters.cluster import ConfigureCluster
from headrace_models.worker.runner import AttemptRunner, RunnerOptions
from headrace_testing.k8s.finding import Finder, Slices, Wire, administrator, endpoint
from headrace_testing.k8s.helm import Record
from headrace_testing.k8s.plane import GPU_LABEL, ControlPlane
from headrace_testing.workers import WorkerBench, attempt, now_ms
from kubernetes.aio.config import incluster_config

A = endpoint("10.1.0.1", "ollama-0", ready=True)
B = endpoint("10.1.0.2", "ollama-1", ready=True)
URL_A, URL_B = "http://10.1.0.1:11434", "http://10.1.0.2:11434"

READ_SLICES = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}


@pytest.fixture
async def slices(plane: ControlPlane, namespace: str) -> AsyncIterator[Slices]:
    async with administrator(plane) as api:
        yield Slices(api, namespace)


@pytest.fixture
async def wire(plane: ControlPlane) -> AsyncIterator[Wire]:
    async with Wire(int(plane.url.rpartition(":")[2])) as made:
        yield made


@pytest.fixture
def account(plane: ControlPlane, namespace: str) -> Path:
    """A kubeconfig of a service account without any right."""
    plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker", "namespace": namespace}})
    return plane.kubeconfig_of(namespace, "worker")


@pytest.fixture
def kubeconfig(account: Path, wire: Wire, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's way to the cluster: over the wire, with the right to read slices."""
    grant(plane, namespace)
    use(account, wire, monkeypatch)


def grant(plane: ControlPlane, namespace: str) -> None:
    about = {"name": "worker", "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": "worker", "namespace": namespace}
    plane.apply(
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": about, "rules": [READ_SLICES]},
        {
            "apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": about, "subjects": [subject],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "worker"},
        },
    )  # fmt: skip


def use(account: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    content: dict[str, Any] = yaml.safe_load(account.read_text())
    content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{wire.port}"
    account.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("KUBECONFIG", str(account))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.mark.usefixtures("kubeconfig")
async def test_nodes_join_change_and_leave_within_two_seconds(namespace: str, slices: Slices, record: Record) -> None:
    took = []
    await slices.write("one", A)
    async with Finder(namespace).running() as finder:
        assert finder.nodes == {"ollama-0": URL_A}, "those of the first list are there before the worker is ready"
        await slices.write("two", B)
        took.append(await finder.until(lambda: finder.nodes == {"ollama-0": URL_A, "ollama-1": URL_B}))
        await slices.write("one", endpoint("10.1.0.1", "ollama-0", ready=False, serving=True, terminating=True))
        took.append(await finder.until(lambda: finder.nodes == {"ollama-1": URL_B}))
        await slices.write("one", endpoint("10.1.0.9", "ollama-0", ready=True))
        took.append(await finder.until(lambda: finder.nodes.get("ollama-0") == "http://10.1.0.9:11434"))
        await slices.write("two", endpoint("10.1.0.2", "ollama-1", ready=False))
        took.append(await finder.until(lambda: set(finder.nodes) == {"ollama-0"}))
        await slices.delete("one")
        took.append(await finder.until(lambda: finder.nodes == {}))
        assert finder.told[-1] is None
    record.times["discovery: longest of five changes"] = round(max(took), 3)


@pytest.mark.usefixtures("kubeconfig")
async def test_both_address_families_and_several_services_ports(namespace: str, slices: Slices) -> None:
    await slices.write("four", A)
    await slices.write("six", endpoint("fd00::1", "ollama-0", ready=True), family="IPv6")
    await slices.write("six-only", endpoint("fd00::2", "ollama-1", ready=True), family="IPv6")
    await slices.write("foreign", endpoint("10.1.0.7", "other-0", ready=True), service="other")
    await slices.write("named", endpoint("gpu.example", ready=True), family="FQDN")
    ports = [{"name": "metrics", "port": 9000}, {"name": "http", "port": 8080, "appProtocol": "https"}]
    await slices.write("secure", endpoint("10.1.0.8", "ollama-2", ready=True), ports=ports)
    async with Finder(namespace).running() as finder:
        assert finder.nodes == {
            "ollama-0": URL_A,
            "ollama-1": "http://[fd00::2]:11434",
            "gpu.example": "http://gpu.example:11434",
            "ollama-2": "https://10.1.0.8:8080",
        }
        await slices.delete("four")
        await finder.until(lambda: finder.nodes["ollama-0"] == "http://[fd00::1]:11434")


@pytest.mark.usefixtures("kubeconfig")
async def test_a_watch_that_is_cut_goes_on_and_misses_nothing(namespace: str, slices: Slices, wire: Wire) -> None:
    await slices.write("one", A)
    async with Finder(namespace).running() as finder:
        for number in range(3):
            wire.blocked = True
            wire.cut()
            await slices.write(f"extra-{number}", endpoint(f"10.1.1.{number}", f"extra-{number}", ready=True))
            if number:
                await slices.delete(f"extra-{number - 1}")
            await finder.until(lambda: finder.told[-1] is not None)
            assert "ollama-0" in finder.nodes, "nodes stand while the cluster does not answer"
            wire.blocked = False
            await finder.until(lambda number=number: set(finder.nodes) == {"ollama-0", f"extra-{number}"})  # type: ignore[misc]
        assert finder.told[-1] is None


@pytest.mark.usefixtures("kubeconfig")
async def test_a_connection_that_died_silently_is_noticed(
    namespace: str, slices: Slices, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "_WATCH_SECONDS", 1)
    monkeypatch.setattr(adapter, "_ANSWER_SECONDS", 1.0)
    await slices.write("one", A)
    async with Finder(namespace).running() as finder:
        wire.stall()
        await slices.write("two", B)
        await asyncio.sleep(0.5)
        assert set(finder.nodes) == {"ollama-0"}
        stalled = wire.connections
        await finder.until(lambda: wire.connections > stalled, seconds=6)
        wire.cut()
        wire.resume()
        await finder.until(lambda: set(finder.nodes) == {"ollama-0", "ollama-1"}, seconds=4)


@pytest.mark.usefixtures("kubeconfig")
@pytest.mark.timeout(300)
async def test_a_version_that_is_gone_leads_to_a_new_list(
    plane: ControlPlane, namespace: str, slices: Slices, wire: Wire, caplog: pytest.LogCaptureFixture, record: Record
) -> None:
    """410: etcd is compacted and the API server starts without a memory, while this worker is cut off."""
    caplog.set_level(logging.INFO)
    await slices.write("one", A)
    await slices.write("two", B)
    async with Finder(namespace).running() as finder:
        wire.blocked = True
        wire.cut()
        await slices.delete("one")
        await slices.write("three", endpoint("10.1.0.3", "ollama-2", ready=True))
        plane.end("kube-apiserver")
        plane.compact()
        plane.launch_apiserver()
        await asyncio.to_thread(plane.await_apiserver)
        assert set(finder.nodes) == {"ollama-0", "ollama-1"}
        wire.blocked = False
        took = await finder.until(lambda: set(finder.nodes) == {"ollama-1", "ollama-2"})
        record.times["discovery: after 410"] = round(took, 3)
        assert any("listing again" in line.message for line in caplog.records), "else this test shows nothing"
        await slices.delete("two")
        await finder.until(lambda: set(finder.nodes) == {"ollama-2"})


@pytest.mark.usefixtures("kubeconfig")
@pytest.mark.timeout(300)
async def test_a_restart_of_the_api_server_changes_nothing(
    plane: ControlPlane, namespace: str, slices: Slices, record: Record
) -> None:
    await slices.write("one", A)
    async with Finder(namespace).running() as finder:
        plane.end("kube-apiserver")
        await finder.until(lambda: finder.told[-1] is not None)
        await asyncio.sleep(1)
        assert set(finder.nodes) == {"ollama-0"}
        assert "does not answer" in (finder.told[-1] or "")
        plane.launch_apiserver()
        await asyncio.to_thread(plane.await_apiserver)
        await slices.write("two", B)
        took = await finder.until(lambda: set(finder.nodes) == {"ollama-0", "ollama-1"})
        record.times["discovery: after a restart of the API server"] = round(took, 3)
        assert finder.told[-1] is None


async def test_a_missing_role_is_told_with_what_to_grant(
    plane: ControlPlane, namespace: str, slices: Slices, account: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(account, wire, monkeypatch)
    await slices.write("one", A)
    finder = Finder(namespace)
    starting = asyncio.create_task(finder.discovery.start())
    try:
        await finder.until(lambda: bool(finder.told), seconds=10)
        said = finder.told[-1] or ""
        assert "Grant list and watch on endpointslices" in said
        assert namespace in said
        assert not starting.done(), "it waits for the right, and is not ready meanwhile"
        await asyncio.to_thread(grant, plane, namespace)
        await asyncio.wait_for(starting, 30)
        assert finder.nodes == {"ollama-0": URL_A}
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await finder.discovery.stop()


@pytest.mark.usefixtures("kubeconfig")
async def test_a_role_that_is_withdrawn_leaves_the_nodes_standing(
    plane: ControlPlane, namespace: str, slices: Slices, wire: Wire
) -> None:
    await slices.write("one", A)
    async with Finder(namespace).running() as finder:
        await asyncio.to_thread(plane.kubectl, "delete", "rolebinding", "worker", "-n", namespace)
        wire.cut()
        await finder.until(lambda: "Grant" in (finder.told[-1] or ""), seconds=10)
        assert finder.nodes == {"ollama-0": URL_A}


@pytest.mark.usefixtures("kubeconfig")
async def test_labels_of_cluster_nodes_become_hardware_where_they_may_be_read(
    plane: ControlPlane, namespace: str, slices: Slices, caplog: pytest.LogCaptureFixture
) -> None:
    await slices.write("one", endpoint("10.1.0.1", "ollama-0", node="node-a", ready=True))
    labels = {"gpu": GPU_LABEL, "slots": "headrace/slots"}
    async with Finder(namespace, labels=labels).running() as finder:
        assert finder.pool.endpoints["ollama-0"].hardware == {}, "not having the right costs the labels, nothing else"
        denied = [line.message for line in caplog.records if "no permission to read labels" in line.message]
        assert len(denied) == 1
        assert "ClusterRole" in denied[0]
    name = f"{namespace}-nodes"
    group = "rbac.authorization.k8s.io"
    await asyncio.to_thread(
        plane.apply,
        {
            "apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
        },
        {
            "apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "worker", "namespace": namespace}],
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        },
    )  # fmt: skip
    try:
        await asyncio.to_thread(plane.kubectl, "label", "node", "node-a", "headrace/slots=8")
        async with Finder(namespace, labels=labels).running() as finder:
            await slices.write("two", endpoint("10.1.0.2", "ollama-1", node="node-b", ready=True))
            await finder.until(lambda: len(finder.nodes) == 2)
            found = {name: (place.slots, place.hardware) for name, place in finder.pool.endpoints.items()}
            assert found == {"ollama-0": (8, {"gpu": "Test-GPU-a"}), "ollama-1": (4, {"gpu": "Test-GPU-b"})}
    finally:
        await asyncio.to_thread(plane.kubectl, "label", "node", "node-a", "headrace/slots-")
        await asyncio.to_thread(plane.kubectl, "delete", "clusterrole,clusterrolebinding", name)


@pytest.mark.usefixtures("kubeconfig")
async def test_workers_share_the_slots_by_their_own_service(
    namespace: str, slices: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "own_namespace", lambda: namespace)
    await slices.write("one", A)
    async with Finder(namespace, peers="kubernetes.io/service-name=workers").running() as finder:
        place = finder.pool.endpoints["ollama-0"]
        assert place.slots == 4
        workers = [endpoint(f"10.1.2.{number}", f"w{number}", ready=True) for number in (1, 2)]
        await slices.write("workers", *workers, service="workers")
        await finder.until(lambda: place.slots == 2)
        await slices.write("workers", workers[0], service="workers")
        await finder.until(lambda: place.slots == 4)
        assert finder.pool.endpoints["ollama-0"] is place, "what it has learnt of a node stays"


@pytest.mark.usefixtures("kubeconfig")
@pytest.mark.timeout(300)
async def test_pods_behind_a_service_join_and_leave_as_the_cluster_scales(plane: ControlPlane, namespace: str) -> None:
    """Slices as the cluster's own controller writes them."""
    labels = {"app": "ollama"}
    restricted = {
        "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {"name": "ollama", "image": "ollama", "securityContext": restricted}
    about = {"name": "ollama", "namespace": namespace}
    plane.apply(
        {
            "apiVersion": "v1", "kind": "Service", "metadata": about,
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"name": "http", "port": 11434}]},
        },
        {
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": about,
            "spec": {
                "replicas": 2, "serviceName": "ollama", "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
    )  # fmt: skip
    async with Finder(namespace).running() as finder:
        await finder.until(lambda: set(finder.nodes) == {"ollama-0", "ollama-1"}, seconds=60)
        await asyncio.to_thread(plane.kubectl, "scale", "statefulset/ollama", "-n", namespace, "--replicas=3")
        await finder.until(lambda: len(finder.nodes) == 3, seconds=60)
        await asyncio.to_thread(plane.kubectl, "delete", "pod", "ollama-0", "-n", namespace)
        await asyncio.to_thread(plane.kubectl, "scale", "statefulset/ollama", "-n", namespace, "--replicas=1")
        await finder.until(lambda: set(finder.nodes) == {"ollama-0"}, seconds=60)


@pytest.mark.usefixtures("kubeconfig")
async def test_a_node_that_leaves_may_finish_and_gets_nothing_new(namespace: str, slices: Slices) -> None:
    bench = WorkerBench()
    await bench.prepare()
    await slices.write("one", A)
    async with Finder(namespace).running() as finder:
        runner = AttemptRunner(
            codec=bench.codec, publisher=bench.publisher, pool=finder.pool, options=RunnerOptions(worker="w1"),
            outcomes_to=ATTEMPTS_FINISHED, clock_ms=now_ms, new_id=lambda: "execution-1",
        )  # fmt: skip
        provider = finder.providers["ollama-0"]
        finder.pool.update("ollama-0", provider.current)
        go_on = asyncio.Event()
        provider.script.append(go_on)
        running = asyncio.create_task(runner.handle(bench.submit(attempt("first"))))
        await finder.until(lambda: provider.running == 1)
        await slices.write("one", endpoint("10.1.0.1", "ollama-0", ready=False, serving=True, terminating=True))
        await finder.until(lambda: finder.nodes == {})

        await runner.handle(bench.submit(attempt("second")))
        go_on.set()
        await running
        ends = {end.task_id: end for end in bench.read(ATTEMPTS_FINISHED)}
        assert (ends["first"].outcome, ends["first"].node) == (Outcome.ANSWERED, "ollama-0")
        assert (ends["second"].outcome, ends["second"].failure.code) == (Outcome.FAILED_RETRYABLE, "no_capacity")
        await finder.until(lambda: provider.closed)


def mount(folder: Path, account: Path, plane: ControlPlane, namespace: str) -> None:
    """What a pod finds of its service account."""
    content: dict[str, Any] = yaml.safe_load(account.read_text())
    (folder / "token").write_text(content["users"][0]["user"]["token"])
    (folder / "ca.crt").write_text(plane.certificate.read_text())
    (folder / "namespace").write_text(namespace)


async def test_in_a_pod_it_logs_in_by_the_mounted_token(
    plane: ControlPlane, namespace: str, slices: Slices, account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(grant, plane, namespace)
    await slices.write("one", A)
    mount(tmp_path, account, plane, namespace)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(adapter, "_OWN_NAMESPACE", tmp_path / "namespace")
    host, _, port = plane.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    async with Finder("").running() as finder:
        assert finder.nodes == {"ollama-0": URL_A}


async def test_without_a_way_to_the_cluster_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigureCluster, match="HEADRACE_DISCOVERY=static"):
        await Finder("default").discovery.start()
