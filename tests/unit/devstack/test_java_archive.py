"""Java's cache of loaded classes: recorded once, used while it fits, and never half written."""

import os
import time
from pathlib import Path

import pytest
from headrace_devstack.parts.java_archive import JavaArchive


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    path = tmp_path / "program.jar"
    path.write_bytes(b"classes")
    return path


def test_the_first_run_records_and_later_ones_use_it(tmp_path: Path, jar: Path) -> None:
    folder = tmp_path / "java"
    first = JavaArchive(folder, "kafka", [jar])
    (option, *_) = first.options
    assert option.startswith("-XX:AOTCacheOutput=")
    first.prepare()
    written = Path(option.partition("=")[2])
    written.write_bytes(b"recorded")
    assert JavaArchive(folder, "kafka", [jar]).options[0].startswith("-XX:AOTCacheOutput="), "it is not whole yet"
    first.finish()
    second = JavaArchive(folder, "kafka", [jar])
    assert second.exists
    assert not second.records
    used = Path(second.options[0].removeprefix("-XX:AOTCache="))
    assert used.read_bytes() == b"recorded"
    assert not written.exists()


def test_another_file_or_program_needs_another_one(tmp_path: Path, jar: Path) -> None:
    folder = tmp_path / "java"
    first = JavaArchive(folder, "kafka", [jar])
    first.prepare()
    Path(first.options[0].partition("=")[2]).write_bytes(b"recorded")
    first.finish()
    assert not JavaArchive(folder, "registry", [jar]).exists
    jar.write_bytes(b"other classes")
    assert not JavaArchive(folder, "kafka", [jar]).exists


def test_a_run_that_was_killed_leaves_nothing_to_use(tmp_path: Path, jar: Path) -> None:
    archive = JavaArchive(tmp_path / "java", "kafka", [jar])
    archive.prepare()
    archive.finish()
    assert not JavaArchive(tmp_path / "java", "kafka", [jar]).exists


def test_what_nobody_has_used_for_a_month_is_removed(tmp_path: Path, jar: Path) -> None:
    folder = tmp_path / "java"
    folder.mkdir()
    old, recent, abandoned = folder / "kafka-1.aot", folder / "kafka-2.aot", folder / "kafka-99.new"
    for path, days in ((old, 31), (recent, 29), (abandoned, 1)):
        path.touch()
        os.utime(path, (time.time() - days * 86_400,) * 2)
    JavaArchive(folder, "kafka", [jar]).prepare()
    assert list(folder.iterdir()) == [recent]


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, jar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    archive = JavaArchive(tmp_path / "java", "kafka", [jar])
    assert archive.options == ()
    archive.prepare()
    assert not (tmp_path / "java").exists()
