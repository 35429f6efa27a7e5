"""The data folder: one stack at a time, never an older Headrace on newer data, secrets for the owner only."""

import stat
from pathlib import Path

import pytest
from headrace_devstack.errors import CorrectTheSetting, StopTheOtherStack, UpgradeHeadrace
from headrace_devstack.layout import LAYOUT_VERSION, make_api_key, open_data_folder
from headrace_runtime.access import parse_key


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
