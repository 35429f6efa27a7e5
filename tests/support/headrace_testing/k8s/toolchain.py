"""The programs that the Kubernetes tests need, built by Go from the pinned modules in ``tests/k8s/toolchain``.

Each program has a module there: ``go.mod`` pins its version and ``go.sum`` the digests of all dependencies, so that a
build uses exactly these, from whatever proxy Go is configured to use. Binaries are in the cache folder, under a name
derived from their inputs; an interrupted build resumes from Go's own cache.

    python -m headrace_testing.k8s.toolchain        build what is missing, and print where it is
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from headrace_devstack.settings import load_settings

MODULES: Final = Path(__file__).parents[3] / "k8s" / "toolchain"
KUBERNETES_VERSION: Final = "v1.36.3"

_EXIT_UNUSABLE: Final = 2
_STAMP: Final = "k8s.io/component-base/version"
_KUBERNETES_FLAGS: Final = (
    f"-X {_STAMP}.gitVersion={KUBERNETES_VERSION} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor=36 "
    f"-X {_STAMP}.gitTreeState=clean"
)


class InstallGo(Exception):
    """There is no usable Go that can build the programs; the message says what to do."""


class BuildFailed(Exception):
    """Go could not build a program; the message ends with Go's output."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        module: Folder of its module in `MODULES`.
        package: The package to build.
        flags: For the linker.
    """

    name: str
    module: str
    package: str
    flags: str = ""


PROGRAMS: Final = (
    # The quickest first, so that tests which need no cluster can run while the rest is built.
    Program("helm3", "helm3", "helm.sh/helm/v3/cmd/helm"),
    Program("helm4", "helm4", "helm.sh/helm/v4/cmd/helm"),
    Program("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    Program("promtool", "promtool", "github.com/prometheus/prometheus/cmd/promtool"),
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    *(
        Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_FLAGS)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    ),
)


# Separate from the others: with the client libraries of all clouds, KEDA takes longer to build than Kubernetes.
KEDA_PROGRAMS: Final = tuple(
    Program(f"keda-{name}", "keda", f"github.com/kedacore/keda/v2/cmd/{name}") for name in ("operator", "adapter")
)

ALL_PROGRAMS: Final = (*PROGRAMS, *KEDA_PROGRAMS)


class Toolchain:
    """The programs in the cache folder.

    Args:
        cache: The folder; every version has its own subfolder.
    """

    def __init__(self, cache: Path) -> None:
        self.folder = cache.absolute() / "kubernetes"

    def path(self, name: str) -> Path:
        """The path of a program, whether or not it has been built."""
        program = next(program for program in ALL_PROGRAMS if program.name == name)
        return self.folder / f"{name}-{_digest(program)}" / name

    def missing(self, programs: Sequence[Program] = PROGRAMS) -> tuple[Program, ...]:
        """The programs that have not been built yet."""
        return tuple(program for program in programs if not self.path(program.name).is_file())

    def build(self, programs: Sequence[Program] = PROGRAMS) -> None:
        """Build what is missing; waits for another process that builds into the same folder.

        Raises InstallGo, BuildFailed.
        """
        if not self.missing(programs):
            return
        with self._alone():
            for program in self.missing(programs):
                self._build(program)

    def source(self, module: str, dependency: str) -> Path:
        """The sources of a program's module, for example for its CRDs. Raises InstallGo, BuildFailed."""
        said = _go("mod", "download", "-json", dependency, folder=MODULES / module)
        return Path(json.loads(said)["Dir"])

    @cached_property
    def go_version(self) -> str:
        """Version of the installed Go. Raises InstallGo."""
        return _go("env", "GOVERSION", folder=MODULES / "kubernetes").strip()

    def _build(self, program: Program) -> None:
        target = self.path(program.name)
        print(f"  building {program.name} with {self.go_version} …", end="", flush=True)
        began = time.monotonic()
        new = target.parent.with_name(f"{target.parent.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        # Two at a time and at low priority, since other work runs on the machine.
        _go(
            "build", "-p", "2", "-trimpath", f"-ldflags=-s -w {program.flags}".rstrip(),
            "-o", str(new / program.name), program.package,
            folder=MODULES / program.module,
        )  # fmt: skip
        shutil.rmtree(target.parent, ignore_errors=True)
        new.rename(target.parent)
        print(f" {time.monotonic() - began:.0f} s", flush=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def go_module(coordinate: str, checksum: str) -> Path:
    """Sources of the module `path@version` with this checksum. Raises InstallGo, BuildFailed."""
    with tempfile.TemporaryDirectory(prefix="headrace-go-") as nowhere:
        said = json.loads(_go("mod", "download", "-json", coordinate, folder=Path(nowhere)))
    if said["Sum"] != checksum:
        raise BuildFailed(f"{coordinate} has the checksum {said['Sum']}, pinned is {checksum}: it is another module.")
    return Path(said["Dir"])


def _digest(program: Program) -> str:
    content = hashlib.sha256(f"{program.package} {program.flags}".encode())
    for name in ("go.mod", "go.sum"):
        content.update((MODULES / program.module / name).read_bytes())
    return content.hexdigest()[:12]


def _go(*arguments: str, folder: Path) -> str:
    go = shutil.which("go")
    if go is None:
        raise InstallGo(
            "Go is not installed, and the Kubernetes tests build their control plane with it.\n"
            "  What to do: install Go 1.26 or newer and put it on PATH; Go then downloads everything else."
        )
    nice = [found, "-n", "15"] if (found := shutil.which("nice")) else []
    done = subprocess.run(
        [*nice, go, *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr or done.stdout).strip()
    if "requires go" in said:
        raise InstallGo(f"The installed Go is too old.\n  Go says: {said}\n  What to do: install Go 1.26 or newer.")
    raise BuildFailed(
        f"`go {' '.join(arguments)}` failed in {folder}:\n{said[-2000:]}\n"
        "  What to do: check that this machine can reach the module proxy in GOPROXY, and run it again. "
        "Finished builds are reused."
    )


def toolchain() -> Toolchain:
    """The programs in the project's cache folder (HEADRACE_CACHE)."""
    return Toolchain(load_settings().cache)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is missing; exit code 2 without a usable Go."""
    parser = argparse.ArgumentParser(
        prog="python -m headrace_testing.k8s.toolchain", description="Build what is missing."
    )
    parser.add_argument("--keda", action="store_true", help="KEDA too, which takes longer than all the rest")
    programs = ALL_PROGRAMS if parser.parse_args(arguments).keda else PROGRAMS
    tools = toolchain()
    missing = tools.missing(programs)
    if missing:
        print(f"Building {len(missing)} programs into {tools.folder}; this takes some minutes once.", flush=True)
    try:
        tools.build(programs)
    except (InstallGo, BuildFailed) as error:
        print(f"x {error}", file=sys.stderr)
        return _EXIT_UNUSABLE
    print(f"  {len(programs)} programs in {tools.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
