"""Started by root below a folder that others may not enter, Postgres still runs as an ordinary user."""

import os
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts import postgres
from headrace_devstack.parts.part import RunAs
from headrace_devstack.parts.postgres import database_url, ordinary_user, postgres_part, reachable_by
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.supervisor import Supervisor
from headrace_testing.private_files import open_to_others
from headrace_testing.up import open_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder("root") as path:
        yield path


def test_reach_goes_by_the_folders_on_the_way(folder: Path) -> None:
    user = RunAs(uid=65_534, gid=65_534)
    assert reachable_by(folder / "x", user)
    folder.chmod(0o700)
    assert not reachable_by(folder / "x", user)
    os.chown(folder, user.uid, 0)
    assert reachable_by(folder / "x", user)


async def test_a_database_in_the_folder_moves_when_others_may_no_longer_enter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "COMMON_FOLDER", folder / "common")
    ports = PortPlan(choose_base())
    for attempt in range(3):
        with open_data_folder(folder / "data") as data:
            if attempt == 0:
                data.root.chmod(0o755)  # as earlier versions left it
            supervisor = Supervisor([postgres_part(data, ports, "secret")], lambda _: None)
            try:
                await supervisor.start()
                connection = await asyncpg.connect(database_url(ports, "secret"))
                await connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")
                assert await connection.fetchval("SELECT count(*) FROM kept") == 1
                await connection.execute("INSERT INTO kept SELECT 1 WHERE false")
                await connection.close()
            finally:
                await supervisor.stop()
            assert (data.root / "postgres").is_symlink() is (attempt > 0)
            assert open_to_others(data.root) == ([] if attempt else ["drwxr-xr-x data"])


async def test_an_interrupted_move_is_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "COMMON_FOLDER", folder / "common")
    with open_data_folder(folder / "data") as data:
        (data.root / "postgres").mkdir()
        (data.root / "postgres" / "of-the-user").write_text("kept")
        postgres_part(data, PortPlan(20_000), "secret")
        moved = (data.root / "postgres").resolve()
        assert (moved / "of-the-user").read_text() == "kept"
        # Interrupted between the move and the link.
        (data.root / "postgres").unlink()
        (data.root / "postgres.moving").touch()
        postgres_part(data, PortPlan(20_000), "secret")
        assert ((data.root / "postgres") / "of-the-user").read_text() == "kept"
        assert not (data.root / "postgres.moving").exists()


@pytest.mark.parametrize("hide_package", [False, True])
async def test_a_private_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, *, hide_package: bool) -> None:
    private, common = folder / "private", folder / "common"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(postgres, "COMMON_FOLDER", common)
    if hide_package:
        reachable = reachable_by
        monkeypatch.setattr(
            postgres, "reachable_by", lambda path, user: "pginstall" not in str(path) and reachable(path, user)
        )
    ports = PortPlan(choose_base())
    with open_data_folder(private / "data") as data:
        part = postgres_part(data, ports, "secret")
        supervisor = Supervisor([part], lambda _: None)
        try:
            await supervisor.start()
            connection = await asyncpg.connect(database_url(ports, "secret"))
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()
            pid = supervisor.status()[0].pid
            assert pid is not None
            user = ordinary_user()
            assert user is not None
            process = psutil.Process(pid)
            assert process.uids().effective == user.uid
            assert Path(process.exe()).is_relative_to(common) is hide_package
        finally:
            await supervisor.stop()
        assert (data.root / "postgres").resolve().is_relative_to(common)
    assert private.stat().st_mode & 0o777 == 0o700
