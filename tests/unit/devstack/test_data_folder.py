"""The data folder: one stack at a time, never an older Headrace on newer data, secrets for the owner only."""

import itertools
import os
import stat
import subprocess
from pathlib import Path

import pytest
from headrace_contracts.producer_signature import SigningKey
from headrace_devstack.errors import CorrectTheSetting, StopTheOtherStack, UpgradeHeadrace
from headrace_devstack.layout import LAYOUT_VERSION, make_api_key, open_data_folder
from headrace_devstack.logins import write_signing_key
from headrace_runtime.access import parse_key
from headrace_testing.private_files import open_to_others


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_gets_its_version(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "a/b") as folder:
        assert (folder.root / "VERSION").read_text() == f"{LAYOUT_VERSION}\n"
        assert folder.root.is_absolute()


def test_a_second_stack_on_the_same_folder_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    said = r"(?s)pid \d+.*--data DIR --port-base 0"
    with open_data_folder(tmp_path), pytest.raises(StopTheOtherStack, match=said), open_data_folder(tmp_path):
        pytest.fail("both hold the folder")
    with open_data_folder(tmp_path):
        pass


def test_data_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text(f"{LAYOUT_VERSION + 1}\n")
    with pytest.raises(UpgradeHeadrace, match="newer Headrace"), open_data_folder(tmp_path):
        pytest.fail("opened")
    assert (tmp_path / "VERSION").read_text() == f"{LAYOUT_VERSION + 1}\n"
    assert not (tmp_path / "secrets").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("2024-beta")
    with pytest.raises(CorrectTheSetting, match="2024-beta"), open_data_folder(tmp_path):
        pytest.fail("opened")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorrectTheSetting, match="--data"), open_data_folder(tmp_path / "file"):
        pytest.fail("opened")


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        first = folder.secret("api-key", make_api_key)
        assert first == folder.secret("api-key", make_api_key)
        assert mode(folder.secrets) == 0o700
        assert mode(folder.api_key_file) == 0o600
    with open_data_folder(tmp_path) as again:
        assert again.secret("api-key") == first


@pytest.mark.parametrize("peppers", [("one", "one"), ("one", "another"), ("", "x" * 300)])
def test_the_signing_key_follows_from_api_key_and_pepper_at_each_start(
    tmp_path: Path, peppers: tuple[str, str]
) -> None:
    with open_data_folder(tmp_path) as folder:
        keys = [make_api_key(), make_api_key()]
        for api_key, pepper in itertools.product(keys, peppers):
            file = write_signing_key(folder, api_key, pepper)
            assert (file, mode(file)) == (folder.signing_key_file, 0o600)
            made = SigningKey.parse(file.read_text())
            assert made == SigningKey.of(pepper, api_key.split("_")[1])
            assert made.code not in repr(made)


@pytest.mark.parametrize("text", ["", "nonsense", "hr_short_secret"])
def test_what_is_no_api_key_has_no_signing_key(tmp_path: Path, text: str) -> None:
    with open_data_folder(tmp_path) as folder:
        with pytest.raises(CorrectTheSetting, match="api-key"):
            write_signing_key(folder, text, "pepper")
        assert not folder.signing_key_file.exists()


def test_api_keys_are_what_the_services_take_and_never_the_same() -> None:
    key = make_api_key()
    assert str(parse_key(key)) == key
    assert make_api_key() != key


def test_the_stack_file_is_private_replaced_whole_and_readable_again(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        folder.write_stack({"pids": {"kafka": 1}})
        folder.write_stack({"pids": {"kafka": 2}})
        assert folder.read_stack() == {"pids": {"kafka": 2}}
        assert mode(folder.stack_file) == 0o600
        folder.remove_stack()
        assert folder.read_stack() is None


def test_half_a_stack_file_counts_as_none(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        folder.stack_file.write_text('{"pids": {')
        assert folder.read_stack() is None


def test_ports_are_remembered(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        assert folder.saved_port_base() is None
        folder.save_port_base(21_000)
    with open_data_folder(tmp_path) as folder:
        assert folder.saved_port_base() == 21_000


@pytest.mark.parametrize("kafka", ["kafka/data", "kafka-1/data", "kafka-3/data"])
def test_unsigned_records_are_taken_only_from_data_of_an_earlier_release(tmp_path: Path, kafka: str) -> None:
    with open_data_folder(tmp_path / "new") as folder:
        assert folder.records_are_signed
    (tmp_path / "old" / kafka).mkdir(parents=True)
    with open_data_folder(tmp_path / "old") as folder:
        assert not folder.records_are_signed
        folder.note_records_signed()
    with open_data_folder(tmp_path / "old") as folder:
        assert folder.records_are_signed


def test_what_is_made_within_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with open_data_folder(tmp_path / "data") as folder:
            (folder.part("kafka") / "log").write_text("a prompt")
            subprocess.run(["mkdir", "-p", str(folder.root / "kafka/data")], check=True)
            (folder.root / "port-base").write_text("1")
            assert open_to_others(folder.root) == []
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("name", "is_folder", "before", "after"),
    [("", True, 0o755, 0o700), ("kafka", True, 0o777, 0o700), ("kafka/00.log", False, 0o644, 0o600),
     ("tmp/lib.so", False, 0o775, 0o700), ("secrets/api-key", False, 0o640, 0o600), ("lock", False, 0o644, 0o600)],
)  # fmt: skip
def test_what_earlier_versions_left_open_is_closed(
    tmp_path: Path, name: str, is_folder: bool, before: int, after: int
) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_folder:
        path.mkdir(exist_ok=True)
    else:
        path.write_text("")
    path.chmod(before)
    with open_data_folder(tmp_path / "data"):
        assert mode(path) == after


def test_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/postgres").symlink_to(tmp_path / "elsewhere")
    with open_data_folder(tmp_path / "data"):
        assert mode(tmp_path / "elsewhere") == 0o755


def test_a_data_folder_that_is_a_link_is_closed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o755)
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    with open_data_folder(tmp_path / "data"):
        assert mode(tmp_path / "disk") == 0o700
