"""Settings of the stack: environment below options, and an error that names the variable."""

from pathlib import Path

import pytest
from headrace_devstack.errors import CorrectTheSetting, InstallNewerPython
from headrace_devstack.settings import load_settings
from headrace_devstack.stack import check_python


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DATA", "/from/environment")
    monkeypatch.setenv("HEADRACE_PORT_BASE", "21000")
    settings = load_settings(data=Path("/from/option"), port_base=None)
    assert (settings.data, settings.port_base) == (Path("/from/option"), 21_000)


def test_downloads_go_to_the_cache_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert load_settings().cache == Path("/somewhere/headrace")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert load_settings().cache == Path("/home/me/.cache/headrace")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADRACE_PORT_BASE", "70000"),
        ("HEADRACE_PORT_BASE", "http"),
        ("HEADRACE_TOPIC_PREFIX", "no spaces."),
        ("HEADRACE_SIMULATOR_SPEED", "warp"),
        ("HEADRACE_BROKERS", "0"),
        ("HEADRACE_BROKERS", "2"),
        ("HEADRACE_BROKERS", "many"),
        ("HEADRACE_PROCESSES", "two"),
        ("HEADRACE_SITES", "berlin,Paris"),
        ("HEADRACE_SITES", "batch"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CorrectTheSetting, match=variable):
        load_settings()


def test_sites_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().site_names == ()
    monkeypatch.setenv("HEADRACE_SITES", "berlin, gpu-1,berlin")
    assert load_settings().site_names == ("berlin", "gpu-1")


def test_an_old_python_is_refused() -> None:
    check_python((3, 11, 0))
    with pytest.raises(InstallNewerPython, match=r"(?s)Python 3\.10\.4.*make up PYTHON="):
        check_python((3, 10, 4))
