"""The shared parts are the real ones, set as the platform needs them."""

import asyncpg
from aiohttp import ClientSession
from headrace_devstack.parts.probes import kafka_answers
from headrace_testing.up import RunningStack


async def test_kafka_answers(kafka: str) -> None:
    host, port = kafka.split(":")
    await kafka_answers(host, int(port))


async def test_registry_is_strict_by_default(registry_url: str) -> None:
    async with ClientSession() as session, session.get(f"{registry_url}/config") as response:
        assert await response.json() == {"compatibilityLevel": "FULL_TRANSITIVE"}


async def test_a_new_database_is_empty_and_durable(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW server_version_num") >= "180000"
    finally:
        await connection.close()


async def test_databases_are_not_shared(postgres_dsn: str, stack: RunningStack) -> None:
    assert postgres_dsn != stack.database_url
