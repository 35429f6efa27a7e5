"""Downloads: pinned, checked, resumed, and never needed twice. Against a small Maven repository on loopback."""

import errno
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from headrace_devstack import artifact_download, artifacts
from headrace_devstack.artifact_download import CHUNK
from headrace_devstack.artifacts import ArtifactCache, require_room
from headrace_devstack.errors import CheckTheMirror, FreeDiskSpace, GoOnline
from headrace_devstack.locked_artifacts import LOCK_FILE, Artifact, locked_artifacts, parse_lock


class Repository(ThreadingHTTPServer):
    """Serves `content` by path; `requests` are those it got, `cut` breaks the first answer of a path off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cut: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/maven2"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        repository = self.server
        assert isinstance(repository, Repository)
        asked = self.headers.get("Range")
        repository.requests.append((self.path, asked))
        body = repository.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : repository.cut.pop(self.path, None)])

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the tests read `requests`."""


class OffsetAndMetadata:
    def __init__(self) -> None:
        self.expected = (0, 0)
        self.received = 0
        self.unpacked: list[str] = []
        self._lock = threading.Lock()

    def expect(self, files: int, size: int) -> None:
        self.expected = (files, size)

    def advance(self, size: int) -> None:
        with self._lock:
            self.received += size

    def waiting_for_other(self) -> None:
        pytest.fail("no other process fetches")

    def unpacking(self, name: str) -> None:
        self.unpacked.append(name)


@pytest.fixture
def repository() -> Iterator[Repository]:
    server = Repository()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_download, "FIRST_PAUSE_SECONDS", 0.01)


def pinned(bundle: str, name: str, extension: str, content: bytes) -> Artifact:
    digest = hashlib.sha256(content).hexdigest()
    classifier = "all" if extension == "tar.gz" else ""
    return Artifact(bundle, "org.example", name, "1.0", classifier, extension, digest, len(content))


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


JAR = b"jar" * 100_000
ARCHIVE = archive(start=b"run me")
FILES = (pinned("kafka", "broker", "jar", JAR), pinned("registry", "registry", "tar.gz", ARCHIVE))


def serve(repository: Repository, jar: bytes = JAR) -> None:
    repository.content = {
        "/maven2/org/example/broker/1.0/broker-1.0.jar": jar,
        "/maven2/org/example/registry/1.0/registry-1.0-all.tar.gz": ARCHIVE,
    }


def cache(folder: Path, repository: Repository | str) -> ArtifactCache:
    url = repository if isinstance(repository, str) else repository.url
    return ArtifactCache(folder, url, artifacts=FILES)


def test_everything_is_fetched_checked_and_unpacked(tmp_path: Path, repository: Repository) -> None:
    serve(repository)
    progress = OffsetAndMetadata()
    found = cache(tmp_path, repository).fetch(progress)
    assert [jar.read_bytes() for jar in found.kafka_jars] == [JAR]
    assert (found.registry_home / "start").read_bytes() == b"run me"
    assert progress.expected == (2, len(JAR) + len(ARCHIVE))
    assert progress.received == len(JAR) + len(ARCHIVE)
    assert progress.unpacked == ["registry-1.0-all.tar.gz"]
    assert not list(tmp_path.rglob("*.part"))


def test_the_second_time_needs_no_network(tmp_path: Path, repository: Repository) -> None:
    serve(repository)
    first = cache(tmp_path, repository).fetch(OffsetAndMetadata())
    assert cache(tmp_path, "http://127.0.0.1:9/nowhere").fetch(OffsetAndMetadata()) == first


def test_a_damaged_file_is_fetched_again(tmp_path: Path, repository: Repository) -> None:
    serve(repository)
    (jar,) = cache(tmp_path, repository).fetch(OffsetAndMetadata()).kafka_jars
    jar.write_bytes(b"cut short")
    assert cache(tmp_path, repository).fetch(OffsetAndMetadata()).kafka_jars == (jar,)
    assert jar.read_bytes() == JAR


def test_a_disk_that_fills_up_is_named(tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    serve(repository)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FreeDiskSpace, match="is full"):
        cache(tmp_path, repository).fetch(OffsetAndMetadata())


def test_without_network_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(GoOnline, match="connect to the network") as raised:
        cache(tmp_path, "http://127.0.0.1:9/nowhere").fetch(OffsetAndMetadata())
    assert "HTTPS_PROXY" in raised.value.remedy


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, repository: Repository) -> None:
    serve(repository)
    path = "/maven2/org/example/broker/1.0/broker-1.0.jar"
    repository.cut = {path: 100_000}
    progress = OffsetAndMetadata()
    found = cache(tmp_path, repository).fetch(progress)
    assert found.kafka_jars[0].read_bytes() == JAR
    assert [asked for asked in repository.requests if asked[0] == path] == [(path, None), (path, f"bytes={CHUNK}-")]
    assert progress.received == len(JAR) + len(ARCHIVE)


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, repository: Repository) -> None:
    serve(repository, jar=b"evil" + JAR[4:])
    with pytest.raises(CheckTheMirror, match="SHA-256"):
        cache(tmp_path, repository).fetch(OffsetAndMetadata())
    assert not list(tmp_path.rglob("*.jar"))


def test_a_mirror_without_the_file_is_named(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(CheckTheMirror, match="HEADRACE_MAVEN_REPOSITORY"):
        cache(tmp_path, repository).fetch(OffsetAndMetadata())


def test_room_on_the_disk_is_checked_before(tmp_path: Path) -> None:
    require_room(tmp_path / "not/there/yet", 10, "the files", free=lambda _: 10)
    with pytest.raises(FreeDiskSpace, match="has 0 MB left; the files need 5 MB"):
        require_room(tmp_path / "not/there/yet", 5_000_000, "the files", free=lambda _: 10)


def test_the_lock_pins_the_versions_of_the_design_and_names_no_host() -> None:
    text = Path(artifacts.__file__).with_name(LOCK_FILE).read_text()
    locked = locked_artifacts()
    assert parse_lock(text) == locked
    coordinates = {artifact.coordinate for artifact in locked}
    assert {
        "org.apache.kafka:kafka_2.13:4.3.1::jar",
        "org.apache.kafka:kafka-clients:4.3.1::jar",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4::jar",
        "io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz",
    } <= coordinates
    assert all(re.fullmatch(r"[0-9a-f]{64}", artifact.sha256) and artifact.size > 0 for artifact in locked)
    assert "://" not in text
