"""A separate database for each test that shares one Postgres."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from headrace_runtime.database import Database, Outage
from headrace_runtime.migrations import Migrations


@contextlib.contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The address of a new, empty database; it is dropped afterwards, together with connections left open."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    _run(_execute(server_url, f'CREATE DATABASE "{name}"'))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        _run(_execute(server_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


def database_at(
    dsn: str,
    migrations: Migrations,
    *,
    pool_size: int = 4,
    timeout_seconds: float = 10.0,
    on_change: Callable[[Outage | None], None] = lambda outage: None,
) -> Database:
    """A `Database` as a service makes it, not prepared yet."""
    return Database(
        dsn,
        application="headrace-test",
        pool_size=pool_size,
        timeout_seconds=timeout_seconds,
        migrate=lambda: migrations.upgrade(dsn),
        on_change=on_change,
    )


@contextlib.asynccontextmanager
async def prepared(dsn: str, migrations: Migrations) -> AsyncIterator[Database]:
    """A database with its schema applied, closed afterwards."""
    database = database_at(dsn, migrations)
    await asyncio.wait_for(database.prepare(), 20)
    try:
        yield database
    finally:
        await database.close()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, ssl=False)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _run(work: Coroutine[object, object, None]) -> None:
    # In a thread of its own, so that it does not block the test's event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
