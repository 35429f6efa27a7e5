"""The options of `make bench-scale`, the rows that it copies, and the sessions that it holds open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from headrace_scale_bench.agent_sessions import AgentSessions, SessionRefused
from headrace_scale_bench.arguments import parse
from headrace_scale_bench.history_rows import copying
from headrace_scale_bench.measuring import DIMENSIONS


def test_everything_is_measured_unless_told_otherwise() -> None:
    plan, output = parse([], "")

    assert tuple(plan.dimensions) == DIMENSIONS
    assert plan.scales == ((6, 1), (12, 2), (24, 4))
    assert (plan.agents, plan.tenants, plan.history) == ((100, 1_000, 10_000), (1, 1_000), (0, 1_000_000))
    assert output == Path("bench-results/scale.json")


def test_what_is_measured_can_be_chosen() -> None:
    plan, _ = parse(["--only", "tenants,history", "--tenants", "1,50", "--scales", "6:1,6:3", "--rounds", "2"], "")

    assert plan.dimensions == ("tenants", "history")
    assert plan.tenants == (1, 50)
    assert plan.scales == ((6, 1), (6, 3))
    assert plan.rounds == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ["--only", "users"], ["--tenants", "1000,1"], ["--tenants", "1"], ["--tenants", "0,5"], ["--scales", "6:1"],
        ["--scales", "6:1,2:4"], ["--rounds", "0"], ["--seconds", "0"],
    ],
)  # fmt: skip
def test_options_that_say_nothing_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(wrong, "")
    assert wrong[0] in capsys.readouterr().err


def test_a_copy_keeps_what_is_not_its_own() -> None:
    statement = copying("ledger.entries", ["task_id", "tenant"], {"task_id": "'t' || n"})

    assert statement == (
        "INSERT INTO ledger.entries (task_id, tenant) SELECT 't' || n, one.tenant "
        "FROM (SELECT * FROM ledger.entries  LIMIT 1) AS one, generate_series(1, $1::bigint) AS n"
    )


@asynccontextmanager
async def feed(status: bytes) -> AsyncIterator[tuple[AgentSessions, list[asyncio.StreamWriter]]]:
    """A feed that responds with a status and then says nothing, and the connections that it has."""
    writers: list[asyncio.StreamWriter] = []
    late = [151]

    async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /metrics "):
            # As the service does, it finds out late that somebody has gone.
            page = b"# HELP\nheadrace_skills_agents %d.0\n" % max(len(writers), late.pop() if late else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page))
            writer.close()
            return
        assert b"Authorization: Bearer key\r\n" in head
        writers.append(writer)
        writer.write(b"HTTP/1.1 %b\r\n\r\n" % status)
        await reader.read()
        writers.remove(writer)
        writer.close()

    server = await asyncio.start_server(opened, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sessions = AgentSessions(url, url, "key")
        yield sessions, writers
        await sessions.hold(0)


async def until(writers: list[asyncio.StreamWriter], count: int) -> None:
    async with asyncio.timeout(30):
        while len(writers) != count:  # noqa: ASYNC110 - seen from the other side
            await asyncio.sleep(0.01)


async def test_as_many_sessions_are_open_as_are_wanted() -> None:
    async with feed(b"200 OK") as (sessions, writers):
        for count in (150, 10, 70):
            await sessions.hold(count)
            await until(writers, count)
        assert sessions.lost == 0
        writers[0].close()
        async with asyncio.timeout(30):
            while not sessions.lost:  # noqa: ASYNC110 - closed from the other side
                await asyncio.sleep(0.01)


async def test_a_refused_session_says_why() -> None:
    async with feed(b"429 Too Many Requests") as (sessions, _):
        with pytest.raises(SessionRefused, match="429 Too Many"):
            await sessions.hold(1)
