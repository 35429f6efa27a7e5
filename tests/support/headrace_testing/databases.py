"""Databases of their own for tests that share one Postgres."""

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import asyncpg


@contextlib.contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The address of a new, empty database, dropped afterwards together with connections left open."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    _run(_execute(server_url, f'CREATE DATABASE "{name}"'))
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        _run(_execute(server_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, ssl=False)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _run(work: Coroutine[object, object, None]) -> None:
    # In a thread of its own: the test's event loop must not notice.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
