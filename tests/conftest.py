"""Fixtures for tests on the real parts: embedded Kafka, schema registry, Postgres, and the whole platform.

Ask for what you need; what nobody asks for is not started. A test that asks for a part while it runs
(``request.getfixturevalue``) is marked ``stack``.

``kafka``         bootstrap servers of a real broker, shared by the session. It creates no topics by itself: use
                  ``topic_prefix`` or names of your own, so that tests do not meet.
``registry_url``  Confluent API of a real schema registry, shared by the session, compatibility FULL_TRANSITIVE. Use
                  subjects below ``topic_prefix``.
``postgres_dsn``  address of a new, empty database on a real Postgres, dropped after the test.
``topic_prefix``  a prefix for topics, groups and subjects that no other test has.
``stack``         all three and their addresses (`headrace_testing.up.RunningStack`).
``platform``      the same with all services and simulated providers: ``intake_url``, ``api_key``, ``topic_prefix``,
                  ``log(part)`` and ``pid(part)``.

There is one of them in a session, also when many processes run its tests (`headrace_testing.shared_up`): do not stop
what ``stack`` names. Everything runs on free loopback ports in a temporary folder, and is gone after the session. When
a test has failed, the folder with the logs of all parts is kept, and its name printed.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from headrace_testing.databases import fresh_database
from headrace_testing.loops import drop_repeated_kafka, loop_factories
from headrace_testing.shared_up import SharedUp
from headrace_testing.spreading import Spreading, slow_first
from headrace_testing.up import RunningStack
from hypothesis import HealthCheck, settings

KUBERNETES = Path(__file__).parent / "k8s"
SHARED = pytest.StashKey[SharedUp]()

# How long an example takes says how busy the machine is.
settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests on Kubernetes (``make test-k8s``) unless they are asked for: they build programs with Go."""
    asked = any(Path(argument.partition("::")[0]).resolve().is_relative_to(KUBERNETES) for argument in config.args)
    return True if collection_path == KUBERNETES and not asked else None


def pytest_configure(config: pytest.Config) -> None:
    """The process that stands above the others owns what they share."""
    given = getattr(config, "workerinput", None)
    config.stash[SHARED] = SharedUp(Path(given["shared_up"])) if given else SharedUp.in_new_folder()


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that what they test runs on, some on two: see `headrace_testing.loops`."""
    return loop_factories(item.path.relative_to(item.config.rootpath).as_posix())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where that is."""
    node.workerinput["shared_up"] = str(node.config.stash[SHARED].folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Spreading | None:
    """See `Spreading`."""
    return Spreading(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, so that no worker is left alone with it in the end."""
    drop_repeated_kafka(items)
    slow_first(items)


@pytest.hookimpl(tryfirst=True)  # xdist starts the tests when every worker has told it what it has collected
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the tests will ask for while the first ones run."""
    config, shared = session.config, session.config.stash[SHARED]
    needs = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if config.option.collectonly or not (
        needs & {"stack", "platform"} or any(item.get_closest_marker("stack") for item in session.items)
    ):
        return
    shared.ask(platform="platform" in needs)
    if not hasattr(config, "workerinput"):
        shared.launch_if_asked()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """In the controller, before any test runs."""
    node.config.stash[SHARED].launch_if_asked()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing stays, but for the logs after a failure."""
    if hasattr(config, "workerinput"):
        return
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    failed = reporter is not None and any(reporter.stats.get(outcome) for outcome in ("failed", "error"))
    kept = config.stash[SHARED].end(keep_logs=failed)
    if kept is not None:
        reporter.write_line(f"logs of the failed session: {kept}")


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> RunningStack:
    """Kafka, registry and Postgres; those of the platform, where some test of the session needs all of it."""
    return request.config.stash[SHARED].attach()


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
def platform(stack: RunningStack) -> RunningStack:
    """The whole platform. Tests that need it run one after another: they let providers fail and kill services."""
    return stack
