"""What doctor says of services, and that no part can hold it up or end it: whatever answers, or does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from headrace.addresses import Addresses
from headrace.cli.checkups import Finding, examine
from headrace.cli.checkups.guarding import guarded
from headrace.cli.checkups.services import HttpAnswer, installed, judge_partitions, judge_service
from headrace.cli.doctor import exit_code
from headrace.errors import NotAllowed
from headrace_contracts.errors import SchemaMissing
from headrace_streams.errors import LeaveGroup, TransientError

OURS = installed("headrace")
LISTENERS = ("silent", "closing", "garbage", "web page")


def said(code: int = 200, **document: Any) -> HttpAnswer:
    return HttpAnswer(code, {"version": OURS, "uptime_seconds": 3661, **document}, None)


def test_a_service_that_is_well_is_one_line() -> None:
    (finding,) = judge_service("intake", "u", said(checks={"database": "ok"}, degraded={}, notes={"a": "b"}), [])
    assert finding == Finding("intake", True, f"ready, version {OURS}, up 1 h 1 min")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            said(503, checks={"ledger": "waits: Postgres is away", "x": "ok"}),
            "not ready: ledger: waits: Postgres is away",
        ),
        (said(503, checks={"h.work.local.batch[3]": "suspended: 20 records"}), "h.work.local.batch[3]: suspended: 20"),
        (said(503, status="not ready"), "not ready: not ready"),
        (said(degraded={"history": "waits: no database"}), "ready, but history: waits: no database"),
        (said(degraded={"live windows": "down", "submissions": "x"}), "live windows: down; submissions: x"),
        (said(version="9.9.9"), "is version 9.9.9"),
        (HttpAnswer(200, None, None), "not a response of a Headrace service"),
        (HttpAnswer(404, {"detail": "?"}, None), "not a response of a Headrace service"),
        (HttpAnswer(200, ["list"], None), "not a response of a Headrace service"),
        (said(checks=7, degraded=[1], version=None), "is version None"),
    ],
)
def test_what_is_not_well_is_wrong(answer: HttpAnswer, says: str) -> None:
    (finding,) = judge_service("worker", "http://u", answer, [])
    assert not finding.ok
    assert says in finding.detail
    assert finding.remedy


def partition(number: int, reason: str | None, seconds: Any = 60.0) -> dict[str, Any]:
    return {"partition": number, "phase": "suspended", "reason": reason, "unwell_for_seconds": seconds}


@pytest.mark.parametrize(
    ("reason", "seconds", "ok", "does"),
    [
        ("the journal has a record that cannot be read", 11.0, False, "headrace journal verify 3"),
        ("tasks.completed: not authorised", 3600.0, False, "tries again by itself"),
        ("being taken over", 2.0, True, "tries again by itself"),
        ("its topic is missing", None, True, "needs no restart"),
    ],
)
def test_partitions_of_a_router(reason: str, seconds: Any, ok: bool, does: str) -> None:
    page = {"partitions": [partition(0, None), partition(3, reason, seconds)], "incomplete": {}}
    (finding,) = judge_partitions("router", page)
    assert (finding.part, finding.ok, finding.warning) == ("router partition 3", ok, ok)
    assert reason in finding.detail
    assert does in finding.remedy
    # Its own words say the same again.
    known = judge_service("router", "u", said(503, checks={"router": f"partition 3: {reason}"}), [finding])
    assert [each.part for each in known if each.part == "router"] == ([] if not ok else ["router"])


@pytest.mark.parametrize("page", [None, {}, [], {"partitions": 3}, {"partitions": [None, 7, {}]}, "text"])
def test_a_page_of_another_version_says_nothing(page: Any) -> None:
    assert judge_partitions("router", page) == []


def test_inputs_that_are_assigned_elsewhere_are_a_warning() -> None:
    (finding,) = judge_partitions("router", {"partitions": [], "incomplete": {"4": ["h.tasks.cancelled"]}})
    assert (finding.warning, "h.tasks.cancelled" in finding.detail) == (True, True)


async def _raise(error: Exception) -> list[Finding]:
    raise error


async def _hang() -> list[Finding]:
    await asyncio.Event().wait()
    return []


@pytest.mark.parametrize(
    ("check", "unreachable", "says"),
    [
        (_hang, True, "no answer within 0"),
        (lambda: _raise(TransientError("coordinator is loading")), True, "coordinator is loading"),
        (lambda: _raise(TimeoutError()), True, "no answer within"),
        (lambda: _raise(LeaveGroup("not authorised")), False, "not authorised"),
        (lambda: _raise(NotAllowed("no", status=403)), False, "no"),
        (lambda: _raise(SchemaMissing("gone")), False, "gone"),
        (lambda: _raise(ConnectionResetError("reset")), False, "reset"),
        (lambda: _raise(ValueError("Port could not be cast")), False, "Port"),
        (lambda: _raise(KeyError("surprise")), False, "cannot be checked: KeyError"),
        (lambda: _raise(ZeroDivisionError()), False, "report|ZeroDivisionError"),
    ],
)
async def test_whatever_a_check_meets_is_a_finding(
    check: Callable[[], Awaitable[list[Finding]]], unreachable: bool, says: str
) -> None:
    (finding,) = await guarded("part", check, seconds=0.05)
    assert (finding.part, finding.ok, finding.unreachable) == ("part", False, unreachable)
    assert any(each in finding.detail for each in says.split("|"))
    assert finding.remedy


@asynccontextmanager
async def listening(kind: str) -> AsyncIterator[int]:
    """A port where something listens that is not what is looked for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if kind == "silent":
                await reader.read()
            elif kind == "garbage":
                await reader.read(10)
                writer.write(b"\x00\x00\x00\x05hello" * 10)
            elif kind == "web page":
                await reader.read(10)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("kind", LISTENERS)
async def test_nothing_that_listens_can_hold_it_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("services", "connections", "cluster"):
        monkeypatch.setattr(f"headrace.cli.checkups.{module}._SECONDS", 1.0)
    async with listening(kind) as port:
        url = f"http://127.0.0.1:{port}"
        addresses = Addresses(
            url=url,
            api_key="hr_x",
            bootstrap_servers=f"127.0.0.1:{port}",
            registry_url=url,
            stack={"database_url": f"postgresql://u@127.0.0.1:{port}/d", "ops_urls": {"router": url, "intake": url}},
        )
        began = time.monotonic()
        plugin = EntryPoint("broken plugin", f"{__name__}:broken_plugin", "headrace.checkups")
        findings = await examine(addresses, [plugin])
        assert time.monotonic() - began < 20
    bad = {finding.part for finding in findings if not finding.ok}
    assert {"kafka", "schema registry", "postgres", "router", "intake", "api key", "broken plugin"} <= bad
    assert exit_code(findings) == 3
    assert all(finding.detail and finding.remedy for finding in findings if not finding.ok)


async def broken_plugin(addresses: Addresses) -> list[Finding]:
    raise RuntimeError("a plugin's own defect")
