"""With one key: holding what others need. Streams that are not read, skills, connections, large requests."""

from __future__ import annotations

import asyncio
import json
import statistics
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
from headrace_testing.up import RunningStack

from headrace_attack.report import Outcome
from headrace_attack.victims import Caller, Tenant
from headrace_attack.wire import Answer, Wire, request

_STREAMS: Final = 400
_UNREAD_SECONDS: Final = 40.0
_SKILL_BYTES: Final = 200_000
_REVOKED_WITHIN: Final = 1.0
_CALLS: Final = 30


async def unread_feeds(stack: RunningStack, caller: Caller, attacker: Tenant) -> Outcome:
    """Feeds that are opened and never read, while skills are pushed to them: what the kernel holds stays bounded."""
    outcome = Outcome("one key: feeds that are not read")
    host, _, port = stack.skills_url.removeprefix("http://").partition(":")
    opened = []
    for _ in range(_STREAMS):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(request("GET", "/v1/skills/feed?interest=testing", key=attacker.key))
        # Not even the head is read: the buffer has a limit of one byte.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        opened.append((reader, writer))
    await asyncio.sleep(1)
    for number in range(12):
        body = {"name": f"unread-{number}", "body": uuid.uuid4().hex * (_SKILL_BYTES // 32), "interests": ["testing"]}
        status, _ = await caller.call("POST", f"{stack.skills_url}/v1/skills", attacker.key, body)
        outcome.count(status)
    held = _kernel_bytes(int(port))
    outcome.attempts += _STREAMS
    outcome.note = f"{_STREAMS} streams hold {held / 1e6:.0f} MB in the kernel"
    if held > _STREAMS * 400_000:
        outcome.through.append(f"unread feeds hold {held / 1e6:.0f} MB of kernel memory")
    async with asyncio.timeout(_UNREAD_SECONDS + 20):
        while (left := _established(int(port))) > _STREAMS // 10:  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(1)
    outcome.note += f", {left} are open {_UNREAD_SECONDS:.0f} s later"
    for _, writer in opened:
        writer.close()
    return outcome


async def filling(stack: RunningStack, attacker: Tenant, extent: int) -> Outcome:
    """Skills without end: what a tenant may have in the memory of every broadcaster is bounded."""
    outcome = Outcome("one key: skills without end")
    body = "x" * 250_000
    async with Wire(stack.skills_url) as wire:
        for number in range(extent):
            document = {"name": f"filling-{number}", "body": f"{number}{body}", "interests": ["filling"]}
            raw = json.dumps(document).encode()
            answer = await wire.send(request("POST", "/v1/skills", key=attacker.key, body=raw), seconds=20)
            outcome.count("waits" if answer.timed_out else answer.status)
    taken = outcome.answers["201"] + outcome.answers["202"]
    outcome.note = f"{taken * len(body) / 1e6:.0f} MB were taken"
    if taken == extent:
        outcome.through.append(f"{taken} skills of {len(body)} bytes were taken")
    return outcome


def _kernel_bytes(port: int) -> int:
    """Bytes in the send queues of a port's connections, from /proc/net/tcp."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port:
            total += int(fields[4].split(":")[0], 16)
    return total


def _established(port: int) -> int:
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.net_connections("tcp") if each.laddr
    )  # fmt: skip


async def revocation(stack: RunningStack, caller: Caller, make: Callable[[str], Awaitable[Tenant]]) -> Outcome:
    """Streams and requests that are open when their key is revoked: all end within a second."""
    outcome = Outcome("a revoked key: what is open")
    tenant = await make("revoked")
    # What is asked of a model now is not answered for a long time.
    async with aiohttp.ClientSession() as session:
        fault = {"provider": "ollama", "kind": "silence", "count": 20}
        async with session.post(f"{stack.simulator_url}/control/faults", json=fault) as planned:
            assert planned.status == 200, await planned.text()
    status, task = await caller.call(
        "POST", f"{stack.intake_url}/v1/tasks", tenant.key,
        {"prompt": "wait", "role": "conversation_scribe", "privacy": "sensitive", "deadline": 300},
    )  # fmt: skip
    assert status == 202, task
    waiting = {
        "feed": (stack.skills_url, request("GET", "/v1/skills/feed?interest=testing", key=tenant.key)),
        "task events": (stack.intake_url, request("GET", f"/v1/tasks/{task['id']}/events", key=tenant.key)),
        "task wait": (
            stack.intake_url,
            request(
                "POST", "/v1/tasks", key=tenant.key, headers=(("Prefer", "wait=100"),),
                body=json.dumps({"prompt": "w", "role": "conversation_scribe", "privacy": "sensitive"}).encode(),
            ),
        ),
        "chat": (stack.intake_url, _chat(tenant.key, "wait", privacy="sensitive")),
        "chat stream": (
            stack.intake_url, _chat(tenant.key, "wait", privacy="sensitive", stream=True),
        ),
    }  # fmt: skip
    loop = asyncio.get_running_loop()
    wires = {name: Wire(url) for name, (url, _) in waiting.items()}
    open_now = {name: asyncio.create_task(wires[name].send(sent, seconds=30)) for name, (_, sent) in waiting.items()}
    await asyncio.sleep(2)
    status, _ = await caller.call("DELETE", f"{stack.intake_url}/v1/keys/{tenant.key.split('_')[1]}", stack.api_key)
    assert status == 204
    revoked = loop.time()
    done, _ = await asyncio.wait(open_now.values(), timeout=_REVOKED_WITHIN + 2)
    took = loop.time() - revoked
    for name, answer in open_now.items():
        if answer in done:
            outcome.count(answer.result().status or "broken off")
        else:
            outcome.count("still open")
            outcome.through.append(f"{name} was still open {took:.1f} s after its key was revoked")
            answer.cancel()
    outcome.note = f"all ended after {took:.2f} s"
    for wire in wires.values():
        wire.close()
    async with aiohttp.ClientSession() as session, session.delete(f"{stack.simulator_url}/control/faults"):
        pass
    return outcome


def _chat(key: str, text: str, **options: Any) -> bytes:
    document = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **options}
    return request("POST", "/v1/chat/completions", key=key, body=json.dumps(document).encode())


def _heavy_requests(key: str) -> Sequence[tuple[str, bytes]]:
    """Requests that cost much more than others, each of another kind."""
    most = 1_000_000
    short = {"role": "user", "content": "x"}
    kinds: dict[str, Any] = {
        "30,001 messages": {"messages": [short] * 20_000},
        "2,000 messages": {"messages": [{"role": "user", "content": "word " * 90}] * 2_000},
        "one long message": {"messages": [{"role": "user", "content": "word " * (most // 5 - 100)}]},
        "many parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 1_000}] * 25},
        "numbers": {"messages": [short], "seed": [1] * 400_000},
        "objects": {"messages": [short], "metadata": [{}] * 300_000},
        "keys": {"messages": [short], "metadata": {f"{number:x}": "" for number in range(60_000)}},
        "deep": {"messages": [short], "metadata": None},
        "escapes": {"messages": [{"role": "user", "content": "\u00e9\u4e2d" * 80_000}]},
        "tools": {"messages": [short], "tools": [{"type": "function", "function": {"name": "f"}}] * 10_000},
        "stops": {"messages": [short], "stop": ["x"] * 100_000},
    }
    made = []
    for name, options in kinds.items():
        body = json.dumps({"model": "auto", "max_tokens": 1, "deadline": 5, **options}).encode()
        if name == "deep":
            body = b'{"a":' * 150_000 + b"1" + b"}" * 150_000
        made.append((name, request("POST", "/v1/chat/completions", key=key, body=body[:1_040_000])))
    return made


async def starvation(stack: RunningStack, attacker: Tenant, victim: Tenant) -> list[Outcome]:
    """Heavy requests of one tenant, one a second and eight at once: another tenant's chat stays as fast as before."""
    quiet = await _chat_seconds(stack, victim)
    outcomes = []
    for name, sent in _heavy_requests(attacker.key):
        outcome = Outcome(f"heavy requests: {name}")
        stop = asyncio.Event()
        sending = [asyncio.create_task(_keep_sending(stack, sent, outcome, stop)) for _ in range(4)]
        beside = await _chat_seconds(stack, victim)
        stop.set()
        await asyncio.gather(*sending)
        outcome.note = (
            f"chat p50 {quiet[0] * 1000:.0f} ms before, {beside[0] * 1000:.0f} ms beside, max {beside[1]:.2f} s"
        )
        if beside[0] > quiet[0] + 1.0:
            outcome.through.append(f"the other tenant's chat took {beside[0]:.2f} s instead of {quiet[0]:.2f} s")
        outcomes.append(outcome)
    return outcomes


async def _keep_sending(stack: RunningStack, sent: bytes, outcome: Outcome, stop: asyncio.Event) -> None:
    async with Wire(stack.intake_url) as wire:
        while not stop.is_set():
            answer = await wire.send(sent, seconds=15)
            outcome.count("waits" if answer.timed_out else answer.status)
            try:
                async with asyncio.timeout(1.0):
                    await stop.wait()
            except TimeoutError:
                continue


async def _chat_seconds(stack: RunningStack, tenant: Tenant) -> tuple[float, float]:
    """Median and longest time of a short chat."""
    took: list[Answer] = []
    async with Wire(stack.intake_url) as wire:
        for _ in range(_CALLS):
            took.append(await wire.send(_chat(tenant.key, f"Say one word: {uuid.uuid4().hex}"), seconds=60))
            await asyncio.sleep(0.05)
    assert all(answer.status == 200 for answer in took), [answer.status for answer in took]
    return statistics.median(answer.seconds for answer in took), max(answer.seconds for answer in took)
