"""Postgres as services use it: every way of being away is told from a defect, and migrations that wait their turn."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import headrace_cost_accountant.migrations
import headrace_intake.migrations
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from headrace_cost_accountant.migrations import MIGRATIONS as LEDGER
from headrace_intake.migrations import MIGRATIONS as INTAKE
from headrace_runtime.database import (
    Connection,
    Database,
    DatabaseAway,
    DatabaseMetrics,
    Outage,
    OutageKind,
    outage_of,
)
from headrace_runtime.health import Health
from headrace_runtime.metrics import Metrics
from headrace_runtime.migrations import Migrations, main
from headrace_runtime.positions import Positions
from headrace_runtime.schema_revisions import VERSION_TABLE, Revision
from headrace_streams.errors import PartitionsLost
from headrace_streams.records import TopicPartition
from headrace_testing.databases import database_at, prepared
from headrace_testing.stored_positions import at, moving
from structlog.testing import capture_logs

pytestmark = pytest.mark.stack

both = pytest.mark.parametrize("migrations", [INTAKE, LEDGER], ids=lambda each: each.schema)


@asynccontextmanager
async def admin(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def opened(dsn: str, **options: object) -> AsyncIterator[tuple[Database, list[Outage | None]]]:
    told: list[Outage | None] = []
    database = database_at(dsn, LEDGER, on_change=told.append, **options)  # type: ignore[arg-type]
    await database.prepare()
    try:
        yield database, told
    finally:
        await database.close()


# Each does one thing to itself that Postgres ends in its own way.
Trouble = Callable[[Connection], Awaitable[object]]
TROUBLES: dict[str, tuple[Trouble, OutageKind]] = {
    "cut off": (lambda c: c.execute("SELECT pg_terminate_backend(pg_backend_pid())"), OutageKind.UNREACHABLE),
    "statement timeout": (
        lambda c: c.execute("SET LOCAL statement_timeout = 20; SELECT pg_sleep(5)"),
        OutageKind.TIMEOUT,
    ),
    "our own timeout": (lambda c: c.execute("SELECT pg_sleep(5)", timeout=0.05), OutageKind.TIMEOUT),
    "cancelled by an operator": (
        lambda c: c.execute("SELECT pg_cancel_backend(pg_backend_pid())"),
        OutageKind.TIMEOUT,
    ),
    "read only": (
        lambda c: c.execute("SET TRANSACTION READ ONLY; CREATE TABLE x (y int)"),
        OutageKind.READ_ONLY,
    ),
    # These are the server's own words, said on demand.
    "disk full": (lambda c: c.execute("DO $$BEGIN RAISE SQLSTATE '53100'; END$$"), OutageKind.STORAGE),
    "disk failing": (lambda c: c.execute("DO $$BEGIN RAISE SQLSTATE '58030'; END$$"), OutageKind.STORAGE),
    "out of memory": (lambda c: c.execute("DO $$BEGIN RAISE SQLSTATE '53200'; END$$"), OutageKind.UNREACHABLE),
    "serialization": (lambda c: c.execute("DO $$BEGIN RAISE SQLSTATE '40001'; END$$"), OutageKind.CONFLICT),
    "deadlock": (lambda c: c.execute("DO $$BEGIN RAISE SQLSTATE '40P01'; END$$"), OutageKind.CONFLICT),
    "starting up": (lambda c: c.execute("DO $$BEGIN RAISE SQLSTATE '57P03'; END$$"), OutageKind.UNREACHABLE),
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_what_passes_is_told_from_defects_and_the_next_one_succeeds(postgres_dsn: str, name: str) -> None:
    trouble, kind = TROUBLES[name]
    async with opened(postgres_dsn) as (database, told):
        with pytest.raises(DatabaseAway, match=kind.value.replace("_", " ")):
            async with database.connection() as connection, connection.transaction():
                await trouble(connection)
        assert told[-1] is not None
        assert told[-1].kind is kind
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert told[-1] is None


@pytest.mark.parametrize(
    ("statement", "arguments", "expected"),
    [
        ("SELECT * FROM no_such_table", (), asyncpg.UndefinedTableError),
        ("SELECT nonsense nonsense nonsense", (), asyncpg.PostgresSyntaxError),
        ("SELECT 1/0", (), asyncpg.DivisionByZeroError),
        # The client itself refuses these.
        ("SELECT $1::bigint", (1 << 70,), asyncpg.DataError),
        ("SELECT $1::text", (5,), asyncpg.DataError),
    ],
)
async def test_defects_are_raised_as_they_are(
    postgres_dsn: str, statement: str, arguments: tuple[object, ...], expected: type[Exception]
) -> None:
    async with opened(postgres_dsn) as (database, told):
        with pytest.raises(expected) as raised:
            async with database.connection() as connection:
                await connection.execute(statement, *arguments)
        assert not isinstance(raised.value, DatabaseAway)
        assert told[-1] is None


async def test_a_lock_that_somebody_holds_is_waited_for(postgres_dsn: str) -> None:
    async with opened(postgres_dsn) as (database, told), admin(postgres_dsn) as other:
        async with other.transaction():
            await other.execute("LOCK TABLE ledger.positions")
            with pytest.raises(DatabaseAway, match="timeout"):
                async with database.connection() as connection, connection.transaction():
                    await connection.execute("SET LOCAL lock_timeout = 50; SELECT * FROM ledger.positions")
        async with database.connection() as connection:
            await connection.execute("SELECT * FROM ledger.positions")
        assert told[-1] is None


async def test_all_connections_of_the_process_in_use_is_no_defect(postgres_dsn: str) -> None:
    async with opened(postgres_dsn, pool_size=1, timeout_seconds=0.2) as (database, told):
        async with database.connection():
            with pytest.raises(DatabaseAway, match="all 1 connections of this process are in use"):
                async with database.connection():
                    raise AssertionError("there is but one connection")
            assert told[-1] is not None
            assert told[-1].kind is OutageKind.CONNECTIONS
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_too_many_clients_of_the_server_is_no_defect(postgres_dsn: str) -> None:
    async with admin(postgres_dsn) as other:
        # A limit of this role alone, so that tests beside this one are not disturbed.
        role = f"few_{uuid.uuid4().hex[:12]}"
        await other.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 1 SUPERUSER")
        await other.execute(f"ALTER ROLE {role} NOSUPERUSER")
        parts = urlsplit(postgres_dsn)
        dsn = urlunsplit(parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}"))
        await LEDGER.upgrade(postgres_dsn)
        await other.execute(f"GRANT USAGE ON SCHEMA ledger TO {role}")
        await other.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA ledger TO {role}")
        try:
            async with opened(dsn) as (database, told):
                async with admin(dsn):
                    with pytest.raises(DatabaseAway, match="connections"):
                        async with database.connection():
                            raise AssertionError("somebody else has the only connection")
                    assert told[-1] is not None
                    assert told[-1].kind is OutageKind.CONNECTIONS
                async with database.connection() as connection:
                    assert await connection.fetchval("SELECT 1") == 1
        finally:
            await other.execute(f"DROP OWNED BY {role}")
            await other.execute(f"DROP ROLE {role}")


async def test_connections_to_what_has_become_a_standby_are_given_up(postgres_dsn: str) -> None:
    async with opened(postgres_dsn, pool_size=1) as (database, _):
        async with database.connection() as connection:
            before = await connection.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(DatabaseAway, match="read only"):
            async with database.connection() as connection, connection.transaction():
                await connection.execute("SET TRANSACTION READ ONLY; CREATE TABLE x (y int)")
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != before


async def test_a_migration_under_prepared_statements_is_no_defect(postgres_dsn: str) -> None:
    async with opened(postgres_dsn, pool_size=1) as (database, told), admin(postgres_dsn) as other:
        await other.execute("CREATE TABLE grows (a int)")
        async with database.connection() as connection:
            await connection.fetch("SELECT * FROM grows")
        await other.execute("ALTER TABLE grows ADD b int")
        with pytest.raises(DatabaseAway, match="schema moved"):
            async with database.connection() as connection, connection.transaction():
                await connection.fetch("SELECT * FROM grows")
        async with database.connection() as connection, connection.transaction():
            await connection.fetch("SELECT * FROM grows")
        assert told[-1] is None


def test_an_address_that_is_none_is_no_outage() -> None:
    async def connect() -> None:
        await database_at("postgresql://u@h:port/x", LEDGER).prepare()

    with pytest.raises(ValueError, match="port"):
        asyncio.run(asyncio.wait_for(connect(), 5))


def test_passwords_stay_out_of_reasons() -> None:
    outage = outage_of(OSError("cannot reach postgresql://u:hidden@h/x"))
    assert outage is not None
    assert "hidden" not in str(outage)


@pytest.mark.parametrize("needed", [True, False])
def test_an_outage_shows_in_metrics_and_in_readiness(needed: bool) -> None:
    metrics, health = Metrics("test"), Health()
    measures = DatabaseMetrics(metrics, health, needed=needed)
    measures.changed(Outage(OutageKind.STORAGE, "disk full"))
    value = metrics.registry.get_sample_value
    assert value("headrace_test_database_up") == 0
    assert value("headrace_test_database_outages_total", {"kind": "storage"}) == 1
    said = health.ready().reasons.get("postgres") if needed else health.notes["postgres"]
    assert said == "cannot be used (storage): disk full"
    assert health.ready().ok is not needed
    measures.changed(None)
    assert value("headrace_test_database_up") == 1
    assert health.ready().ok


async def test_positions_move_all_or_raise(postgres_dsn: str) -> None:
    positions = Positions("ledger")
    one, two = TopicPartition("t", 0), TopicPartition("t", 1)
    async with prepared(postgres_dsn, LEDGER) as database, database.connection() as connection:
        await positions.move(connection, {one: moving(None, 5, "a")})
        assert await positions.find(connection, [one, two]) == {one: at(5, "a")}
        wrongs = [
            {one: moving(None, 6, "a")},
            {one: moving(4, 6, "a")},
            {one: moving(5, 6, "a"), two: moving(1, 2)},
            {one: moving(5, 6, "b")},
            {one: moving(5, 6)},
        ]
        for wrong in wrongs:
            with pytest.raises(PartitionsLost):
                async with connection.transaction():
                    await positions.move(connection, wrong)
        await positions.move(connection, {one: (at(5, "a"), at(6, "b")), two: moving(None, 1)})
        assert await positions.find(connection, [one, two]) == {one: at(6, "b"), two: at(1)}
        # What an older release wrote gets its id with the next move.
        await positions.move(connection, {two: (at(1), at(2, "b"))})
        assert await positions.find(connection, [two]) == {two: at(2, "b")}


@both
async def test_migrations_go_up_and_down_and_up_again(postgres_dsn: str, migrations: Migrations) -> None:
    for _ in range(2):
        assert (await migrations.upgrade(postgres_dsn)).name == migrations.head
    assert (await migrations.downgrade(postgres_dsn, "base")).name == ""
    async with admin(postgres_dsn) as connection:
        left = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", migrations.schema)
    assert [row["tablename"] for row in left] == [VERSION_TABLE]
    assert (await migrations.upgrade(postgres_dsn)).name == migrations.head


@both
async def test_processes_that_start_together_migrate_one_after_the_other(
    postgres_dsn: str, migrations: Migrations
) -> None:
    revisions = await asyncio.gather(*(migrations.upgrade(postgres_dsn) for _ in range(4)))
    assert set(revisions) == {Revision(migrations.schema, migrations.head)}


@both
async def test_a_release_runs_on_a_schema_that_a_newer_one_has_brought_further(
    postgres_dsn: str, migrations: Migrations
) -> None:
    await migrations.upgrade(postgres_dsn)
    async with admin(postgres_dsn) as connection:
        await connection.execute(f"UPDATE {migrations.schema}.{VERSION_TABLE} SET version_num = '9999'")
    revision = await migrations.upgrade(postgres_dsn)
    assert (revision.name, revision.newer) == ("9999", True)
    with capture_logs() as logs:
        async with prepared(postgres_dsn, migrations) as database, database.connection() as connection:
            assert await Positions(migrations.schema).find(connection, [TopicPartition("t", 0)]) == {}
    assert any("newer than this release" in line["event"] for line in logs)


async def test_somebody_who_migrates_for_long_is_waited_for_and_named(postgres_dsn: str) -> None:
    await LEDGER.upgrade(postgres_dsn, "0003")
    async with admin(postgres_dsn) as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", LEDGER.lock)
        # The server's limit for a lock: shortened, so that the test need not wait for it.
        short = Migrations("headrace_cost_accountant.migrations", "ledger", lock_seconds=0.1)
        with pytest.raises(asyncpg.LockNotAvailableError) as raised:
            await short.upgrade(postgres_dsn)
        outage = outage_of(raised.value)
        assert outage is not None
        assert outage.kind is OutageKind.TIMEOUT


async def test_a_schema_that_is_as_it_should_be_needs_no_lock_and_no_alembic(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await LEDGER.upgrade(postgres_dsn)
    monkeypatch.setitem(sys.modules, "headrace_runtime.alembic_run", None)
    async with admin(postgres_dsn) as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", LEDGER.lock)
        assert await LEDGER.upgrade(postgres_dsn) == there


@pytest.mark.parametrize("package", [headrace_intake.migrations, headrace_cost_accountant.migrations])
def test_the_newest_revision_is_the_one_that_alembic_finds(package: ModuleType) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(str(package.__file__)).parent))
    config.set_main_option("path_separator", "os")
    assert package.MIGRATIONS.head == ScriptDirectory.from_config(config).get_current_head()


@both
async def test_a_user_who_may_not_make_schemas_can_use_one_that_is_there(
    postgres_dsn: str, migrations: Migrations
) -> None:
    await migrations.upgrade(postgres_dsn)
    role = f"plain_{uuid.uuid4().hex[:12]}"
    async with admin(postgres_dsn) as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        await connection.execute(f"GRANT USAGE ON SCHEMA {migrations.schema} TO {role}")
        await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {migrations.schema} TO {role}")
        try:
            parts = urlsplit(postgres_dsn)
            dsn = urlunsplit(parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}"))
            assert (await migrations.upgrade(dsn)).name == migrations.head
        finally:
            await connection.execute(f"DROP OWNED BY {role}")
            await connection.execute(f"DROP ROLE {role}")


@both
def test_the_command_says_what_it_did(
    postgres_dsn: str, migrations: Migrations, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", postgres_dsn)
    assert main(migrations, "migrate", ["upgrade"]) == 0
    assert migrations.head in capsys.readouterr().out
    assert main(migrations, "migrate", ["downgrade", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(migrations, "migrate", ["downgrade", "base"]) == 0
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/x")
    assert main(migrations, "migrate", ["current"]) == 1
    assert "hidden" not in capsys.readouterr().err


async def test_a_revision_that_is_none_is_refused(postgres_dsn: str) -> None:
    with pytest.raises(CommandError):
        await LEDGER.upgrade(postgres_dsn, "nonsense")
