"""KEDA's operator and metrics server as processes beside the control plane."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
import time
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headrace_testing.k8s.plane import ControlPlane, free_port, spawn
from headrace_testing.k8s.schemas import Definitions
from headrace_testing.k8s.toolchain import Toolchain

_NAMESPACE: Final = "keda"
_GROUP: Final = "rbac.authorization.k8s.io"
_METRICS: Final = "external.metrics.k8s.io"
_START_SECONDS: Final = 90.0


class Keda:
    """Usage: `start`, then always `stop`."""

    def __init__(self, plane: ControlPlane, tools: Toolchain, folder: Path) -> None:
        self._plane = plane
        self._tools = tools
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, definitions: Definitions) -> None:
        """Start both and register the metrics server with the API server; returns when that works."""
        crds = [crd for crd in definitions.crds() if "keda.sh\n" in crd]
        self._plane.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join(crds))
        _write_certificates(self._folder)
        grpc, metrics = free_port(), free_port()
        self._register(metrics)
        self._spawn(
            "keda-operator",
            f"--cert-dir={self._folder}", f"--metrics-service-bind-address=127.0.0.1:{grpc}",
            f"--metrics-bind-address=127.0.0.1:{free_port()}", f"--health-probe-bind-address=127.0.0.1:{free_port()}",
        )  # fmt: skip
        self._spawn(
            "keda-adapter",
            f"--cert-dir={self._folder}", f"--tls-cert-file={self._folder / 'tls.crt'}",
            f"--tls-private-key-file={self._folder / 'tls.key'}", f"--secure-port={metrics}",
            "--bind-address=127.0.0.1", f"--port={free_port()}", f"--metrics-service-address=localhost:{grpc}",
            f"--authentication-kubeconfig={self._plane.kubeconfig}", "--authentication-skip-lookup=true",
            f"--authorization-kubeconfig={self._plane.kubeconfig}", f"--lister-kubeconfig={self._plane.kubeconfig}",
        )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while self._plane.kubectl("get", "--raw", f"/apis/{_METRICS}/v1beta1", check=False).code != 0:
            ended = [process for process in self._processes if process.poll() is not None]
            assert not ended, self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop both."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._plane.kubectl("delete", "apiservice", f"v1beta1.{_METRICS}", "--ignore-not-found")

    def logs(self) -> str:
        """The end of both logs."""
        texts = [(path.name, path.read_text(errors="replace")) for path in sorted(self._folder.glob("*.log"))]
        return "\n".join(f"{name}:\n{text[-2500:]}" for name, text in texts)

    def _spawn(self, name: str, *arguments: str) -> None:
        command = [str(self._tools.path(name)), *arguments]
        variables = {
            "KUBECONFIG": str(self._plane.kubeconfig), "POD_NAMESPACE": _NAMESPACE, "WATCH_NAMESPACE": "",
            "KEDA_CLUSTER_OBJECT_NAMESPACE": _NAMESPACE,
        }  # fmt: skip
        self._processes.append(spawn(command, self._folder / f"{name}.log", **variables))

    def _register(self, port: int) -> None:
        """Registers the metrics server; the API server has no client certificate, so anonymous requests are allowed."""
        name = "keda-metrics-apiserver"
        self._plane.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}},
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": _NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": f"v1beta1.{_METRICS}"},
                "spec": {
                    "group": _METRICS, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                    "insecureSkipTLSVerify": True,
                    "service": {"name": name, "namespace": _NAMESPACE, "port": port},
                },
            },
            {
                "apiVersion": f"{_GROUP}/v1", "kind": "ClusterRole", "metadata": {"name": name},
                "rules": [
                    {"apiGroups": [_METRICS], "resources": ["*"], "verbs": ["get", "list"]},
                    {"nonResourceURLs": ["/apis*", "/openapi*"], "verbs": ["get"]},
                ],
            },
            {
                "apiVersion": f"{_GROUP}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
                "subjects": [{"kind": "Group", "name": "system:unauthenticated", "apiGroup": _GROUP}],
                "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": name},
            },
        )  # fmt: skip


def _write_certificates(folder: Path) -> None:
    """One certificate for both sides, each of which trusts only that certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keda")])
    now = datetime.datetime.now(datetime.UTC)
    hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(hosts, critical=False)
        .add_extension(uses, critical=False)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.crt").write_bytes(public)
    (folder / "tls.crt").write_bytes(public)
    private = folder / "tls.key"
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
