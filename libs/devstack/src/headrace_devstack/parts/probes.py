"""Health checks of parts, each over the protocol that its clients use."""

import asyncio
import struct

import aiohttp

from headrace_devstack.parts.part import NotHealthyYet

ANSWER_SECONDS = 2.0

_API_VERSIONS = 18
_CORRELATION = 7


async def http_ok(url: str) -> None:
    """Request a page.

    Raises:
        NotHealthyYet: no answer, or another status than 200.
    """
    try:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            if response.status != 200:
                raise NotHealthyYet(f"{url} answers {response.status}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotHealthyYet(f"{url}: {str(error) or 'no answer in time'}") from error


async def kafka_answers(host: str, port: int) -> None:
    """Ask a broker for its API versions; it answers once it is registered and serves clients.

    Raises:
        NotHealthyYet: no answer, or an error in it.
    """
    client = b"headrace"
    request = struct.pack(">hhih", _API_VERSIONS, 0, _CORRELATION, len(client)) + client
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(struct.pack(">i", len(request)) + request)
                correlation, error_code = struct.unpack(">4xih", await reader.readexactly(10))
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError) as error:
        raise NotHealthyYet(f"{host}:{port}: {str(error) or 'no answer in time'}") from error
    if correlation != _CORRELATION or error_code != 0:
        raise NotHealthyYet(f"{host}:{port} answers with error code {error_code}")
