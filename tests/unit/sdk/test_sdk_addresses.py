"""Where the client finds Headrace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headrace.addresses import Addresses, kafka_properties, locate
from headrace.connecting import Cluster
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


def test_the_signing_key_comes_from_its_variable_and_stays_out_of_the_representation() -> None:
    text = f"{'a' * 16}:{'0' * 64}"
    found = locate(environ={"HEADRACE_SIGNING_KEY": text, "HEADRACE_URL": "http://x"})
    assert found.signing_key == text
    assert text not in repr(found)


SIGNING = f"{'b' * 16}:{'1' * 64}"
OWN = f"{'a' * 16}:{'0' * 64}"


@pytest.mark.parametrize(
    ("variables", "signing_key", "signs_for"),
    [
        ({}, SIGNING, "default"),
        ({"HEADRACE_API_KEY": "hr_other"}, SIGNING, "default"),
        ({"HEADRACE_REGISTRY_URL": "http://elsewhere"}, SIGNING, "default"),
        ({"HEADRACE_SIGNING_KEY": OWN}, OWN, None),
        # What one stack has is of no use on another Kafka, and nobody else's to see.
        ({"HEADRACE_BOOTSTRAP_SERVERS": "elsewhere:9092"}, None, None),
        ({"HEADRACE_BOOTSTRAP_SERVERS": "elsewhere:9092", "HEADRACE_SIGNING_KEY": OWN}, OWN, None),
    ],
)
def test_a_secure_stack_has_a_signing_key_for_one_tenant(
    stack_file: Path, variables: dict[str, str], signing_key: str | None, signs_for: str | None
) -> None:
    _name_signing_key(stack_file, SIGNING + "\n")
    found = locate(environ=variables, stack_file=stack_file)
    assert (found.signing_key, found.signs_for) == (signing_key, signs_for)
    assert SIGNING not in repr(found)


@pytest.mark.parametrize("named", [None, "removed", "without a name"])
def test_an_open_stack_has_none(stack_file: Path, named: str | None) -> None:
    if named is not None:
        _name_signing_key(stack_file, SIGNING)
        content = json.loads(stack_file.read_text())
        if named == "removed":
            Path(content["signing_key_file"]).unlink()
        else:
            stack_file.write_text(json.dumps(content | {"signing_key_file": None}))
    found = locate(environ={}, stack_file=stack_file)
    assert (found.signing_key, found.signs_for) == (None, None)


def _name_signing_key(stack_file: Path, text: str) -> None:
    file = stack_file.parent / "secrets" / "signing-key"
    file.write_text(text)
    content = json.loads(stack_file.read_text())
    stack_file.write_text(json.dumps(content | {"tenant": "default", "signing_key_file": str(file)}))


@pytest.mark.parametrize("text", ["nonsense", "a" * 16, f"{'a' * 16}:{'0' * 63}"])
async def test_what_is_no_signing_key_is_refused_before_anything_is_written(text: str) -> None:
    addresses = locate(environ={
        "HEADRACE_SIGNING_KEY": text, "HEADRACE_BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_REGISTRY_URL": "http://x"
    })  # fmt: skip
    with pytest.raises(Misconfigured, match="HEADRACE_SIGNING_KEY does not hold a signing key") as refused:
        Cluster.at(addresses)
    assert text not in str(refused.value)


def test_kafka_properties_come_from_variables_and_from_the_file_that_one_names(tmp_path: Path) -> None:
    environ = {"HEADRACE_KAFKA_SASL_USERNAME": "ann", "HEADRACE_KAFKA_EMPTY": "", "HEADRACE_URL": "http://x"}
    assert kafka_properties(environ) == {"sasl.username": "ann"}
    file = tmp_path / "client.properties"
    file.write_text("# of Kafka\nsasl.username = bob\nsasl.password: pass=word\n")
    environ["HEADRACE_KAFKA_PROPERTIES_FILE"] = str(file)
    assert kafka_properties(environ) == {"sasl.username": "ann", "sasl.password": "pass=word"}


@pytest.mark.parametrize("text", [None, b"\xff\xfe"])
def test_a_properties_file_that_cannot_be_read_is_named(tmp_path: Path, text: bytes | None) -> None:
    file = tmp_path / "client.properties"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(Misconfigured, match=r"client\.properties"):
        kafka_properties({"HEADRACE_KAFKA_PROPERTIES_FILE": str(file)})


@pytest.fixture
def secure(stack_file: Path) -> Path:
    """The same stack, with logins."""
    document = json.loads(stack_file.read_text())
    users = {}
    for user in ("observer", "operator"):
        users[user] = str(stack_file.parent / f"{user}.properties")
        Path(users[user]).write_text(f"security.protocol=SASL_PLAINTEXT\nsasl.username=headrace-{user}\n")
    password = stack_file.parent / "registry-operator"
    password.write_text("secret\n")
    document |= {"kafka_users": users, "registry_users": {"operator": str(password)}}
    stack_file.write_text(json.dumps(document))
    return stack_file


@pytest.mark.parametrize(
    ("user", "registry"), [("observer", {}), ("operator", {"Authorization": "Basic b3BlcmF0b3I6c2VjcmV0"})]
)
def test_a_secure_stack_has_a_login_for_each_of_its_users(secure: Path, user: str, registry: dict[str, str]) -> None:
    found = locate(environ={}, stack_file=secure)
    assert found.needs_login
    logged_in = found.as_user(user)
    assert not logged_in.needs_login
    assert logged_in.kafka_properties["sasl.username"] == f"headrace-{user}"
    assert logged_in.registry_access.headers() == registry


def test_a_login_by_variables_stays(secure: Path) -> None:
    environ = {"HEADRACE_KAFKA_SASL_USERNAME": "ann", "HEADRACE_REGISTRY_TOKEN": "t"}
    found = locate(environ=environ, stack_file=secure).as_user("operator")
    assert found.kafka_properties == {"sasl.username": "ann"}
    assert found.registry_access.headers() == {"Authorization": "Bearer t"}


def test_the_logins_of_a_stack_are_not_for_other_servers(secure: Path) -> None:
    environ = {"HEADRACE_BOOTSTRAP_SERVERS": "kafka:9092", "HEADRACE_REGISTRY_URL": "http://registry"}
    found = locate(environ=environ, stack_file=secure).as_user("operator")
    assert found.kafka_properties == {}
    assert found.registry_access.headers() == {}


def test_an_open_stack_needs_no_login(stack_file: Path) -> None:
    found = locate(environ={}, stack_file=stack_file)
    assert not found.needs_login
    assert found.as_user("anybody") == found


def test_a_user_that_the_stack_does_not_have_is_named(secure: Path) -> None:
    with pytest.raises(Misconfigured, match="agent"):
        locate(environ={}, stack_file=secure).as_user("agent")


@pytest.mark.parametrize(
    "end", ["", "/", "//", "/v1", "/v1/", "/v1//", "//v1", " ", "/v1 "], ids=repr
)  # fmt: skip
@pytest.mark.parametrize("root", ["http://127.0.0.1:19080", "https://gate.example.com/headrace"])
def test_an_address_is_taken_as_clients_of_openai_write_it(root: str, end: str) -> None:
    variables = ("HEADRACE_URL", "HEADRACE_SKILLS_URL", "HEADRACE_COSTS_URL")
    found = locate(environ=dict.fromkeys(variables, root + end), folder=Path("/"))
    assert (found.require("url"), found.require("skills_url"), found.require("costs_url")) == (root,) * 3
    assert Addresses(url=root + end).url == root


def test_addresses_are_taken_as_up_prints_them() -> None:
    found = Addresses(skills_url="http://h:1/v1/skills", costs_url="http://h:2/v1/costs/", url="http://h:3/v1/skills")
    assert (found.skills_url, found.costs_url) == ("http://h:1", "http://h:2")
    assert found.url == "http://h:3/v1/skills", "not an address of intake, and not made into one"
