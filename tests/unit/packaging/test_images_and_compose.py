"""What can be checked of images and the compose file without a container engine."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SERVICES = sorted(folder.name for folder in (ROOT / "services").iterdir() if (folder / "pyproject.toml").is_file())


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def settings_variables(service: str) -> set[str]:
    """Variables that a service's --help lists."""
    import importlib

    from headrace_runtime.settings import Settings, variable_of

    module = importlib.import_module(f"headrace_{service.replace('-', '_')}.settings")
    classes = [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Settings) and found.__module__ == module.__name__
    ]
    return {variable_of(name, field) for found in classes for name, field in found.model_fields.items()}


def test_there_are_six_services() -> None:
    assert SERVICES == [
        "cloud-worker",
        "cost-accountant",
        "intake",
        "local-worker",
        "router",
        "skill-broadcaster",
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_image_is_multi_stage_pinned_and_runs_as_nobody_special(service: str) -> None:
    dockerfile = (ROOT / "services" / service / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(stages) == 2
    assert all(re.search(r":\d+\.\d+", stage) for stage in stages)
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    assert f"--package headrace-{service}" in dockerfile
    assert "uv sync --frozen" in dockerfile
    assert f'ENTRYPOINT ["python", "-m", "headrace_{service.replace("-", "_")}"]' in dockerfile
    assert "HEALTHCHECK" in dockerfile


def test_all_dockerfiles_are_of_one_shape() -> None:
    shapes = set()
    for service in SERVICES:
        text = (ROOT / "services" / service / "Dockerfile").read_text()
        text = text.replace(f"headrace_{service.replace('-', '_')}", "SERVICE").replace(service, "SERVICE")
        text = re.sub(r" \\\n    HEADRACE_API_\w+=\S+", "", text).replace("EXPOSE 8080 9100", "EXPOSE 9100")
        shapes.add(text)
    assert len(shapes) == 1


def test_image_has_the_version_of_uv_that_make_uses() -> None:
    bootstrap = ROOT / "libs/devstack/bootstrap.py"
    pinned = re.search(r'UV_VERSION = "([\d.]+)"', bootstrap.read_text())
    assert pinned is not None
    for service in SERVICES:
        assert f"uv=={pinned[1]}" in (ROOT / "services" / service / "Dockerfile").read_text()


def test_compose_runs_all_services_and_every_long_running_part_has_a_health_check() -> None:
    services = compose()["services"]
    assert set(SERVICES) <= set(services)
    for name, service in services.items():
        if "image" in service:
            assert re.search(r":v?\d+(\.\d+)*$", service["image"]), f"{name}: pin the version"
            assert "healthcheck" in service, name


@pytest.mark.parametrize("service", SERVICES)
def test_compose_hardens_each_service_and_sets_only_variables_it_reads(service: str) -> None:
    part = compose()["services"][service]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert part["build"]["dockerfile"] == f"services/{service}/Dockerfile"
    assert part["depends_on"]["provision"]["condition"] == "service_completed_successfully"
    assert set(part["environment"]) <= settings_variables(service)


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
