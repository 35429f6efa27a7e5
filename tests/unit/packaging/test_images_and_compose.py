"""What can be checked of images and the compose file without a container engine."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_contracts.producer_signature import SigningKey
from headrace_devstack import workspace
from headrace_devstack.compose_secrets import NameTheApiKey, completed, with_signing_key
from headrace_devstack.descriptions import ServiceDescription, described
from headrace_devstack.ports import DEFAULT_PORT_BASE, PortPlan
from headrace_devstack.services import NAMES, SERVICES
from headrace_runtime.access import parse_key
from headrace_runtime.settings import ApiSettings, DatabaseSettings, variable_of
from headrace_testing.described_services import settings_of

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "services" / "Dockerfile").read_text()
REQUIRED = r"\$\{[A-Z_]+:\?run `make compose-secrets` first\}"
every_service = pytest.mark.parametrize("service", SERVICES, ids=NAMES)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_every_folder_describes_itself_and_what_is_known_is_what_they_say() -> None:
    assert described(ROOT) == SERVICES
    assert set(NAMES) == {folder.name for folder in (ROOT / "services").iterdir() if folder.is_dir()}


def test_generated_files_are_current() -> None:
    stale = [str(path) for path, text in workspace.files(ROOT).items() if path.read_text() != text]
    assert stale == [], "run `make generate`"


@every_service
def test_a_description_says_of_api_and_database_what_the_settings_say(service: ServiceDescription) -> None:
    settings = settings_of(service)
    assert settings.service_name == service.name
    assert (service.ports.api is not None) == issubclass(settings, ApiSettings)
    assert service.database == issubclass(settings, DatabaseSettings)


@every_service
def test_a_service_is_installed_as_a_command_that_starts_it(service: ServiceDescription) -> None:
    project = tomllib.loads((ROOT / "services" / service.name / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {f"headrace-{service.name}": f"{service.package}.__main__:main"}


def test_the_image_is_multi_stage_pinned_and_runs_as_nobody_special() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2
    assert all(re.search(r":\d+\.\d+", stage) for stage in stages)
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert '--package "headrace-$SERVICE"' in DOCKERFILE
    assert "uv sync --frozen" in DOCKERFILE
    assert 'ln -s "headrace-$SERVICE" /opt/headrace/bin/headrace-service' in DOCKERFILE
    assert 'ENTRYPOINT ["headrace-service"]' in DOCKERFILE
    assert "HEALTHCHECK" in DOCKERFILE


@pytest.mark.parametrize("name", [*NAMES, "", "routr"])
def test_the_image_is_built_of_a_service_that_there_is_or_says_so(name: str) -> None:
    check = re.search(r"^RUN (test (?:.*\\\n)*.*)", DOCKERFILE, re.MULTILINE)
    assert check is not None
    environment = {**os.environ, "SERVICE": name}
    done = subprocess.run(["sh", "-c", check[1]], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == (name in NAMES)
    assert name in NAMES or f"There is no service '{name}'" in done.stderr


def test_image_has_the_version_of_uv_that_make_uses() -> None:
    bootstrap = ROOT / "libs/devstack/bootstrap.py"
    pinned = re.search(r'UV_VERSION = "([\d.]+)"', bootstrap.read_text())
    assert pinned is not None
    assert f"uv=={pinned[1]}" in DOCKERFILE


def test_compose_runs_all_services_and_every_long_running_part_has_a_health_check() -> None:
    services = compose()["services"]
    assert set(NAMES) <= set(services)
    for name, service in services.items():
        if "image" in service:
            assert re.search(r":v?\d+(\.\d+)*$", service["image"]), f"{name}: pin the version"
            assert "healthcheck" in service, name


@every_service
def test_compose_hardens_each_service_and_sets_only_variables_it_reads(service: ServiceDescription) -> None:
    part = compose()["services"][service.name]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert part["build"] == {"context": ".", "dockerfile": "services/Dockerfile", "args": {"SERVICE": service.name}}
    assert part["depends_on"]["provision"]["condition"] == "service_completed_successfully"
    read = {variable_of(name, field) for name, field in settings_of(service).model_fields.items()}
    # Any property of librdkafka can be set (docs/operations.md).
    assert {name for name in part["environment"] if not name.startswith("HEADRACE_KAFKA_")} <= read


@every_service
def test_compose_publishes_an_api_where_the_embedded_stack_has_it(service: ServiceDescription) -> None:
    published = compose()["services"][service.name].get("ports", [])
    if service.ports.api is None:
        assert published == []
    else:
        assert published == [f"127.0.0.1:{PortPlan(DEFAULT_PORT_BASE).api(service.name)}:8080"]


def test_compose_watches_all_services() -> None:
    targets = yaml.safe_load(compose()["configs"]["prometheus"]["content"])["scrape_configs"][0]["static_configs"]
    assert targets == [{"targets": [f"{name}:9100" for name in NAMES]}]


def test_compose_publishes_on_loopback_only_and_holds_no_secret() -> None:
    document = compose()
    for name, service in document["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        for variable, value in service.get("environment", {}).items():
            # Nothing but variables that compose requires: no default, and no text of its own where a password stands.
            if variable == "HEADRACE_USER_PASSWORDS":
                assert all(re.fullmatch(rf"[a-z-]+={REQUIRED}", item) for item in str(value).split(", ")), value
            elif re.search(r"PASSWORD|PEPPER|BOOTSTRAP_KEY|_USERS_[A-Z]+$", variable):
                assert re.fullmatch(REQUIRED, str(value)), f"{name}: {variable}"
            elif "_API_KEY" in variable:
                assert str(value) == f"${{{variable}:-}}", f"{name}: {variable}"
            else:
                without = re.sub(REQUIRED, "", str(value))
                assert not re.search(r"password[=:]\"?[^\"$]", without, re.IGNORECASE), f"{name}: {variable}"
                assert ":-" not in without, f"{name}: {variable}"


def test_no_part_of_compose_is_open() -> None:
    services = compose()["services"]
    kafka = services["kafka"]["environment"]
    protocols = dict(pair.split(":") for pair in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert {one.split(":")[0] for one in kafka["KAFKA_LISTENERS"].split(",")} == protocols.keys()
    assert set(protocols.values()) == {"SASL_PLAINTEXT"}
    assert kafka["KAFKA_ALLOW_EVERYONE_IF_NO_ACL_FOUND"] == "false"
    assert kafka["KAFKA_SUPER_USERS"] == "User:admin"
    assert services["registry"]["environment"]["APICURIO_AUTH_ROLE_BASED_AUTHORIZATION"] == "true"
    assert "GF_AUTH_ANONYMOUS_ENABLED" not in services["grafana"]["environment"]
    given = [services[name]["environment"]["HEADRACE_KAFKA_SASL_USERNAME"] for name in NAMES]
    assert given == [f"headrace-{name}" for name in NAMES]


def test_all_required_passwords_are_made_once_and_none_is_weak() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    env, added = completed(text, "")
    made = dict(line.split("=", 1) for line in env.splitlines())
    assert set(added) == made.keys() == set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert len(set(made.values())) == len(made)
    assert all(len(value) >= 32 and re.fullmatch(r"[A-Za-z0-9_-]+", value) for value in made.values())
    assert parse_key(made["HEADRACE_BOOTSTRAP_KEY"]) is not None
    assert completed(text, env) == (env, [])


def test_compose_takes_signed_submissions_only() -> None:
    services = compose()["services"]
    told = {name: services[name]["environment"].get("HEADRACE_UNSIGNED_SUBMISSIONS") for name in NAMES}
    assert told == {service.name: "refuse" if service.takes_submissions else None for service in SERVICES}
    assert list(told.values()).count("refuse") >= 3


@pytest.mark.parametrize(
    "before",
    [
        "",
        "HEADRACE_BOOTSTRAP_SIGNING_KEY=of-a-former-key\n",
        "export HEADRACE_BOOTSTRAP_SIGNING_KEY=\nGRAFANA_PASSWORD=mine",
        f"HEADRACE_KEY_PEPPER='mine'\nHEADRACE_BOOTSTRAP_KEY=\"hr_{'k' * 16}_{'s' * 48}\" # first\n",
        f"HEADRACE_KEY_PEPPER=mine # ours\nexport HEADRACE_BOOTSTRAP_KEY=hr_{'k' * 16}_{'s' * 48}  # first\n",
    ],
)
def test_the_first_api_key_has_its_signing_key_in_env(before: str) -> None:
    env = with_signing_key(completed((ROOT / "docker-compose.yml").read_text(), before)[0])
    assert with_signing_key(env) == env
    made = dict(line.removeprefix("export ").split("=", 1) for line in env.splitlines())
    assert env.count("SIGNING_KEY=") == 1
    if "PEPPER" in before:
        pepper, key_id = "mine", "k" * 16
    else:
        pepper, key_id = made["HEADRACE_KEY_PEPPER"], made["HEADRACE_BOOTSTRAP_KEY"].split("_")[1]
    assert made["HEADRACE_BOOTSTRAP_SIGNING_KEY"] == str(SigningKey.of(pepper, key_id))
    assert env.startswith(before.partition("HEADRACE_BOOTSTRAP_SIGNING_KEY")[0].removesuffix("export "))
    assert ("GRAFANA_PASSWORD=mine" in env) == ("GRAFANA" in before)


@pytest.mark.parametrize("key", ["nonsense", "hr_short_secret", f"hr_{'k' * 16}_{'S' * 48}"])
def test_what_is_no_api_key_is_told(key: str) -> None:
    env, _ = completed((ROOT / "docker-compose.yml").read_text(), f"HEADRACE_BOOTSTRAP_KEY={key}\n")
    with pytest.raises(NameTheApiKey, match="HEADRACE_BOOTSTRAP_KEY") as told:
        with_signing_key(env)
    assert key not in str(told.value)


@pytest.mark.parametrize(
    "mine", ["GRAFANA_PASSWORD=mine", "export GRAFANA_PASSWORD=mine\n", "A=b\nGRAFANA_PASSWORD=mine"]
)
def test_passwords_that_are_there_stay(mine: str) -> None:
    env, added = completed((ROOT / "docker-compose.yml").read_text(), mine)
    assert env.startswith(mine)
    assert "GRAFANA_PASSWORD" not in added
    assert env.count("GRAFANA_PASSWORD=") == 1
    assert all(re.match(r"(export )?[A-Z_]+=", line) for line in env.splitlines())


def test_compose_uses_the_same_kafka_and_registry_as_the_embedded_stack() -> None:
    services = compose()["services"]
    lock = (ROOT / "libs/devstack/src/headrace_devstack").rglob("*lock*")
    pinned = "".join(path.read_text() for path in lock if path.suffix in {".toml", ".json", ".txt", ".lock"})
    for image in ("kafka", "registry"):
        assert services[image]["image"].rsplit(":", 1)[1] in pinned


def test_every_package_asks_for_the_same_python() -> None:
    versions = {
        tomllib.loads(path.read_text())["project"]["requires-python"]
        for path in [
            ROOT / "pyproject.toml",
            *ROOT.glob("libs/*/pyproject.toml"),
            *ROOT.glob("services/*/pyproject.toml"),
        ]
    }
    assert versions == {">=3.11"}


def test_every_ollama_container_passes_nothing_on_to_ollama_s_cloud() -> None:
    found = {name: one for name, one in compose()["services"].items() if "ollama/ollama" in str(one.get("image"))}
    assert found
    for name, one in found.items():
        assert one["environment"]["OLLAMA_NO_CLOUD"] == "1", name
        tag = re.fullmatch(r"ollama/ollama:(\d+)\.(\d+)\.(\d+)", one["image"])
        assert tag is not None, "a version is pinned"
        assert tuple(map(int, tag.groups())) >= (0, 16, 2), "older versions ignore OLLAMA_NO_CLOUD"
