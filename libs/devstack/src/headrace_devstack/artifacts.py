"""Fetches the pinned files of the first start into the cache.

A file gets its final name in the cache only after its digest was checked, so later starts only check whether it
exists.
"""

import contextlib
import fcntl
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_devstack.errors import CorrectTheSetting, FreeDiskSpace
from headrace_devstack.locked_artifacts import Artifact, FetchProgress, locked_artifacts

LOCK_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Bundles:
    """The files in the cache that the parts need."""

    kafka_jars: tuple[Path, ...]
    registry_home: Path
    java_archives: Path
    """Where Java keeps what makes its next start faster."""


class ArtifactCache:
    """The folder of downloaded and unpacked files, shared by all stacks of a user."""

    def __init__(self, folder: Path, repository: str | None = None, *, artifacts: Sequence[Artifact] | None = None):
        self._folder = folder.absolute()
        self._artifacts = locked_artifacts() if artifacts is None else tuple(artifacts)
        self._repository = repository
        self._given_up = threading.Event()

    def abandon(self) -> None:
        """Make a fetch in another thread return soon; what it has downloaded stays for the next one."""
        self._given_up.set()

    def fetch(self, progress: FetchProgress) -> Bundles:
        """Fetch everything that is missing; returns the locations.

        Raises:
            GoOnline: a file is missing and the repository cannot be reached.
            CheckTheMirror: the repository does not have a file, or has a different one than was pinned.
            FreeDiskSpace: there is not enough space for the missing files.
            CorrectTheSetting: the cache folder is not writable.
        """
        if self._missing():
            with self._alone(progress):
                missing = self._missing()
                self._check_room(missing)
                self._download(missing, progress)
                for artifact in missing:
                    self._stop_if_abandoned()
                    if artifact.extension == "tar.gz":
                        progress.unpacking(artifact.file_name)
                        self._unpack(artifact)
        return Bundles(
            kafka_jars=tuple(self._file(a) for a in self._artifacts if a.bundle == "kafka"),
            registry_home=next(self._unpacked(a) for a in self._artifacts if a.bundle == "registry"),
            java_archives=self._folder / "java",
        )

    def _file(self, artifact: Artifact) -> Path:
        return self._folder / "maven" / artifact.path

    def _unpacked(self, artifact: Artifact) -> Path:
        return self._folder / "unpacked" / f"{artifact.name}-{artifact.version}-{artifact.sha256[:12]}"

    def _missing(self) -> list[Artifact]:
        return [artifact for artifact in self._artifacts if not self._has(artifact)]

    def _has(self, artifact: Artifact) -> bool:
        return self._unpacked(artifact).is_dir() if artifact.extension == "tar.gz" else self._downloaded(artifact)

    def _downloaded(self, artifact: Artifact) -> bool:
        try:
            return self._file(artifact).stat().st_size == artifact.size
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _alone(self, progress: FetchProgress) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CorrectTheSetting(
                f"{self._folder} cannot be used as the cache folder: {error.strerror}.",
                "name a folder that this user can write with HEADRACE_CACHE.",
            ) from error
        try:
            told = False
            while not _locked(lock):
                if not told:
                    progress.waiting_for_other()
                    told = True
                self._given_up.wait(LOCK_POLL_SECONDS)
                self._stop_if_abandoned()
            yield
        finally:
            os.close(lock)

    def _stop_if_abandoned(self) -> None:
        if self._given_up.is_set():
            raise _Abandoned

    def _check_room(self, missing: Sequence[Artifact]) -> None:
        # For a while, the disk holds both an archive and its unpacked content.
        needed = sum(a.size * (3 if a.extension == "tar.gz" else 1) for a in missing)
        require_room(self._folder, needed, "the downloads of the first start")

    def _download(self, missing: Sequence[Artifact], progress: FetchProgress) -> None:
        # Imported here: later starts do not need it, nor the time it takes to load.
        from headrace_devstack.artifact_download import download

        todo = [(artifact, self._file(artifact)) for artifact in missing if not self._downloaded(artifact)]
        progress.expect(len(todo), sum(artifact.size for artifact, _ in todo))
        download(todo, self._repository, progress, self._given_up)

    def _unpack(self, artifact: Artifact) -> None:
        archive, target = self._file(artifact), self._unpacked(artifact)
        temporary = target.with_name(target.name + ".new")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            # The digest was checked; the filter is missing only in the oldest patch releases of Python 3.11.
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(temporary)
        temporary.rename(target)
        archive.unlink()


class _Abandoned(Exception):
    """`ArtifactCache.abandon` was called; its caller does not wait for a result."""


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def require_room(folder: Path, needed: int, purpose: str, free: Callable[[Path], int] | None = None) -> None:
    """Check that the disk under a folder has this many bytes left.

    Raises:
        FreeDiskSpace: it does not.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    available = free(existing) if free else shutil.disk_usage(existing).free
    if available < needed:
        raise FreeDiskSpace(
            f"The disk under {folder} has {available / 1e6:,.0f} MB left; {purpose} need {needed / 1e6:,.0f} MB.",
            "free space there, or put the folder on another disk (HEADRACE_DATA, HEADRACE_CACHE).",
        )
