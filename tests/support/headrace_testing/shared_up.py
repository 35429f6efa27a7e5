"""One ``headrace up`` for all processes of a test session.

With pytest-xdist each worker collects the same tests and asks for what they need before the first of them runs; the
controller starts it, so that it is under way while the first tests run, and stops it after the last worker has ended,
however that one ended. Without xdist one process does both.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace_testing.up import RunningStack, launch_up, remove_folder, stop_up, wait_until_up

_WANTED, _PID = "wanted", "pid"


SITES = ("berlin", "paris")
"""Sites that it knows, without a worker."""


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A ``headrace up`` that another process has started."""

    pid: int

    def poll(self) -> int | None:
        """None while it runs; its exit code is known to its parent alone."""
        try:
            return -1 if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return -1


class SharedUp:
    """What the processes of a session share, by way of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def in_new_folder(cls) -> SharedUp:
        """The owner's. Every user may enter, so that Postgres can also run there when the tests run as root."""
        folder = Path(tempfile.mkdtemp(prefix="headrace-tests-"))
        folder.chmod(0o755)
        return cls(folder)

    def ask(self, *, platform: bool) -> None:
        """Say what the tests need: the whole platform, or only what stands behind the services."""
        self._write(_WANTED, "platform" if platform else "stack")

    def launch_if_asked(self) -> None:
        """Start it and do not wait; for the owner."""
        wanted = self.folder / _WANTED
        if self._process is None and wanted.exists():
            options = ("--simulate",) if wanted.read_text() == "platform" else ("--backing-only",)
            self._process = launch_up(self.folder, "--port-base", "0", "--sites", ",".join(SITES), *options)
            self._write(_PID, str(self._process.pid))

    def attach(self) -> RunningStack:
        """Wait until it is healthy. Raises AssertionError with its output when it does not become so."""
        pid = self.folder / _PID
        assert pid.exists(), "nothing was started: a test that asks for parts by their names is marked `stack`"
        return wait_until_up(self.folder, self._process or _Foreign(int(pid.read_text())))

    def end(self, *, keep_logs: bool) -> Path | None:
        """Stop it and remove all it has left; for the owner. The folder with the logs, where they are kept."""
        try:
            if self._process is None:
                return None
            stop_up(self._process)
            return self._keep_logs() if keep_logs else None
        finally:
            remove_folder(self.folder)

    def _write(self, name: str, text: str) -> None:
        # Other processes read while this one writes: they must find all of the text or no file.
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as whole:
            whole.write(text)
        Path(whole.name).replace(self.folder / name)

    def _keep_logs(self) -> Path:
        kept = self.folder.with_name(f"{self.folder.name}-logs")
        shutil.copytree(self.folder / "data" / "logs", kept)
        shutil.copy(self.folder / "up.log", kept)
        return kept
