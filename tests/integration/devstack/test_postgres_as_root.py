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
