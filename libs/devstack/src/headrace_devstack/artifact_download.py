"""Downloads pinned files from a Maven repository: concurrent, resumable, verified, and moved into place atomically."""

import errno
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from jgo.maven import MavenContext

from headrace_devstack.errors import CheckTheMirror, FreeDiskSpace, GoOnline
from headrace_devstack.locked_artifacts import Artifact, FetchProgress

CHUNK = 64 * 1024
PARALLEL_DOWNLOADS = 6
TRIES = 4
FIRST_PAUSE_SECONDS = 0.5
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two reads


def download(
    files: Sequence[tuple[Artifact, Path]],
    repository: str | None,
    progress: FetchProgress,
    given_up: threading.Event,
) -> None:
    """Download each file to its path; without a repository, from the public one. Returns early if ``given_up`` is set.

    Raises:
        GoOnline: the repository cannot be reached.
        FreeDiskSpace: the disk is full.
        CheckTheMirror: it does not have a file, or has a different one than was pinned.
    """
    base = (repository or next(iter(MavenContext().remote_repos.values()))).rstrip("/")
    largest_first = sorted(files, key=lambda file: -file[0].size)
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        running = [
            pool.submit(_Download(artifact, base, target, progress, given_up).run) for artifact, target in largest_first
        ]
        try:
            for one in running:
                one.result()
        except BaseException:
            given_up.set()  # the first failure ends the others; their partial files stay for the next try
            raise


class _Download:
    """Downloads one file: resumable, verified, and renamed into place."""

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
                self._partial.replace(self._target)
                return
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                problem = error
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise FreeDiskSpace(
                        f"The disk under {self._target.parent} is full: {self._artifact.file_name} does not fit.",
                        "free space there and start again, or put the cache on another disk (HEADRACE_CACHE).",
                    ) from error
                raise
            except _WrongContent as error:
                problem = error
                self._start_over()
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
                raise _WrongContent("the repository's file is shorter than the part already downloaded")
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
                "a proxy or mirror in between changes files; download from another network or mirror "
                "(HEADRACE_MAVEN_REPOSITORY).",
            )
        raise GoOnline(
            f"{self._artifact.file_name} is not in the cache and could not be downloaded ({_first_line(problem)}).",
            "connect to the network and start again (what was downloaded is kept); behind a proxy set HTTPS_PROXY, for "
            "certificates of your own network REQUESTS_CA_BUNDLE, for a mirror of the Maven repository "
            "HEADRACE_MAVEN_REPOSITORY. Only the first start needs the network.",
        ) from problem


class _WrongContent(Exception):
    """The downloaded file is not the pinned one."""


def _first_line(problem: Exception | None) -> str:
    return str(problem).splitlines()[0][:200] if problem else "no answer"
