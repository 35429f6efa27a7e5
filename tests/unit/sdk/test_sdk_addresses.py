"""Where the client finds Headrace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headrace.addresses import kafka_properties, locate
from headrace.errors import Misconfigured

KEY = "hr_id_from-the-stack"


@pytest.fixture
def stack_file(tmp_path: Path) -> Path:
    data = tmp_path / "project" / ".headrace"
    (data / "secrets").mkdir(parents=True)
    (data / "secrets" / "api-key").write_text(f"{KEY}\n")
    file = data / "stack.json"
    file.write_text(
        json.dumps(
            {
                "bootstrap_servers": "127.0.0.1:19092",
                "registry_url": "http://127.0.0.1:19081/apis/ccompat/v7",
                "topic_prefix": "mine.",
                "intake_url": "http://127.0.0.1:19080",
                "skills_url": "http://127.0.0.1:19082",
                "costs_url": "http://127.0.0.1:19083",
                "api_key_file": str(data / "secrets" / "api-key"),
            }
        )
    )
    return file


def test_a_running_stack_is_found_upward(stack_file: Path) -> None:
    deep = stack_file.parent.parent / "src" / "deep"
    deep.mkdir(parents=True)
    found = locate(environ={}, folder=deep)
    assert (found.url, found.api_key, found.topic_prefix) == ("http://127.0.0.1:19080", KEY, "mine.")
    assert (found.skills_url, found.costs_url) == ("http://127.0.0.1:19082", "http://127.0.0.1:19083")
    assert found.bootstrap_servers == "127.0.0.1:19092"
    assert found.stack_file == stack_file


def test_arguments_win_over_variables(stack_file: Path) -> None:
    environ = {"HEADRACE_URL": "http://env", "HEADRACE_API_KEY": "hr_env"}
    found = locate(environ=environ, folder=stack_file.parent.parent, url="http://argument")
    assert (found.url, found.api_key) == ("http://argument", "hr_env")


def test_the_key_of_a_stack_is_not_shown_to_another_installation(stack_file: Path) -> None:
    found = locate(environ={"HEADRACE_URL": "https://elsewhere"}, folder=stack_file.parent.parent)
    assert found.api_key is None
    with pytest.raises(Misconfigured, match="set HEADRACE_API_KEY as well"):
        found.require("api_key")


def test_a_variable_may_change_one_thing_about_a_stack(stack_file: Path) -> None:
    found = locate(environ={"HEADRACE_API_KEY": "hr_other"}, folder=stack_file.parent.parent)
    assert (found.url, found.api_key) == ("http://127.0.0.1:19080", "hr_other")


def test_a_stack_that_is_named_fills_in_what_is_left_open(stack_file: Path) -> None:
    found = locate(environ={"HEADRACE_URL": "http://env"}, folder=Path("/"), stack_file=stack_file)
    assert (found.url, found.api_key) == ("http://env", KEY)


def test_without_any_hint_the_error_says_what_to_do(tmp_path: Path) -> None:
    found = locate(environ={}, folder=tmp_path)
    with pytest.raises(Misconfigured, match=r"HEADRACE_URL, or run `headrace up`"):
        found.require("url")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_stack_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "stack.json"
    file.write_text(content)
    with pytest.raises(Misconfigured, match=r"stack\.json"):
        locate(environ={}, stack_file=file)


def test_an_address_without_scheme_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(Misconfigured, match="HEADRACE_SKILLS_URL must start with"):
        locate(environ={"HEADRACE_SKILLS_URL": "localhost:18083"})


def test_the_key_stays_out_of_the_representation(stack_file: Path) -> None:
    assert KEY not in repr(locate(environ={}, stack_file=stack_file))


def test_kafka_properties_come_from_variables() -> None:
    environ = {
        "HEADRACE_KAFKA_SASL_USERNAME": "ann",
        "HEADRACE_KAFKA_PROPERTIES_FILE": "/etc/kafka",
        "HEADRACE_KAFKA_EMPTY": "",
        "HEADRACE_URL": "http://x",
    }
    assert kafka_properties(environ) == {"sasl.username": "ann"}
