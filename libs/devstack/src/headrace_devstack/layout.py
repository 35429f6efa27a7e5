"""The data folder of one stack: its version, its lock, its secrets, and ``stack.json`` for scripts.

::

    .headrace/VERSION      version of this layout
    .headrace/lock         held (flock) while a stack runs on the folder
    .headrace/port-base    first port of the last start, so that the next one uses the same addresses
    .headrace/records-signed    there once all keys and preferences are signed
    .headrace/stack.json   addresses and pids of the running stack; removed when it stops
    .headrace/secrets/     API key and its signing key, passwords, key pepper
    .headrace/logs/        one log per part
    .headrace/{kafka,registry,postgres,simulator,tmp}/
    .headrace/kafka-{1,2,3}/ and kafka-cluster-id    instead of kafka/, for three brokers

All of it is readable by its owner only: prompts and answers are in the files of Kafka, Postgres and the simulator.
"""

import contextlib
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_runtime.access import KEY_RANDOM_BYTES, make_key

from headrace_devstack.errors import CorrectTheSetting, StopTheOtherStack, UpgradeHeadrace

LAYOUT_VERSION = 1
OTHERS = 0o077
"""The permission bits of everyone but the owner."""


def make_password() -> str:
    """A random secret of 192 bits, safe in URLs and shells."""
    return secrets.token_hex(24)


def make_api_key() -> str:
    """A random API key ``hr_<key id>_<secret>``."""
    return str(make_key(secrets.token_bytes(KEY_RANDOM_BYTES)))


def write_private(path: Path, text: str) -> None:
    """Write a whole file that only its owner can read, whatever the umask; an interrupted write leaves the old one."""
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


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
    def signing_key_file(self) -> Path:
        return self.secrets / "signing-key"

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

    @property
    def records_are_signed(self) -> bool:
        """Whether all keys and preferences in Kafka's data are signed: not if an earlier release has written them."""
        return (self.root / "records-signed").exists() or self.saved_brokers() is None

    def note_records_signed(self) -> None:
        """All of them are from now on."""
        (self.root / "records-signed").touch()

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
        write_private(self.stack_file, json.dumps(content, indent=2) + "\n")

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

    Within the block, all files that this process and its children make are readable by their owner only (the umask is
    the process's); so is what was there before, in folders that earlier versions made.

    Raises:
        StopTheOtherStack: another process has locked it.
        UpgradeHeadrace: a newer version of Headrace wrote it.
        CorrectTheSetting: the path cannot be used as a data folder.
    """
    root = path.absolute()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CorrectTheSetting(
            f"{root} cannot be used as the data folder: {error.strerror}.",
            "name a folder that this user can write with --data (HEADRACE_DATA).",
        ) from error
    before = os.umask(OTHERS)
    try:
        _take(lock, root)
        _check_version(root)
        _close_to_others(root)
        for folder in ("secrets", "logs", "tmp"):
            (root / folder).mkdir(exist_ok=True)
        yield DataFolder(root)
    finally:
        os.umask(before)
        os.close(lock)


def _close_to_others(root: Path) -> None:
    """Take all permissions but the owner's from what is there. Links are not followed.

    Raises:
        CorrectTheSetting: some of it belongs to another user.
    """
    try:
        root = root.resolve()
        _restrict(root)
        for parent, folders, files in os.walk(root):
            for name in (*folders, *files):
                _restrict(Path(parent, name))
    except PermissionError as error:
        raise CorrectTheSetting(
            f"{error.filename} in the data folder belongs to another user, and others may read it.",
            f"give it to this user (chown -R), or name another data folder with --data (HEADRACE_DATA): not {root}.",
        ) from error


def _restrict(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # removed meanwhile, by a process left over from a killed stack
        return
    if mode & OTHERS and not stat.S_ISLNK(mode):
        path.chmod(stat.S_IMODE(mode) & ~OTHERS)


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
