"""The data folder of one stack: its version, its lock, its secrets, and ``stack.json`` for scripts.

::

    .headrace/VERSION      version of this layout
    .headrace/lock         held (flock) while a stack runs on the folder
    .headrace/port-base    first port of the last start, so that the next one uses the same addresses
    .headrace/stack.json   addresses and pids of the running stack; removed when it stops
    .headrace/secrets/     API key, database password, key pepper; each readable by its owner only
    .headrace/logs/        one log per part
    .headrace/{kafka,registry,postgres,simulator,tmp}/
    .headrace/kafka-{1,2,3}/ and kafka-cluster-id    instead of kafka/, for three brokers
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_runtime.access import KEY_RANDOM_BYTES, make_key

from headrace_devstack.errors import CorrectTheSetting, StopTheOtherStack, UpgradeHeadrace

LAYOUT_VERSION = 1


def make_password() -> str:
    """A random secret of 192 bits, safe in URLs and shells."""
    return secrets.token_hex(24)


def make_api_key() -> str:
    """A random API key ``hr_<key id>_<secret>``."""
    return str(make_key(secrets.token_bytes(KEY_RANDOM_BYTES)))


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Paths inside an opened data folder; ``root`` is absolute."""

    root: Path

    @property
    def stack_file(self) -> Path:
        return self.root / "stack.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def api_key_file(self) -> Path:
        return self.secrets / "api-key"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def part(self, name: str) -> Path:
        """A part's own data folder, created if missing."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        return folder

    def secret(self, name: str, make: Callable[[], str] = make_password) -> str:
        """The secret with this name, created on first use and stored with mode 0600."""
        path = self.secrets / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(descriptor, "w") as file:
            value = make()
            file.write(value + "\n")
        return value

    def saved_brokers(self) -> int | None:
        """How many Kafka brokers have data here; None if there is none yet."""
        if (self.root / "kafka" / "data").exists():
            return 1
        # Their number is decided once the first of them has data, also if that start went no further.
        return 3 if any(self.root.glob("kafka-*/data")) else None

    def kafka_cluster_id(self, make: Callable[[], str]) -> str:
        """The id that all brokers of several share, made on first use."""
        path = self.root / "kafka-cluster-id"
        if not path.exists():
            whole = path.with_suffix(".new")  # an interrupted start must not leave half of it
            whole.write_text(make() + "\n")
            whole.replace(path)
        return path.read_text().strip()

    def saved_port_base(self) -> int | None:
        """First port of the last start on this folder."""
        try:
            return int((self.root / "port-base").read_text())
        except FileNotFoundError:
            return None

    def save_port_base(self, base: int) -> None:
        (self.root / "port-base").write_text(f"{base}\n")

    def write_stack(self, content: Mapping[str, object]) -> None:
        """Publish the running stack's addresses atomically; readable by this user only."""
        temporary = self.stack_file.with_suffix(".json.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        temporary.replace(self.stack_file)

    def read_stack(self) -> dict[str, object] | None:
        """What the last stack on this folder published, if it was killed before it could remove it."""
        try:
            content = json.loads(self.stack_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def remove_stack(self) -> None:
        self.stack_file.unlink(missing_ok=True)


@contextlib.contextmanager
def open_data_folder(path: Path) -> Iterator[DataFolder]:
    """Create or resume a data folder and lock it for this process until the block ends.

    Raises:
        StopTheOtherStack: another process has locked it.
        UpgradeHeadrace: a newer version of Headrace wrote it.
        CorrectTheSetting: the path cannot be used as a data folder.
    """
    root = path.absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CorrectTheSetting(
            f"{root} cannot be used as the data folder: {error.strerror}.",
            "name a folder that this user can write with --data (HEADRACE_DATA).",
        ) from error
    try:
        _take(lock, root)
        _check_version(root)
        for folder in ("secrets", "logs", "tmp"):
            (root / folder).mkdir(exist_ok=True)
        (root / "secrets").chmod(0o700)
        yield DataFolder(root)
    finally:
        os.close(lock)


def _take(lock: int, root: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode().strip() or "unknown"
        raise StopTheOtherStack(
            f"Another `headrace up` (pid {holder}) runs on the data folder {root}.",
            f"use that one (its addresses are in {root / 'stack.json'}), stop it with Ctrl-C or `kill {holder}`, "
            "or give this one its own folder and ports: --data DIR --port-base 0.",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _check_version(root: Path) -> None:
    file = root / "VERSION"
    try:
        written = file.read_text().strip()
    except FileNotFoundError:
        file.write_text(f"{LAYOUT_VERSION}\n")
        return
    try:
        version = int(written)
    except ValueError:
        raise CorrectTheSetting(
            f"{file} contains {written[:40]!r}, which is not the version of a data folder.",
            "choose another data folder with --data (HEADRACE_DATA), or move this one away to start from scratch.",
        ) from None
    if version > LAYOUT_VERSION:
        raise UpgradeHeadrace(
            f"The data folder {root} has layout version {version}; this Headrace supports versions up to "
            f"{LAYOUT_VERSION}.",
            "start it with the newer Headrace that wrote it, or choose another folder with --data DIR.",
        )
