"""Any service may start before what it stands on, waits, and says so; any part may stop and come back.

Each service runs as a process of its own behind a gate to the part in question, which is shut at first. All of them
run at the same time; the tests below only look at what became of each.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from headrace_devstack.services import SERVICES
from headrace_runtime.access import KEY_RANDOM_BYTES, make_key
from headrace_testing.databases import fresh_database
from headrace_testing.gate import Gate
from headrace_testing.services_on_kafka import PEPPER, free_port, topics_on_kafka
from headrace_testing.up import RunningStack, clean_environment

CASES = [
    (service.name, part)
    for service in SERVICES
    for part in ("kafka", "registry", *(("postgres",) if service.database else ()))
]
STARTS_WITHOUT = {("intake", "postgres"), ("router", "postgres")}
"""Intake takes tasks without Postgres: only requests with an Idempotency-Key and the history wait for it. The router
looks up no stored answers meanwhile."""
SAYS = {"kafka": "Kafka at", "registry": "the schema registry at", "postgres": "Postgres"}
BOOTSTRAP_KEY = str(make_key(bytes(KEY_RANDOM_BYTES)))
PATIENCE = 240.0
"""Seconds that a busy machine may take for a step; a service that hangs takes for ever."""
AT_ONCE = 4
STOP_SECONDS = 5.0
"""By the service's own log, from the signal to its last word."""

pytestmark = pytest.mark.timeout(1200)


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of one service without one part."""

    said: str
    logged: list[str]
    ready_while_away: bool
    stopped_while_waiting: int
    seconds_to_stop: float
    ready_when_there: bool
    alive_when_gone: bool
    ready_when_back: bool
    stopped: int


class Process:
    """A service on these addresses."""

    def __init__(self, service: str, folder: Path, **variables: str) -> None:
        self._ops = free_port()
        self._log = folder / f"{service}-{uuid.uuid4().hex[:8]}.log"
        environment = clean_environment(
            HEADRACE_OPS_PORT=str(self._ops),
            HEADRACE_API_PORT=str(free_port()),
            HEADRACE_DRAIN_SECONDS="5",
            HEADRACE_KEY_PEPPER=PEPPER,
            HEADRACE_BOOTSTRAP_KEY=BOOTSTRAP_KEY,
            HEADRACE_OLLAMA_NODES="http://127.0.0.1:9",
            HEADRACE_INSTANCE_ID=f"{service}-{self._ops}",
            GROQ_API_KEY="none",
            HEADRACE_GROQ_URL="http://127.0.0.1:9",
            **variables,
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"headrace_{service.replace('-', '_')}"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
            )  # fmt: skip

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and document of /readyz; 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ops}/readyz", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except (OSError, ValueError):
            return 0, {}

    def until_ready(self) -> bool:
        return self._until(lambda: self.readiness()[0] == 200)

    def until_it_says(self, what: str) -> str:
        """What /readyz objects with, once it names `what`."""
        said = ""

        def says() -> bool:
            nonlocal said
            status, document = self.readiness()
            said = json.dumps(document.get("checks", {}))
            return status == 503 and what.lower() in said.lower()

        self._until(says)
        return said

    def until_logged(self, what: str) -> list[str]:
        """The messages so far, once one of them names `what`."""
        self._until(lambda: any(what in message for message in self.messages()))
        return self.messages()

    def messages(self) -> list[str]:
        return [str(line["message"]) for line in self._lines()]

    def seconds_to_stop(self) -> float:
        at = {line["message"]: datetime.fromisoformat(line["time"]) for line in self._lines()}
        return (at["stopped"] - at["stop requested"]).total_seconds()

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(dict(json.loads(line)))
        return found

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        """SIGTERM: exit code; it is killed when it takes too long."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self.end()

    def end(self) -> None:
        if self.alive():
            self._process.kill()
        self._process.wait()

    def _until(self, what: Any) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not (done := what()) and self.alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        return bool(done)


def _addresses(stack: RunningStack, database_url: str, prefix: str, part: str, gate: Gate) -> dict[str, str]:
    def behind(url: str) -> str:
        split = urlsplit(url)
        return urlunsplit(split._replace(netloc=split.netloc.replace(f":{split.port}", f":{gate.port}")))

    registry, kafka = stack.registry_url, stack.bootstrap_servers
    return {
        "HEADRACE_BOOTSTRAP_SERVERS": f"127.0.0.1:{gate.port}" if part == "kafka" else kafka,
        "HEADRACE_REGISTRY_URL": behind(registry) if part == "registry" else registry,
        "HEADRACE_DATABASE_URL": behind(database_url) if part == "postgres" else database_url,
        "HEADRACE_TOPIC_PREFIX": prefix,
    }


def _port_of(stack: RunningStack, part: str) -> int:
    if part == "kafka":
        return int(stack.bootstrap_servers.rpartition(":")[2])
    port = urlsplit(stack.registry_url if part == "registry" else stack.database_url).port
    assert port is not None
    return port


def _live(service: str, part: str, stack: RunningStack, prefix: str, folder: Path) -> Shown:
    """The whole story of one service and one part."""
    with fresh_database(stack.database_url) as database_url, Gate(_port_of(stack, part)) as gate:
        addresses = _addresses(stack, database_url, prefix, part, gate)
        optional = (service, part) in STARTS_WITHOUT
        first = Process(service, folder, **addresses)
        try:
            said = "" if optional else first.until_it_says(SAYS[part])
            logged = first.until_logged(SAYS[part])
            ready_while_away = first.until_ready() if optional else first.readiness()[0] == 200
            stopped_while_waiting = first.stop()
            seconds_to_stop = first.seconds_to_stop()
        finally:
            first.end()
        second = Process(service, folder, **addresses)
        try:
            second.until_logged(SAYS[part])
            gate.open()
            ready_when_there = second.until_ready()
            gate.shut()
            time.sleep(3.0)
            alive_when_gone = second.alive()
            gate.open()
            ready_when_back = second.until_ready()
            stopped = second.stop()
        finally:
            second.end()
    return Shown(
        said, logged, ready_while_away, stopped_while_waiting, seconds_to_stop,
        ready_when_there, alive_when_gone, ready_when_back, stopped,
    )  # fmt: skip


async def _provision(stack: RunningStack, prefix: str) -> None:
    async with topics_on_kafka(stack.bootstrap_servers, stack.registry_url, prefix):
        pass


@pytest.fixture(scope="module")
def stories(
    request: pytest.FixtureRequest, stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[Shown]]]:
    """All cases that were asked for, under way."""
    asked = [
        (str(item.callspec.params["service"]), str(item.callspec.params["part"]))
        for item in request.session.items
        if item.path == request.path and isinstance(item, pytest.Function)
    ]
    prefix = f"t{uuid.uuid4().hex[:12]}."
    folder = tmp_path_factory.mktemp("startup")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        threads.submit(asyncio.run, _provision(stack, prefix)).result()
        yield {case: threads.submit(_live, *case, stack, prefix, folder) for case in asked}


@pytest.mark.parametrize(("service", "part"), CASES)
def test_a_service_waits_for_what_is_away_and_says_so(
    service: str, part: str, stories: dict[tuple[str, str], Future[Shown]]
) -> None:
    shown = stories[service, part].result()
    assert any(SAYS[part] in message for message in shown.logged), shown.logged
    if (service, part) in STARTS_WITHOUT:
        assert shown.ready_while_away
    else:
        assert SAYS[part].lower() in shown.said.lower()
        assert not shown.ready_while_away
    assert shown.stopped_while_waiting == 0
    assert shown.seconds_to_stop < STOP_SECONDS
    assert shown.ready_when_there
    assert shown.alive_when_gone
    assert shown.ready_when_back
    assert shown.stopped == 0
