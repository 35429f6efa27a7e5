"""Several services in one process: whose settings, logs, spans and tasks are whose, and what the end of one leaves."""

from __future__ import annotations

import asyncio
import json
import logging as stdlib_logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
import structlog
from headrace_runtime import tracing
from headrace_runtime.hosting import ServiceLogs, collect_tasks, process_for_services, run_hosted
from headrace_runtime.lifecycle import EXIT_BAD_SETTINGS, EXIT_CLEAN, EXIT_FAILED, Part, Service
from headrace_runtime.logging import get_logger
from headrace_runtime.metrics import Metrics
from headrace_runtime.settings import ServiceSettings, setting
from headrace_testing.waiting import eventually


class AlphaSettings(ServiceSettings):
    service_name: ClassVar[str] = "alpha"
    colour: str = setting("none", unit="name", reason="To tell them apart.")
    needed: str = setting("x", unit="name", reason="What may be invalid.", pattern="^x$")


class BetaSettings(AlphaSettings):
    service_name: ClassVar[str] = "beta"


Run = Callable[[], Any]


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Path]:
    root = stdlib_logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with process_for_services(ServiceLogs(lambda name: tmp_path / f"{name}.log", tmp_path / "rest.log"), name="up"):
        yield tmp_path
    root.handlers[:] = handlers
    root.setLevel(level)
    stdlib_logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
async def _tasks_are_collected() -> None:
    collect_tasks(asyncio.get_running_loop())


def said(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def building(run: Callable[[Any], Any]) -> Callable[[AlphaSettings], Service]:
    """A `build` whose only part runs this on its settings."""

    def build(settings: AlphaSettings) -> Service:
        metrics = Metrics(settings.service_name)
        metrics.counter("runs", "How often it has run.").inc()
        return Service([Part("loop", run=lambda: run(settings))], metrics)

    return build


async def rest(_settings: object) -> None:
    await asyncio.Event().wait()


async def test_each_has_its_own_settings_and_log_whatever_the_environment_holds(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_COLOUR", "of the process")
    stop, told = asyncio.Event(), asyncio.Event()
    log = get_logger("headrace.test")

    async def tell(settings: AlphaSettings) -> None:
        log.info("from the loop", colour=settings.colour, given=settings.environment["HEADRACE_COLOUR"])
        stdlib_logging.getLogger("library").warning("from a library")
        await asyncio.to_thread(log.info, "from a thread")
        thread = threading.Thread(target=log.info, args=("from nobody",))
        thread.start()
        thread.join()
        told.set()
        await rest(settings)

    async with asyncio.TaskGroup() as group:
        for cls, colour in ((AlphaSettings, "red"), (BetaSettings, "blue")):
            own = {"HEADRACE_COLOUR": colour, "HEADRACE_OPS_PORT": "0", "HEADRACE_INSTANCE_ID": f"{colour}-1"}
            group.create_task(run_hosted(cls, building(tell), own, stop))
        await told.wait()
        await eventually(lambda: _true("from a thread" in (logs / "beta.log").read_text()))
        stop.set()
    for name, colour in (("alpha", "red"), ("beta", "blue")):
        lines = said(logs / f"{name}.log")
        assert {(line["service"], line["instance"]) for line in lines} == {(f"headrace-{name}", f"{colour}-1")}
        messages = [line["message"] for line in lines]
        assert {"starting", "from the loop", "from a library", "from a thread", "stopped"} <= set(messages)
        (line,) = [line for line in lines if line["message"] == "from the loop"]
        assert (line["colour"], line["given"]) == (colour, colour)
    assert {line["service"] for line in said(logs / "rest.log")} == {"up"}


async def _true(value: bool) -> bool:
    return value


async def test_each_serves_its_own_health_and_metrics(logs: Path, unused_tcp_port_factory: Callable[[], int]) -> None:
    stop = asyncio.Event()
    ports = {cls: unused_tcp_port_factory() for cls in (AlphaSettings, BetaSettings)}
    lives = [
        asyncio.create_task(run_hosted(cls, building(rest), {"HEADRACE_OPS_PORT": str(port)}, stop))
        for cls, port in ports.items()
    ]
    async with aiohttp.ClientSession() as session:
        for cls, port in ports.items():
            url, name = f"http://127.0.0.1:{port}", cls.service_name

            async def ready(url: str = url, name: str = name) -> bool:
                try:
                    async with session.get(f"{url}/readyz") as answer:
                        return answer.status == 200 and (await answer.json())["service"] == f"headrace-{name}"
                except aiohttp.ClientError:
                    return False

            await eventually(ready)
            async with session.get(f"{url}/metrics") as answer:
                page = await answer.text()
            assert {other: f"headrace_{other}_runs_total 1.0" in page for other in ("alpha", "beta")} == {
                "alpha": name == "alpha",
                "beta": name == "beta",
            }
    stop.set()
    assert await asyncio.gather(*lives) == [EXIT_CLEAN, EXIT_CLEAN]


async def test_one_that_fails_ends_alone_and_leaves_no_task(logs: Path) -> None:
    stop, left = asyncio.Event(), asyncio.Event()
    stray: list[asyncio.Task[None]] = []

    async def forget() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async def fail(_settings: object) -> None:
        stray.append(asyncio.create_task(forget()))
        await asyncio.sleep(0)
        raise RuntimeError("failed as asked")

    other = asyncio.create_task(run_hosted(BetaSettings, building(rest), {"HEADRACE_OPS_PORT": "0"}, stop))
    assert await run_hosted(AlphaSettings, building(fail), {"HEADRACE_OPS_PORT": "0"}, stop) == EXIT_FAILED
    assert left.is_set()
    assert stray[0].cancelled()
    assert "part failed, stopping the service" in (logs / "alpha.log").read_text()
    assert not other.done()
    stop.set()
    assert await other == EXIT_CLEAN


async def test_bad_settings_are_told_in_its_own_log(logs: Path) -> None:
    bad = {"HEADRACE_NEEDED": "y"}
    assert await run_hosted(AlphaSettings, building(rest), bad, asyncio.Event()) == EXIT_BAD_SETTINGS
    (line,) = said(logs / "alpha.log")
    assert "HEADRACE_NEEDED" in str(line["problems"])


async def test_librdkafka_properties_and_empty_variables_are_read_as_from_the_environment() -> None:
    loaded = AlphaSettings.load({"HEADRACE_KAFKA_SECURITY_PROTOCOL": "ssl", "HEADRACE_COLOUR": ""})
    assert loaded.kafka_properties == {"security.protocol": "ssl"}
    assert loaded.colour == "none"


async def test_spans_go_where_the_service_says_that_records_them() -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memories = {name: InMemorySpanExporter() for name in ("one", "two")}

    async def work(name: str) -> None:
        identity = {"service": name, "instance": "i", "version": "1", "endpoint": None}
        end = tracing.setup(**identity, exporter=memories[name], shared=True)  # type: ignore[arg-type]
        with tracing.span(f"of {name}"):
            await asyncio.sleep(0)
        end()

    await asyncio.gather(*(asyncio.create_task(work(name)) for name in memories))
    with tracing.span("of nobody"):
        pass
    for name, memory in memories.items():
        assert [span.name for span in memory.get_finished_spans()] == [f"of {name}"]
