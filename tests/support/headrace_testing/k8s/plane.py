"""A control plane on loopback: etcd, API server, controllers, scheduler, and kwok simulating nodes and kubelets.

Each program is a process with its log in the plane's folder. No container runs: a pod is "running" as soon as kwok
reports it, on a node that exists only as an object. The deciding parts are real: admission, Pod Security, RBAC, the
scheduler, Deployments, StatefulSets, Jobs, EndpointSlices, disruption budgets, garbage collection.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.client
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from headrace_testing.k8s.toolchain import Toolchain

START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0
_TOGETHER_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG
NODES: Final = ("node-a", "node-b", "node-c")
GPU_LABEL: Final = "nvidia.com/gpu.product"
_STAGES: Final = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
    "volume/fast/pv-bind.yaml",
    "volume/fast/pv-delete.yaml",
    "volume/fast/pvc-provision.yaml",
    "volume/fast/pvc-delete.yaml",
)


class CommandFailed(AssertionError):
    """A kubectl or helm command failed; the message contains its whole output."""


@dataclass(frozen=True, slots=True)
class Said:
    """The output of a command."""

    code: int
    out: str
    err: str


def run_command(command: Sequence[str], *, check: bool = True, given: str | None = None, **variables: str) -> Said:
    """Run a command to completion. Raises CommandFailed if it fails and `check` is set."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, env={**os.environ, **variables}, timeout=600
    )
    if check and done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return Said(done.returncode, done.stdout, done.stderr)


@dataclass(slots=True)
class ControlPlane:
    """Usage: `with running(tools, folder) as plane`.

    Attributes:
        seconds: Time each part took to start.
    """

    tools: Toolchain
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    _etcd_port: int = field(default_factory=lambda: free_port())
    _peer_port: int = field(default_factory=lambda: free_port())
    _api_port: int = field(default_factory=lambda: free_port())
    _token: str = field(default_factory=lambda: secrets.token_hex(16))
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._api_port}"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of an administrator."""
        return self.folder / "admin.kubeconfig"

    @property
    def certificate(self) -> Path:
        """The CA of the API server's certificate."""
        return self.folder / "certificates" / "apiserver.crt"

    def start(self) -> None:
        """Start everything; returns when the nodes are ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_keys()
        self.start_etcd()
        self.start_apiserver()
        self._timed("controllers and nodes", self._start_the_rest)

    def stop(self) -> None:
        """Stop everything, the API server before etcd: it would wait for it."""
        for name in ("kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            self.end(name)

    def start_etcd(self) -> None:
        """Start etcd; data in its folder is retained."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        self._spawn(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync", "--log-level=warn",
        )  # fmt: skip
        self._timed("etcd", lambda: self._until("etcd", lambda: self._etcd("maintenance/status") is not None))

    def start_apiserver(self) -> None:
        """Start the API server, always on the same address; returns when it is ready."""
        self.launch_apiserver()
        self.await_apiserver()

    def await_apiserver(self) -> None:
        """Return when the API server is ready."""
        self._timed("kube-apiserver", lambda: self._until("kube-apiserver", self._ready))

    def launch_apiserver(self) -> None:
        """Start the API server without waiting. Only from the main thread: it ends with the thread that started it."""
        keys = self.folder / "service-accounts.key"
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1", f"--secure-port={self._api_port}",
            f"--cert-dir={self.certificate.parent}", f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys}", f"--service-account-signing-key-file={keys}",
            # It has no address of its own to publish in the endpoints of `kubernetes`.
            "--endpoint-reconciler-type=none", "--shutdown-delay-duration=0s",
        )  # fmt: skip

    def end(self, name: str, *, by: int = signal.SIGTERM) -> None:
        """Stop one process and wait for it."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(by)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def compact(self) -> None:
        """Compact etcd to the newest revision."""
        status = self._etcd("maintenance/status")
        assert status is not None
        self._etcd("kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def kubectl(self, *arguments: str, check: bool = True, given: str | None = None) -> Said:
        """Run kubectl as an administrator. Raises CommandFailed."""
        command = [str(self.tools.path("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return run_command(command, check=check, given=given)

    def get(self, *arguments: str) -> Any:
        """The result of `kubectl get`, as data."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").out)

    def post(self, path: str, body: Mapping[str, Any], *, as_user: str, as_groups: Sequence[str] = ()) -> Any:
        """The API server's response to a request on behalf of another user."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", self._api_port, timeout=10, context=context)
        with contextlib.closing(connection):
            content = json.dumps(body).encode()
            connection.putrequest("POST", path)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(content)))
            connection.putheader("Authorization", f"Bearer {self._token}")
            connection.putheader("Impersonate-User", as_user)
            for group in as_groups:
                connection.putheader("Impersonate-Group", group)
            connection.endheaders(content)
            answer = connection.getresponse()
            said = json.load(answer)
            assert answer.status in (200, 201), said
            return said

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(objects))

    def kubeconfig_of(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig with a service account's token, as in its pods."""
        token = self.kubectl("create", "token", service_account, "-n", namespace).out.strip()
        return self._write_kubeconfig(self.folder / f"{namespace}-{service_account}.kubeconfig", token, namespace)

    def log(self, name: str) -> str:
        """The log of a process."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _start_the_rest(self) -> None:
        self._write_kubeconfig(self.kubeconfig, self._token)
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}", f"--root-ca-file={self.certificate}",
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
            "--horizontal-pod-autoscaler-sync-period=2s",
        )  # fmt: skip
        self._spawn(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
        )  # fmt: skip
        self._write_stages()
        self._spawn(
            "kwok",
            f"--kubeconfig={self.kubeconfig}", f"--config={self.folder / 'stages.yaml'}", "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40", f"--server-address=127.0.0.1:{free_port()}",
        )  # fmt: skip
        self.apply(*(_node(name) for name in NODES), _STORAGE_CLASS)
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", f"--timeout={START_SECONDS:.0f}s")
        self._until("kube-controller-manager", self._has_default_account)

    def _has_default_account(self) -> bool:
        return self.kubectl("get", "serviceaccount", "default", "-n", "default", check=False).code == 0

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = _spawn([str(self.tools.path(name)), *arguments], log)

    def _timed(self, name: str, work: Callable[[], None]) -> None:
        began = time.monotonic()
        work()
        self.seconds[name] = round(time.monotonic() - began, 2)

    def _until(self, name: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not done():
            process = self._processes[name]
            if process.poll() is not None or time.monotonic() > deadline:
                state = f"ended with {process.returncode}" if process.poll() is not None else "is not ready in time"
                raise AssertionError(f"{name} {state}:\n{self.log(name)[-3000:]}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        if not self.certificate.exists():
            return False
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._token}"})
        try:
            context = ssl.create_default_context(cafile=str(self.certificate))
            with urllib.request.urlopen(request, timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _etcd(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        address = f"http://127.0.0.1:{self._etcd_port}/v3/{path}"
        try:
            with urllib.request.urlopen(address, data=json.dumps(body or {}).encode(), timeout=5) as answer:
                return json.load(answer)
        except OSError:
            if body:
                raise
            return None

    def _write_keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write_secret(
            self.folder / "service-accounts.key",
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            ),
        )
        _write_secret(self.folder / "tokens.csv", f'{self._token},admin,admin,"system:masters"\n'.encode())

    def _write_kubeconfig(self, path: Path, token: str, namespace: str = "default") -> Path:
        authority = base64.b64encode(self.certificate.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        _write_secret(path, yaml.safe_dump(content).encode())
        return path

    def _write_stages(self) -> None:
        stages = self.tools.source("kwok", "sigs.k8s.io/kwok") / "kustomize" / "stage"
        texts = [(stages / name).read_text() for name in _STAGES]
        (self.folder / "stages.yaml").write_text("\n---\n".join([*texts, yaml.safe_dump(_helm_test_stage(texts))]))


@contextlib.contextmanager
def running(tools: Toolchain, folder: Path) -> Iterator[ControlPlane]:
    """A running control plane, stopped afterwards."""
    plane = ControlPlane(tools, folder)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(command: Sequence[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start a process that cannot outlive this one."""
    with log.open("ab") as file:
        return _spawn(command, file, **variables)


def _spawn(command: Sequence[str], log: IO[bytes], **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **variables},
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_TOGETHER_WITH_PARENT, signal.SIGTERM)


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)


def _node(name: str) -> Mapping[str, Any]:
    room = {"cpu": "32", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "4"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/region": "test",
                "topology.kubernetes.io/zone": f"zone-{name[-1]}",
                GPU_LABEL: f"Test-GPU-{name[-1]}",
            },
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "status": {"allocatable": room, "capacity": room},
    }


_STORAGE_CLASS: Final[Mapping[str, Any]] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "kwok-volume", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "kwok.x-k8s.io/volume",
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
}


def _helm_test_stage(stages: Sequence[str]) -> Mapping[str, Any]:
    """Completes pods of `helm test` as kwok's own stage completes those of Jobs."""
    complete = next(stage for text in stages if (stage := yaml.safe_load(text))["metadata"]["name"] == "pod-complete")
    wanted = [rule for rule in complete["spec"]["selector"]["matchExpressions"] if "ownerReferences" not in rule["key"]]
    wanted.append({"key": '.metadata.annotations["helm.sh/hook"]', "operator": "In", "values": ["test"]})
    return {
        **complete,
        "metadata": {"name": "helm-test-complete"},
        "spec": {**complete["spec"], "selector": {"matchExpressions": wanted}},
    }
