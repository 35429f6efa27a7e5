"""Fixtures for tests on the real parts: embedded Kafka, schema registry, Postgres, and the whole platform.

Ask for what you need; what nobody asks for is not started.

``kafka``         bootstrap servers of a real broker, shared by the session. It creates no topics by itself: use
                  ``topic_prefix`` or names of your own, so that tests do not meet.
``registry_url``  Confluent API of a real schema registry, shared by the session, compatibility FULL_TRANSITIVE. Use
                  subjects below ``topic_prefix``.
``postgres_dsn``  address of a new, empty database on a real Postgres, dropped after the test.
``topic_prefix``  a prefix for topics, groups and subjects that no other test has.
``stack``         all three and their addresses (`headrace_testing.up.RunningStack`).
``platform``      a ``headrace up`` of its own with all services and simulated providers, shared by the session;
                  the same type, with ``intake_url``, ``api_key``, ``topic_prefix``, ``log(part)`` and ``pid(part)``.

Everything runs on free loopback ports in a temporary folder, and is gone after the session. When a test has failed, the
folder with the logs of all parts is kept, and its name printed.
"""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace_testing.databases import fresh_database
from headrace_testing.up import RunningStack, open_folder, running_up

KUBERNETES = Path(__file__).parent / "k8s"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests on Kubernetes (``make test-k8s``) unless they are asked for: they build programs with Go."""
    asked = any(Path(argument.partition("::")[0]).resolve().is_relative_to(KUBERNETES) for argument in config.args)
    return True if collection_path == KUBERNETES and not asked else None


def _run(request: pytest.FixtureRequest, name: str, *options: str) -> Iterator[RunningStack]:
    with open_folder(name) as folder:
        with running_up(folder, "--port-base", "0", *options) as stack:
            yield stack
        if request.session.testsfailed:
            _keep_logs(folder, request)


def _keep_logs(folder: Path, request: pytest.FixtureRequest) -> None:
    kept = folder.with_name(f"{folder.name}-logs")
    shutil.copytree(folder / "data" / "logs", kept)
    shutil.copy(folder / "up.log", kept)
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"logs of the failed session: {kept}")


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[RunningStack]:
    """Kafka, registry and Postgres, started once for all tests that need them."""
    yield from _run(request, "stack", "--backing-only")


@pytest.fixture(scope="session")
def kafka(stack: RunningStack) -> str:
    """Bootstrap servers of the session's broker."""
    return stack.bootstrap_servers


@pytest.fixture(scope="session")
def registry_url(stack: RunningStack) -> str:
    """Base URL of the session's schema registry (Confluent API)."""
    return stack.registry_url


@pytest.fixture
def postgres_dsn(stack: RunningStack) -> Iterator[str]:
    """Address of a new, empty database."""
    with fresh_database(stack.database_url) as url:
        yield url


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics, groups and subjects that no other test has; ends with a dot."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest) -> Iterator[RunningStack]:
    """The whole platform, started once for all tests that need it."""
    yield from _run(request, "platform", "--simulate")
