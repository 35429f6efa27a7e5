"""The chart, the manifests and the discovery of nodes, on a real Kubernetes control plane; run by ``make test-k8s``.

``tools``          programs built from source, and what is made from published definitions
``plane``          a control plane of the session, with the custom resource definitions that the project uses
``namespace``      a namespace of its own that enforces Pod Security "restricted", gone after the test
``record``         times and transcript, written to ``bench-results`` and printed at the end
"""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace_testing.k8s.helm import CHART, ROOT, Record
from headrace_testing.k8s.plane import ControlPlane, running
from headrace_testing.k8s.schemas import Definitions
from headrace_testing.k8s.toolchain import Toolchain, toolchain

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}

_record = Record()


@pytest.fixture(scope="session")
def tools() -> Toolchain:
    found = toolchain()
    found.build()
    return found


@pytest.fixture(scope="session")
def definitions(tools: Toolchain) -> Definitions:
    return Definitions(tools)


@pytest.fixture(scope="session")
def record() -> Record:
    return _record


@pytest.fixture(scope="session")
def plane(
    request: pytest.FixtureRequest, tools: Toolchain, definitions: Definitions, record: Record
) -> Iterator[ControlPlane]:
    folder = Path(tempfile.mkdtemp(prefix="headrace-k8s-"))
    try:
        with running(tools, folder / "plane") as made:
            record.times |= {f"start {name}": seconds for name, seconds in made.seconds.items()}
            made.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join(_used(definitions)))
            made.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            yield made
        if request.session.testsfailed:
            logs = Path(tempfile.mkdtemp(prefix="headrace-k8s-logs-"))
            for log in (folder / "plane").glob("*.log"):
                shutil.copy(log, logs)
            record.lines.append(f"logs of the control plane: {logs}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"t-{uuid.uuid4().hex[:8]}"
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


def _used(definitions: Definitions) -> list[str]:
    """The definitions of kinds that the chart or a manifest names; the rest would only cost time."""
    files = [path for folder in (CHART, ROOT / "k8s") for path in folder.rglob("*.yaml")]
    text = "\n".join(path.read_text() for path in files)
    return [crd for crd in definitions.crds() if f"kind: {_kind(crd)}\n" in text]


def _kind(crd: str) -> str:
    found = re.search(r"^  names:\n(?:    .*\n)*?    kind: \"?(\w+)", crd, re.MULTILINE)
    assert found, crd[:200]
    return found[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs no cluster first, what needs most last."""
    items.sort(key=lambda item: [name in getattr(item, "fixturenames", ()) for name in ("keda", "plane")])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _record.times:
        return
    _record.write(ROOT / "bench-results")
    terminalreporter.section("transcript and times (bench-results/kubernetes*)")
    for line in _record.lines:
        terminalreporter.write_line(line)
    for what, seconds in _record.times.items():
        terminalreporter.write_line(f"{seconds:8.1f} s  {what}")
