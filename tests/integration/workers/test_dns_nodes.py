"""Nodes by SRV records, asked of a name server on loopback that a test can stop, change and start again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from headrace_local_worker.adapters.dns import DnsNodes
from headrace_local_worker.decide.nodes import NodeSpec
from headrace_local_worker.decide.srv_records import parse_srv_names

NAME = "_ollama._tcp.nodes.test"


class NameServer(asyncio.DatagramProtocol):
    """Answers with the records that it is given, or with an error code."""

    def __init__(self) -> None:
        self.records: list[str] = []
        self.ttl = 60
        self.code = dns.rcode.NOERROR
        self.asked = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.asked += 1
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        answer.set_rcode(self.code)
        if self.records:
            answer.answer.append(dns.rrset.from_text(query.question[0].name, self.ttl, "IN", "SRV", *self.records))
        self._transport.sendto(answer.to_wire(), address)

    def resolver(self) -> dns.asyncresolver.Resolver:
        made = dns.asyncresolver.Resolver(configure=False)
        made.nameservers, made.port = ["127.0.0.1"], self.port
        return made


def known(nodes: DnsNodes) -> Mapping[str, NodeSpec] | None:
    return nodes.nodes


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.005)


async def test_nodes_follow_the_records_and_stay_while_dns_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_local_worker.decide.srv_records.SHORTEST_SECONDS", 0.02)
    monkeypatch.setattr("headrace_local_worker.adapters.dns._ANSWER_SECONDS", 0.3)
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    told: list[str | None] = []
    nodes = DnsNodes(parse_srv_names([f"{NAME};slots=3"]), 4, told.append, server.resolver)
    server.ttl, server.code = 0, dns.rcode.SERVFAIL
    following = asyncio.create_task(nodes.follow(lambda: None))
    try:
        await until(lambda: bool(told))
        assert known(nodes) is None, "nothing is known yet, which is not the same as no nodes"
        assert NAME in str(told[-1])

        server.code, server.records = dns.rcode.NOERROR, ["0 0 11434 big.nodes.test.", "1 5 80 small.nodes.test."]
        await until(lambda: known(nodes) is not None)
        assert {name: (spec.url, spec.slots) for name, spec in (known(nodes) or {}).items()} == {
            "big.nodes.test": ("http://big.nodes.test:11434", 3),
            "small.nodes.test:80": ("http://small.nodes.test:80", 3),
        }
        await until(lambda: told[-1] is None)

        for code in (dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.NOERROR):
            server.code, server.records = code, []
            asked = server.asked
            await until(lambda asked=asked: server.asked > asked + 1)  # type: ignore[misc]
            assert told[-1] is not None
            assert len(known(nodes) or {}) == 2, "a name server that fails takes no nodes away"

        server.code, server.records = dns.rcode.NOERROR, ["0 0 0 ."]
        await until(lambda: known(nodes) == {})
        server.records = ["0 0 11434 big.nodes.test."]
        await until(lambda: set(known(nodes) or {}) == {"big.nodes.test"})
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        transport.close()


async def test_an_answer_is_not_asked_for_again_before_its_time() -> None:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    server.records, server.ttl = ["0 0 11434 big.nodes.test."], 0
    nodes = DnsNodes(parse_srv_names([NAME]), 4, lambda problem: None, server.resolver)
    following = asyncio.create_task(nodes.follow(lambda: None))
    try:
        await until(lambda: known(nodes) is not None)
        await asyncio.sleep(0.3)
        assert server.asked == 1, "a time to live of 0 is no leave to flood a name server"
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        transport.close()
