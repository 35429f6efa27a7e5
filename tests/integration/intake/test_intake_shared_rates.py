"""Several intakes behind one address: the rates of keys and tenants hold over all of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from headrace_contracts.events import RequestsCounted
from headrace_contracts.record_mac import RecordMac
from headrace_contracts.topics import REQUESTS_COUNTED
from headrace_runtime.connections import wall_clock_ms
from headrace_streams.errors import TransientError
from headrace_streams.records import ProducerRecord
from headrace_testing.intake_bed import PEPPER, Bed, FaultyNetwork, Running
from headrace_testing.waiting import eventually

HEARD_SECONDS = 2.2
"""It is told once a second."""
TOPIC = "headrace.requests.counted"


async def made_key(intake: Running, tenant: str = "acme", **body: int) -> str:
    status, made, _ = await intake.call("POST", "/v1/keys", {"tenant": tenant, **body})
    assert status == 201
    return str(made["key"])


async def ask(intake: Running, key: str, times: int) -> int:
    """How many of so many requests are let through."""
    statuses = [(await intake.call("GET", "/v1/preferences", key=key))[0] for _ in range(times)]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


async def left(intake: Running, key: str) -> int:
    """Requests that the key has left after one more."""
    _, _, headers = await intake.call("GET", "/v1/preferences", key=key)
    return int(headers["RateLimit"].split(";r=")[1].split(";")[0])


async def known(intake: Running, key: str) -> None:
    """Wait until the intake has read the key; it takes one request."""

    async def answers() -> bool:
        return (await intake.call("GET", "/v1/preferences", key=key))[0] != 401

    await eventually(answers)


async def test_what_one_lets_through_the_other_takes_off(bed: Bed) -> None:
    first, second = await bed.intake(), await bed.intake(instance_id="intake-b")
    key = await made_key(first, requests_per_minute=60)
    await known(second, key)

    assert await ask(first, key, 40) == 40
    # Each request is taken off once, however long they go on.
    for _ in range(2):
        await asyncio.sleep(HEARD_SECONDS)
        assert 15 <= await left(second, key) <= 27
        assert 15 <= await left(first, key) <= 27


async def test_a_process_that_starts_knows_of_the_last_minute(bed: Bed) -> None:
    first = await bed.intake()
    key = await made_key(first, requests_per_minute=30)
    assert await ask(first, key, 40) in (30, 31)

    async def has_told() -> bool:
        return bool(bed.cluster.records(TOPIC))

    await eventually(has_told)

    second = await bed.intake(instance_id="intake-b")
    await known(second, key)
    await asyncio.sleep(HEARD_SECONDS)

    assert await ask(second, key, 20) < 5


async def test_the_rate_of_a_tenant_holds_over_its_keys_and_over_intakes(bed: Bed, tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text("tenants: {acme: {requests_per_minute: 30}}")
    first = await bed.intake(tenants_file=file)
    second = await bed.intake(tenants_file=file, instance_id="intake-b")
    keys = [await made_key(first) for _ in range(3)]
    other = await made_key(first, "other")
    for key in (*keys, other):
        await known(second, key)

    assert [await ask(first, key, 10) for key in keys] == [10, 10, 10]

    status, problem, headers = await first.call("GET", "/v1/preferences", key=keys[0])
    assert (status, problem["type"]) == (429, "urn:headrace:problem:rate-limit-exceeded")
    assert problem["detail"].startswith("This tenant may send 30 requests a minute")
    assert headers["RateLimit-Policy"] == '"tenant";q=30;w=60'

    await asyncio.sleep(HEARD_SECONDS)
    assert await ask(second, keys[2], 20) < 5
    assert await ask(second, other, 20) == 20


@pytest.mark.parametrize("what", ["unsigned", "another service", "an unknown key", "from yesterday", "unreadable"])
async def test_what_cannot_be_believed_is_as_if_unsaid(bed: Bed, what: str) -> None:
    intake = await bed.intake()
    key = await made_key(intake, requests_per_minute=60)
    counted = RequestsCounted(
        service="costs" if what == "another service" else "intake",
        process="p",
        sequence=1,
        counted_at=wall_clock_ms() - (86_400_000 if what == "from yesterday" else 0),
        requests={"nobody" if what == "an unknown key" else key.split("_")[1]: 1_000_000},
    )
    value = b"nonsense" if what == "unreadable" else bed.codec.encode(REQUESTS_COUNTED, counted)
    name = f"{counted.service}/p".encode()
    headers = () if what == "unsigned" else (RecordMac(PEPPER).header(TOPIC, name, value),)
    before = await left(intake, key)
    bed.cluster.append(ProducerRecord(TOPIC, value, name, partition=0, headers=headers), wall_clock_ms())
    await asyncio.sleep(0.5)

    assert await left(intake, key) in (before - 1, before)
    # One that is believed takes no more than a process can have let through.
    fitting = bed.codec.encode(
        REQUESTS_COUNTED,
        RequestsCounted(
            service="intake", process="q", sequence=1, counted_at=wall_clock_ms(),
            requests={key.split("_")[1]: 1_000_000},
        ),
    )  # fmt: skip
    signed = (RecordMac(PEPPER).header(TOPIC, b"intake/q", fitting),)
    bed.cluster.append(ProducerRecord(TOPIC, fitting, b"intake/q", partition=0, headers=signed), wall_clock_ms())
    await asyncio.sleep(0.5)
    status, _, answered = await intake.call("GET", "/v1/preferences", key=key)
    assert status == 429
    assert int(answered["Retry-After"]) <= 121


async def test_without_kafka_each_limits_by_itself(bed: Bed) -> None:
    network = FaultyNetwork()
    intake = await bed.intake(network=network)
    key = await made_key(intake, requests_per_minute=30)
    network.error = TransientError("no leader")

    assert await ask(intake, key, 40) in (30, 31)

    async def says_so() -> bool:
        return "request rates written" in intake.health.degraded()

    async def says_so_no_more() -> bool:
        await ask(intake, key, 1)
        return not await says_so()

    await eventually(says_so)
    assert intake.health.ready().ok
    network.error = None
    await eventually(says_so_no_more)
