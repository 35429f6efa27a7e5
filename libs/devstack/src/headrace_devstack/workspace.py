"""Writes the files that list services and are needed before all packages are installed: tool settings, dependencies,
compose.

`--check` writes nothing, reports files that are not up to date, and exits with 1 if there are any. It only reads the
descriptions of the services, so that it works before a new service is installed.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from headrace_contracts.tools.files import bring_up_to_date
from headrace_contracts.tools.schemas import repository
from headrace_contracts.users import NO_SERVICES, principal
from headrace_models.cloud import CLOUD_PROVIDERS

from headrace_devstack.blocks import MarkTheBlock, filled
from headrace_devstack.descriptions import DescribeTheService, ServiceDescription, as_json, described

FIRST_COMPOSE_PORT = 19_080
_OWNER_OF_FAUST = "cost-accountant"


def files(root: Path) -> dict[Path, str]:
    """Every file with its expected content. Raises DescribeTheService, MarkTheBlock."""
    services = described(root)
    names = [service.name for service in services]
    packages = [service.package for service in services]
    devstack = root / "libs" / "devstack"
    blocks = {
        root / "pyproject.toml": {
            "sources of services": [f'"$MYPY_CONFIG_FILE_DIR/services/{name}/src",' for name in names],
            "packages of services": [f'"{package}",' for package in packages],
            "services beside each other": [f'"{" | ".join(packages)}",'],
            "services that may not talk to confluent_kafka": [f'"{package}",' for package in packages],
            "services that may not know Faust": [
                f'"{service.package}",' for service in services if service.name != _OWNER_OF_FAUST
            ],
            "decisions of services": [
                f'"{service.package}.decide",'
                for service in services
                if (root / "services" / service.name / "src" / service.package / "decide").exists()
            ],
        },
        devstack / "pyproject.toml": {
            "services": [f'"headrace-{name}",' for name in names],
            "sources of services": [f"headrace-{name} = {{ workspace = true }}" for name in names],
        },
        root / "docker-compose.yml": {
            "services": list(_compose(services)),
            "passwords of users": list(_passwords([*names, *NO_SERVICES])),
            "users of the database": list(_database_users(services)),
            "targets": [f"- {name}:9100" for name in names],
        },
    }
    found = {path: filled(path.read_text(encoding="utf-8"), wanted) for path, wanted in blocks.items()}
    return found | {devstack / "src" / "headrace_devstack" / "services.json": as_json(services)}


def _compose(services: Sequence[ServiceDescription]) -> Iterator[str]:
    for service in services:
        if service is not services[0]:
            yield ""
        yield f"{service.name}:"
        yield "  <<: *service"
        yield f"  build: {{ context: ., dockerfile: services/Dockerfile, args: {{ SERVICE: {service.name} }} }}"
        yield "  environment:"
        yield "    <<: *kafka-and-registry"
        yield f"    HEADRACE_INSTANCE_ID: {service.name}-1"
        yield f"    HEADRACE_KAFKA_SASL_USERNAME: {principal(service.name)}"
        yield f"    HEADRACE_KAFKA_SASL_PASSWORD: {_secret('KAFKA', service.name)}"
        if service.database:
            login = f"{_role(service.name)}:{_secret('POSTGRES', service.name)}"
            yield f"    HEADRACE_DATABASE_URL: postgresql://{login}@postgres:5432/headrace"
        if service.holds_secret:
            yield "    HEADRACE_KEY_PEPPER: *key-pepper"
        if service.takes_submissions:
            yield "    HEADRACE_UNSIGNED_SUBMISSIONS: refuse"
        if service.provider_keys:
            for provider in CLOUD_PROVIDERS:
                yield f"    {provider.key_variable}: ${{{provider.key_variable}:-}}"
        for variable, value in service.compose.items():
            yield f"    {variable}: {_scalar(value)}"
        if service.ports.api is not None:
            yield f'  ports: ["127.0.0.1:{FIRST_COMPOSE_PORT + service.ports.api}:8080"]'


def _passwords(users: Sequence[str]) -> Iterator[str]:
    yield "HEADRACE_USER_PASSWORDS: >-"
    for user in users:
        yield f"  {user}={_secret('KAFKA', user)}{'' if user is users[-1] else ','}"


def _database_users(services: Sequence[ServiceDescription]) -> Iterator[str]:
    yield "content: |"
    yield f"  CREATE ROLE registry LOGIN PASSWORD '{_secret('POSTGRES', 'registry')}';"
    yield "  CREATE DATABASE registry OWNER registry;"
    for service in services:
        if service.database:
            yield f"  CREATE ROLE {_role(service.name)} LOGIN PASSWORD '{_secret('POSTGRES', service.name)}';"
            yield f"  GRANT CONNECT, CREATE ON DATABASE headrace TO {_role(service.name)};"


def _role(service: str) -> str:
    return service.replace("-", "_")


def _secret(server: str, user: str) -> str:
    """A variable without which compose does not start."""
    return f"${{{server}_PASSWORD_{user.replace('-', '_').upper()}:?run `make compose-secrets` first}}"


def _scalar(text: str) -> str:
    return yaml.safe_dump(text, width=1_000).removesuffix("...\n").rstrip("\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace_devstack.workspace", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is not up to date")
    check = parser.parse_args().check
    try:
        return bring_up_to_date(files(repository()), check=check)
    except (DescribeTheService, MarkTheBlock) as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
