"""What can be checked of images and the compose file without a container engine."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_devstack import workspace
from headrace_devstack.descriptions import ServiceDescription, described
from headrace_devstack.ports import DEFAULT_PORT_BASE, PortPlan
from headrace_devstack.services import NAMES, SERVICES
from headrace_runtime.settings import ApiSettings, DatabaseSettings, variable_of
from headrace_testing.described_services import settings_of

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "services" / "Dockerfile").read_text()
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
    assert set(part["environment"]) <= read


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
            if re.search(r"PASSWORD|PEPPER|_KEY$|BOOTSTRAP_KEY", variable):
                assert str(value).startswith("${"), f"{name}: {variable}"


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
