"""The programs that the Kubernetes tests need, built by Go from the pinned modules in ``tests/k8s/toolchain``.

Each program has a module there: ``go.mod`` names its version and ``go.sum`` the digest of everything that goes into it,
so that a build uses exactly that, from wherever Go is told to get modules. What is built stands in the cache folder,
under a name that says what went into it; a build that was interrupted goes on where Go's own cache has got to.

    python -m headrace_testing.k8s.toolchain        build what is missing, and say where it is
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
    """There is no Go here that can build the programs; the message says what to do."""


class BuildFailed(Exception):
    """Go could not build a program; the message ends with what Go said."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        module: Folder of its module in `MODULES`.
        package: What Go builds.
        flags: For the linker.
    """

    name: str
    module: str
    package: str
    flags: str = ""


PROGRAMS: Final = (
    # What takes a moment first, so that tests which need no cluster can be run while the rest is built.
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


# Not among the others: with the libraries of all clouds in it, KEDA takes longer to build than Kubernetes.
KEDA_PROGRAMS: Final = tuple(
    Program(f"keda-{name}", "keda", f"github.com/kedacore/keda/v2/cmd/{name}") for name in ("operator", "adapter")
)

ALL_PROGRAMS: Final = (*PROGRAMS, *KEDA_PROGRAMS)


class Toolchain:
    """The programs in the cache folder.

    Args:
        cache: The folder; every version has a place of its own in it.
    """

    def __init__(self, cache: Path) -> None:
        self.folder = cache.absolute() / "kubernetes"

    def path(self, name: str) -> Path:
        """Where a program is, whether or not it has been built."""
        program = next(program for program in ALL_PROGRAMS if program.name == name)
        return self.folder / f"{name}-{_digest(program)}" / name

    def missing(self, programs: Sequence[Program] = PROGRAMS) -> tuple[Program, ...]:
        """Those that have not been built yet."""
        return tuple(program for program in programs if not self.path(program.name).is_file())

    def build(self, programs: Sequence[Program] = PROGRAMS) -> None:
        """Build what is missing; another process that builds into the same folder is waited for.

        Raises InstallGo, BuildFailed.
        """
        if not self.missing(programs):
            return
        with self._alone():
            for program in self.missing(programs):
                self._build(program)

    def source(self, module: str, dependency: str) -> Path:
        """The sources of a module that a program is built from, such as its CRDs. Raises InstallGo, BuildFailed."""
        said = _go("mod", "download", "-json", dependency, folder=MODULES / module)
        return Path(json.loads(said)["Dir"])

    @cached_property
    def go_version(self) -> str:
        """Version of the Go that builds. Raises InstallGo."""
        return _go("env", "GOVERSION", folder=MODULES / "kubernetes").strip()

    def _build(self, program: Program) -> None:
        target = self.path(program.name)
        print(f"  building {program.name} with {self.go_version} …", end="", flush=True)
        began = time.monotonic()
        new = target.parent.with_name(f"{target.parent.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        # Two at once and at low priority: this goes on beside whatever else the machine does.
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
    """Sources of a module, `path@version`, that has this checksum. Raises InstallGo, BuildFailed."""
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
            "There is no Go here, and the Kubernetes tests build their control plane with it.\n"
            "  What to do: install Go 1.26 or newer and put it on PATH; everything else Go then gets by itself."
        )
    nice = [found, "-n", "15"] if (found := shutil.which("nice")) else []
    done = subprocess.run(
        [*nice, go, *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr or done.stdout).strip()
    if "requires go" in said:
        raise InstallGo(f"Go here is too old.\n  Go says: {said}\n  What to do: install Go 1.26 or newer.")
    raise BuildFailed(
        f"`go {' '.join(arguments)}` failed in {folder}:\n{said[-2000:]}\n"
        "  What to do: Go gets modules from where GOPROXY says; check that this machine may reach it, and start again. "
        "What is built already is kept."
    )


def toolchain() -> Toolchain:
    """The programs in the project's cache folder (HEADRACE_CACHE)."""
    return Toolchain(load_settings().cache)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is missing; exit code 2 where there is no Go."""
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
