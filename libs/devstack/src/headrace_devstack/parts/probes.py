"""Health checks of parts, each over the protocol that its clients use."""

import asyncio
import struct

import aiohttp

from headrace_devstack.parts.part import NotHealthyYet

ANSWER_SECONDS = 2.0

_LONGEST_ANSWER = 1_000_000  # bytes
_METADATA = 3
_SASL_HANDSHAKE = 17
_API_VERSIONS = 18
_SASL_AUTHENTICATE = 36
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
    answer = await _ask_kafka(host, port, None, (_API_VERSIONS, 0, b""))
    if answer[:2] != b"\0\0":
        raise NotHealthyYet(f"{host}:{port} answers with error code {int.from_bytes(answer[:2], signed=True)}")


async def kafka_serves(host: str, port: int, login: tuple[str, str] | None = None) -> None:
    """Ask a broker which brokers there are, and look whether it is one of them: only then does it get partitions.

    `login`: name and password (SASL/PLAIN), for a broker that requires them.

    Raises:
        NotHealthyYet: no answer, or it is not.
    """
    no_topics = struct.pack(">i", 0)
    answer = await _ask_kafka(host, port, login, (_METADATA, 1, no_topics))
    try:
        serving = _brokers_in(answer)
    except struct.error as error:
        raise NotHealthyYet(f"{host}:{port} answers with {len(answer)} bytes that are no list of brokers") from error
    if port not in serving:
        raise NotHealthyYet(f"{host}:{port} answers, but the cluster does not count it among its brokers")


def _brokers_in(metadata: bytes) -> set[int]:
    """The ports of all brokers in an answer of version 1."""
    (number,) = struct.unpack_from(">i", metadata)
    ports, at = set[int](), 4
    for _ in range(number):
        (host_length,) = struct.unpack_from(">h", metadata, at + 4)
        at += 6 + host_length
        port, rack_length = struct.unpack_from(">ih", metadata, at)
        ports.add(port)
        at += 6 + max(rack_length, 0)
    return ports


async def _ask_kafka(host: str, port: int, login: tuple[str, str] | None, request: tuple[int, int, bytes]) -> bytes:
    """The body of the answer to a request of this API, version and body."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                if login is not None:
                    await _log_in(reader, writer, *login)
                return await _exchange(reader, writer, *request)
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError, _NotKafka) as error:
        raise NotHealthyYet(f"{host}:{port}: {str(error) or 'no answer in time'}") from error


class _NotKafka(Exception):
    """The answer is not one of Kafka's, or a refusal."""


async def _log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str, password: str) -> None:
    mechanism, token = b"PLAIN", f"\0{user}\0{password}".encode()
    asked = struct.pack(f">h{len(mechanism)}s", len(mechanism), mechanism)
    given = struct.pack(f">i{len(token)}s", len(token), token)
    for api, version, body in ((_SASL_HANDSHAKE, 1, asked), (_SASL_AUTHENTICATE, 0, given)):
        answer = await _exchange(reader, writer, api, version, body)
        if answer[:2] != b"\0\0":
            raise _NotKafka(f"refuses the login with error code {int.from_bytes(answer[:2], signed=True)}")


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, api: int, version: int, body: bytes
) -> bytes:
    client = b"headrace"
    request = struct.pack(">hhih", api, version, _CORRELATION, len(client)) + client + body
    writer.write(struct.pack(">i", len(request)) + request)
    size, correlation = struct.unpack(">ii", await reader.readexactly(8))
    if correlation != _CORRELATION or not 4 <= size <= _LONGEST_ANSWER:
        raise _NotKafka("does not answer as Kafka does")
    return await reader.readexactly(size - 4)
