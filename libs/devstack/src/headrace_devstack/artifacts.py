"""The pinned files of the first start: what they are, and getting them into the cache.

``artifacts.lock`` names every file by coordinate, SHA-256 and size; `headrace_devstack.artifact_lock` writes it. A file
is in the cache only under its final name, and only after its digest was checked, so a later start just looks whether it
is there.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import requests
from jgo.maven import MavenContext

from headrace_devstack.errors import CheckTheMirror, CorrectTheSetting, FreeDiskSpace, GoOnline

LOCK_FILE = "artifacts.lock"
CHUNK = 64 * 1024
PARALLEL_DOWNLOADS = 6
TRIES = 4
FIRST_PAUSE_SECONDS = 0.5
LOCK_POLL_SECONDS = 0.5
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two reads


class FetchProgress(Protocol):
    """Where a fetch reports to; called from several threads."""

    def expect(self, files: int, size: int) -> None:
        """So many files of so many bytes in all are missing."""

    def advance(self, size: int) -> None:
        """So many more bytes are here (negative: those of a broken file are given back)."""

    def waiting_for_other(self) -> None:
        """Another process fetches into the same cache; this one waits for it."""

    def unpacking(self, name: str) -> None:
        """An archive is being unpacked."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One pinned file of a Maven repository; ``size`` in bytes."""

    bundle: str
    group: str
    name: str
    version: str
    classifier: str
    extension: str
    sha256: str
    size: int

    @property
    def coordinate(self) -> str:
        return f"{self.group}:{self.name}:{self.version}:{self.classifier}:{self.extension}"

    @property
    def file_name(self) -> str:
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{classifier}.{self.extension}"

    @property
    def path(self) -> str:
        """Where a Maven repository keeps it."""
        return f"{self.group.replace('.', '/')}/{self.name}/{self.version}/{self.file_name}"


def parse_lock(text: str) -> tuple[Artifact, ...]:
    """Read the lock file: ``<bundle> <group:name:version:classifier:extension> <sha256> <size>`` per line."""
    found = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        bundle, coordinate, sha256, size = line.split()
        group, name, version, classifier, extension = coordinate.split(":")
        found.append(Artifact(bundle, group, name, version, classifier, extension, sha256, int(size)))
    return tuple(found)


def locked_artifacts() -> tuple[Artifact, ...]:
    """The files this version of Headrace is pinned to."""
    return parse_lock(files("headrace_devstack").joinpath(LOCK_FILE).read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Bundles:
    """What the parts need from the cache."""

    kafka_jars: tuple[Path, ...]
    registry_home: Path


class ArtifactCache:
    """The folder of downloaded and unpacked files, shared by all stacks of a user."""

    def __init__(self, folder: Path, repository: str | None = None, *, artifacts: Sequence[Artifact] | None = None):
        self._folder = folder.absolute()
        self._artifacts = locked_artifacts() if artifacts is None else tuple(artifacts)
        self._repository = repository
        self._given_up = threading.Event()

    def abandon(self) -> None:
        """Make a fetch that runs in another thread return soon; what it has got is kept for the next one."""
        self._given_up.set()

    def fetch(self, progress: FetchProgress) -> Bundles:
        """Bring everything that is missing into the cache, and say where it is.

        Raises:
            GoOnline: something is missing and the repository cannot be reached.
            CheckTheMirror: the repository does not have a file, or has another one than was pinned.
            FreeDiskSpace: there is not enough room for what is missing.
            CorrectTheSetting: the cache folder cannot be written.
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
        )

    def _file(self, artifact: Artifact) -> Path:
        return self._folder / "maven" / artifact.path

    def _unpacked(self, artifact: Artifact) -> Path:
        return self._folder / "unpacked" / f"{artifact.name}-{artifact.version}-{artifact.sha256[:12]}"

    def _missing(self) -> list[Artifact]:
        return [artifact for artifact in self._artifacts if not self._has(artifact)]

    def _has(self, artifact: Artifact) -> bool:
        if artifact.extension == "tar.gz":
            return self._unpacked(artifact).is_dir()
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
                f"{self._folder} cannot be used as cache folder: {error.strerror}.",
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
        # An archive and what comes out of it lie on the disk together for a while.
        needed = sum(a.size * (3 if a.extension == "tar.gz" else 1) for a in missing)
        require_room(self._folder, needed, "the downloads of the first start")

    def _download(self, missing: Sequence[Artifact], progress: FetchProgress) -> None:
        todo = [artifact for artifact in missing if not self._file(artifact).exists()]
        progress.expect(len(todo), sum(artifact.size for artifact in todo))
        base = (self._repository or next(iter(MavenContext().remote_repos.values()))).rstrip("/")
        largest_first = sorted(todo, key=lambda artifact: -artifact.size)
        with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
            running = [
                pool.submit(_Download(artifact, base, self._file(artifact), progress, self._given_up).run)
                for artifact in largest_first
            ]
            try:
                for download in running:
                    download.result()
            except BaseException:
                self._given_up.set()  # the first failure ends the others; what they have is kept for the next try
                raise

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


class _Download:
    """Getting one file: resumable, checked, and put under its name in one step."""

    def __init__(
        self, artifact: Artifact, base: str, target: Path, progress: FetchProgress, given_up: threading.Event
    ) -> None:
        self._artifact = artifact
        self._url = f"{base}/{artifact.path}"
        self._target = target
        self._partial = target.with_name(f"{target.name}.{artifact.sha256[:12]}.part")
        self._progress = progress
        self._given_up = given_up
        self._reported = 0

    def run(self) -> None:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        problem: Exception | None = None
        for attempt in range(TRIES):
            if self._given_up.wait(timeout=0 if attempt == 0 else FIRST_PAUSE_SECONDS * 2**attempt):
                return
            try:
                self._continue()
                if self._given_up.is_set():
                    return
                self._check()
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                problem = error
                continue
            except _WrongContent as error:
                problem = error
                self._start_over()
                continue
            self._partial.replace(self._target)
            return
        self._fail(problem)

    def _continue(self) -> None:
        have = self._partial.stat().st_size if self._partial.exists() else 0
        self._report(have)
        if have == self._artifact.size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(self._url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code in (404, 410):
                raise CheckTheMirror(
                    f"The Maven repository has no {self._artifact.coordinate} ({self._url}).",
                    "check HEADRACE_MAVEN_REPOSITORY: it must mirror the public Maven repository.",
                )
            if response.status_code == 416:
                raise _WrongContent("the repository's file is shorter than what is here")
            if response.status_code not in (200, 206):
                raise requests.ConnectionError(f"HTTP {response.status_code} from {self._url}")
            if have and response.status_code == 200:
                self._start_over()
            with self._partial.open("ab") as file:
                for chunk in response.iter_content(CHUNK):
                    if self._given_up.is_set():
                        return
                    file.write(chunk)
                    self._report(self._reported + len(chunk))

    def _check(self) -> None:
        with self._partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._artifact.sha256:
            raise _WrongContent(f"its SHA-256 is {found}, pinned is {self._artifact.sha256}")

    def _start_over(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._report(0)

    def _report(self, have: int) -> None:
        self._progress.advance(have - self._reported)
        self._reported = have

    def _fail(self, problem: Exception | None) -> None:
        if isinstance(problem, _WrongContent):
            raise CheckTheMirror(
                f"{self._url} is not the pinned file: {problem}.",
                "something between here and the repository changes files; download from another network or mirror "
                "(HEADRACE_MAVEN_REPOSITORY).",
            )
        raise GoOnline(
            f"{self._artifact.file_name} is not in the cache and could not be downloaded ({_first_line(problem)}).",
            "connect to the network and start again (what was downloaded is kept); behind a proxy set HTTPS_PROXY, for "
            "a mirror of the Maven repository HEADRACE_MAVEN_REPOSITORY. Only the first start needs the network.",
        ) from problem


class _Abandoned(Exception):
    """`ArtifactCache.abandon` was called; whoever did so awaits no result."""


class _WrongContent(Exception):
    """What came is not what was pinned."""


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _first_line(problem: Exception | None) -> str:
    return str(problem).splitlines()[0][:200] if problem else "no answer"


def require_room(folder: Path, needed: int, purpose: str, free: Callable[[Path], int] | None = None) -> None:
    """Check that the disk under a folder has so many bytes left.

    Raises:
        FreeDiskSpace: it has not.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    available = free(existing) if free else shutil.disk_usage(existing).free
    if available < needed:
        raise FreeDiskSpace(
            f"The disk under {folder} has {available / 1e6:,.0f} MB left; {purpose} need {needed / 1e6:,.0f} MB.",
            "free space there, or put the folder on another disk (HEADRACE_DATA, HEADRACE_CACHE).",
        )
