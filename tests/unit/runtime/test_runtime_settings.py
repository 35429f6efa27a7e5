"""Settings: read from the environment, explained, refused with the variable's name and never with a secret."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from headrace_contracts.registry_access import RegistryAccess
from headrace_runtime.settings import (
    ApiSettings,
    CommaList,
    DatabaseSettings,
    ServiceSettings,
    Settings,
    SettingsInvalid,
    setting,
)
from headrace_runtime.settings_help import help_text, likely_typos
from pydantic import SecretStr

PEPPER = "a-pepper-of-good-length"
DATABASE = "postgresql://user:hunter2@127.0.0.1:5432/headrace"


class ExampleSettings(ServiceSettings, ApiSettings, DatabaseSettings):
    service_name: ClassVar[str] = "example"
    nodes: CommaList = setting(("one", "two"), unit="name, ...", reason="Which nodes there are.")
    groq_api_key: SecretStr | None = setting(None, unit="secret", reason="Key of Groq.", variable="GROQ_API_KEY")
    wait_seconds: float = setting(30.0, unit="s", reason="Longest wait.", gt=0)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KEY_PEPPER", PEPPER)
    monkeypatch.setenv("HEADRACE_DATABASE_URL", DATABASE)


def _problems() -> str:
    with pytest.raises(SettingsInvalid) as caught:
        ExampleSettings.load()
    return "\n".join(caught.value.problems)


def test_defaults_stand_where_nothing_is_set() -> None:
    settings = ExampleSettings.load()
    assert settings.topic_prefix == "headrace."
    assert settings.nodes == ("one", "two")
    assert settings.groq_api_key is None
    assert settings.kafka_properties == {}
    assert "-" in settings.instance_id


def test_variables_are_read_by_prefix_and_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_WAIT_SECONDS", "2.5")
    monkeypatch.setenv("HEADRACE_NODES", "a, b,,c ")
    monkeypatch.setenv("GROQ_API_KEY", "gsk_secret")
    monkeypatch.setenv("HEADRACE_REGISTRY_URL", "http://registry:8081/apis/ccompat/v7/")
    settings = ExampleSettings.load()
    assert settings.wait_seconds == 2.5
    assert settings.nodes == ("a", "b", "c")
    assert settings.groq_api_key is not None
    assert settings.groq_api_key.get_secret_value() == "gsk_secret"
    assert settings.registry_url == "http://registry:8081/apis/ccompat/v7"


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_WAIT_SECONDS", "")
    monkeypatch.setenv("GROQ_API_KEY", "")
    settings = ExampleSettings.load()
    assert settings.wait_seconds == 30.0
    assert settings.groq_api_key is None


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_KEY_PEPPER")
    assert _problems() == "HEADRACE_KEY_PEPPER: is required and not set"


def test_every_wrong_variable_is_named_and_no_value_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_WAIT_SECONDS", "minus-two")
    monkeypatch.setenv("HEADRACE_KEY_PEPPER", "short-pepper")
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "mysql://user:hunter2@host/db")
    problems = _problems()
    for variable in ("HEADRACE_WAIT_SECONDS", "HEADRACE_KEY_PEPPER", "HEADRACE_DATABASE_URL"):
        assert variable in problems
    for value in ("minus-two", "short-pepper", "hunter2"):
        assert value not in problems


def test_secrets_do_not_show_in_the_settings_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA_SASL_PASSWORD", "s3cr3t")
    monkeypatch.setenv("GROQ_API_KEY", "gsk_secret")
    shown = repr(ExampleSettings.load()) + str(ExampleSettings.load())
    for secret in ("s3cr3t", "gsk_secret", PEPPER, "hunter2"):
        assert secret not in shown


def test_the_login_of_the_registry_comes_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REGISTRY_USERNAME", "reader")
    monkeypatch.setenv("HEADRACE_REGISTRY_PASSWORD", "s3cr3t")
    settings = ExampleSettings.load()
    assert settings.registry_access() == RegistryAccess(username="reader", password="s3cr3t")
    assert "s3cr3t" not in repr(settings) + str(settings) + repr(settings.registry_access())
    monkeypatch.delenv("HEADRACE_REGISTRY_USERNAME")
    monkeypatch.delenv("HEADRACE_REGISTRY_PASSWORD")
    monkeypatch.setenv("HEADRACE_REGISTRY_TOKEN", "t0k3n")
    settings = ExampleSettings.load()
    assert settings.registry_access() == RegistryAccess(token="t0k3n")
    assert "t0k3n" not in repr(settings) + str(settings) + repr(settings.registry_access())


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PASSWORD": "s3cr3t"}, "HEADRACE_REGISTRY_PASSWORD: needs HEADRACE_REGISTRY_USERNAME as well"),
        ({"USERNAME": "a", "PASSWORD": "s3cr3t", "TOKEN": "t"}, "HEADRACE_REGISTRY_TOKEN: is set together"),
        ({"TOKEN": "s3cr3t with blanks"}, "HEADRACE_REGISTRY_TOKEN: contains a blank"),
        ({"URL": "http://u:s3cr3t@registry"}, "HEADRACE_REGISTRY_URL: contains a login"),
        ({"CA_FILE": "/nowhere/ca.pem"}, "HEADRACE_REGISTRY_CA_FILE: /nowhere/ca.pem: No such file"),
        ({"CLIENT_CERTIFICATE_FILE": "/nowhere/tls.crt"}, "HEADRACE_REGISTRY_CLIENT_CERTIFICATE_FILE: needs"),
    ],
)
def test_a_login_that_cannot_work_is_refused_before_anything_connects(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"HEADRACE_REGISTRY_{name}", value)
    problems = _problems()
    assert problems.startswith(said)
    assert "s3cr3t" not in problems


def test_settings_cannot_be_changed() -> None:
    settings = ExampleSettings.load()
    with pytest.raises(ValueError, match="frozen"):
        settings.wait_seconds = 1.0


def test_librdkafka_properties_come_from_variables_and_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# mounted\nsasl.username=from-file\nsasl.password: \\\n  a=b:c\n! more\n\nssl.ca.location = /ca\n")
    monkeypatch.setenv("HEADRACE_KAFKA_PROPERTIES_FILE", str(file))
    monkeypatch.setenv("HEADRACE_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("HEADRACE_KAFKA_SASL_USERNAME", "from-variable")
    monkeypatch.setenv("HEADRACE_KAFKA_EMPTY", "")
    monkeypatch.setenv("HEADRACE_INSTANCE_ID", "pod-3")
    assert ExampleSettings.load().kafka_config() == {
        "bootstrap.servers": "127.0.0.1:9092",
        "client.id": "example.pod-3",
        "security.protocol": "SASL_SSL",
        "sasl.username": "from-variable",
        "sasl.password": "a=b:c",
        "ssl.ca.location": "/ca",
        "message.max.bytes": "4194304",
    }


@pytest.mark.parametrize(
    ("request_bytes", "record"), [("1048576", "4194304"), ("3000000", "8097152"), ("8388608", "18874368")]
)
def test_producers_take_records_as_large_as_requests_lead_to(
    monkeypatch: pytest.MonkeyPatch, request_bytes: str, record: str
) -> None:
    monkeypatch.setenv("HEADRACE_BODY_LIMIT_BYTES", request_bytes)
    assert ExampleSettings.load().kafka_config()["message.max.bytes"] == record
    monkeypatch.setenv("HEADRACE_KAFKA_MESSAGE_MAX_BYTES", "20000000")
    assert ExampleSettings.load().kafka_config()["message.max.bytes"] == "20000000"


@pytest.mark.parametrize("request_bytes", ["8388609", "1023", "1MiB"])
def test_requests_cannot_be_larger_than_every_service_can_hold(
    monkeypatch: pytest.MonkeyPatch, request_bytes: str
) -> None:
    monkeypatch.setenv("HEADRACE_BODY_LIMIT_BYTES", request_bytes)
    assert _problems().startswith("HEADRACE_BODY_LIMIT_BYTES: ")


def test_properties_that_guarantees_rest_on_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA_GROUP_ID", "mine")
    assert "HEADRACE_KAFKA_GROUP_ID: Headrace sets group.id itself" in _problems()
    monkeypatch.delenv("HEADRACE_KAFKA_GROUP_ID")
    file = tmp_path / "kafka.properties"
    file.write_text("security.protocol=SSL\npartitioner=random\nno value here\n")
    monkeypatch.setenv("HEADRACE_KAFKA_PROPERTIES_FILE", str(file))
    problems = _problems()
    assert "line 2: Headrace sets partitioner itself" in problems
    assert "line 3: expected name=value" in problems
    monkeypatch.setenv("HEADRACE_KAFKA_PROPERTIES_FILE", str(tmp_path / "absent"))
    assert "cannot read" in _problems()


def test_a_field_without_unit_and_reason_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match=r"Bare\.number must be declared with setting"):

        class Bare(Settings):
            number: int = 3

    with pytest.raises(TypeError, match="unit and a reason"):
        setting(1, unit="", reason="because")


def test_help_shows_each_variable_with_default_unit_and_reason() -> None:
    text = help_text(ExampleSettings, "1.2.3")
    assert "headrace-example 1.2.3" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith(("HEADRACE_", "GROQ_"))}
    assert set(lines) >= {"HEADRACE_BOOTSTRAP_SERVERS", "HEADRACE_KAFKA_<PROPERTY>", "GROQ_API_KEY", "HEADRACE_NODES"}
    assert "one,two" in lines["HEADRACE_NODES"]
    assert "30.0" in lines["HEADRACE_WAIT_SECONDS"]
    assert "Longest wait." in lines["HEADRACE_WAIT_SECONDS"]
    assert "(required)" in lines["HEADRACE_KEY_PEPPER"]
    assert "<host>-<pid>" in lines["HEADRACE_INSTANCE_ID"]
    assert "(not set)" in lines["GROQ_API_KEY"]
    assert len(lines) == len(ExampleSettings.model_fields)


def test_likely_typos_are_told_and_other_services_variables_are_not() -> None:
    environ = {
        "HEADRACE_WAIT_SECOND": "1",
        "HEADRACE_BOOTSTRAP_SERVER": "x",
        "HEADRACE_WAIT_SECONDS": "1",
        "HEADRACE_OLLAMA_NODES": "a",
        "HEADRACE_KAFKA_SASL_MECHANISM": "PLAIN",
        "UNRELATED": "1",
    }
    assert likely_typos(ExampleSettings, environ) == (
        ("HEADRACE_BOOTSTRAP_SERVER", "HEADRACE_BOOTSTRAP_SERVERS"),
        ("HEADRACE_WAIT_SECOND", "HEADRACE_WAIT_SECONDS"),
    )
    assert likely_typos(ServiceSettings, {"HEADRACE_API_PORT": "1", "HEADRACE_API_HOST": "h"}) == ()
