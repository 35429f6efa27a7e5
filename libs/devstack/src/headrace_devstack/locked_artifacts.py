"""The pinned files of the first start, listed in ``artifacts.lock`` by coordinate, SHA-256 and size."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol

LOCK_FILE = "artifacts.lock"


class FetchProgress(Protocol):
    """Receives the progress of a fetch; called from several threads."""

    def expect(self, files: int, size: int) -> None:
        """This many files with this many bytes in total are missing."""

    def advance(self, size: int) -> None:
        """This many more bytes have been downloaded (negative: those of a broken file are subtracted)."""

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
        """Its path in a Maven repository."""
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
    """The files that this version of Headrace is pinned to."""
    return parse_lock(files("headrace_devstack").joinpath(LOCK_FILE).read_text(encoding="utf-8"))
