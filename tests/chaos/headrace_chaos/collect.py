"""Gathers the evidence once the platform is idle: every topic from start to end, the ledger, the history, and the
providers' own record of what they were sent.
"""

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import aiohttp
import asyncpg
import yaml

from headrace_chaos.evidence import Claim, Evidence, Ledger, Seen, SkillClaim, Told, Value
from headrace_chaos.wire import Avro, Reader

_CALLS_AT_ONCE = 8
_ANSWERS_LOOKED_AT = 150
_NONCE = re.compile(r"n\d+x\d+x[0-9a-f]{12}")
_OWN_NODES, _ELSEWHERE = "ollama", "elsewhere"
"""Receivers in the simulator's record: our nodes, and whatever a redirect leads to. All others are not ours."""


async def collect(
    *,
    kafka: Mapping[str, str],
    registry_url: str,
    prefix: str,
    database_url: str,
    intake_url: str,
    simulator_url: str,
    api_keys: Mapping[str, str],
    claims: Sequence[Claim],
    skills: Sequence[SkillClaim],
    busy: Mapping[str, int],
) -> Evidence:
    """All evidence at this time. `api_keys` are those of the tenants, by tenant; `busy` is as in Evidence."""
    topics, ends = await asyncio.to_thread(_topics, kafka, registry_url, prefix)
    tasks = {record.value["task_id"]: record.value["tenant"] for record in topics["tasks.submitted"] if record.value}
    return Evidence(
        claims=claims,
        skills=skills,
        topics=topics,
        ends=ends,
        ledger=await _ledger(database_url),
        view=await _view(intake_url, api_keys, tasks, [c.task_id for c in claims if c.told is Told.ACCEPTED]),
        **await _received(simulator_url),
        busy=busy,
        prices=yaml.safe_load(resources.files("headrace_models").joinpath("prices.yaml").read_text()),
    )


def _topics(
    kafka: Mapping[str, str], registry_url: str, prefix: str
) -> tuple[dict[str, list[Seen]], dict[tuple[str, int], int]]:
    reader = Reader(kafka, prefix, Avro(registry_url))
    try:
        ends = reader.ends(reader.topics())
        found: defaultdict[str, list[Seen]] = defaultdict(list)
        for record in reader.read({}, ends):
            found[record.topic].append(record)
    finally:
        reader.close()
    for records in found.values():
        records.sort(key=lambda record: (record.partition, record.offset))
    return found, ends


async def _ledger(database_url: str) -> Ledger:
    connection = await asyncpg.connect(database_url, ssl=False)
    try:
        rows = {
            table: [dict(row) for row in await connection.fetch(f"SELECT * FROM ledger.{table}")]
            for table in ("entries", "balances", "positions")
        }
    finally:
        await connection.close()
    return Ledger(**rows)


async def _view(
    intake_url: str, api_keys: Mapping[str, str], tasks: Mapping[str, str], accepted: Sequence[str]
) -> dict[str, Value | None]:
    shown: dict[str, Value | None] = dict.fromkeys(tasks)
    async with aiohttp.ClientSession(intake_url, timeout=aiohttp.ClientTimeout(total=60)) as session:
        for key in api_keys.values():
            async for task in _pages(session, key):
                shown[task["id"]] = task
        step = max(1, len(accepted) // _ANSWERS_LOOKED_AT)
        gate = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def look(task_id: str) -> None:
            headers = {"Authorization": f"Bearer {api_keys[tasks[task_id]]}"}
            async with gate, session.get(f"/v1/tasks/{task_id}", headers=headers) as answer:
                shown[task_id] = await answer.json() if answer.status == 200 else None

        await asyncio.gather(*(look(task_id) for task_id in accepted[::step] if task_id in tasks))
    return shown


async def _pages(session: aiohttp.ClientSession, key: str) -> Any:
    cursor = ""
    while True:
        query = {"limit": "200", **({"cursor": cursor} if cursor else {})}
        async with session.get("/v1/tasks", params=query, headers={"Authorization": f"Bearer {key}"}) as answer:
            answer.raise_for_status()
            page = await answer.json()
        for task in page["tasks"]:
            # The list does not include answers.
            yield {name: value for name, value in task.items() if name != "answer"}
        cursor = page["next"] or ""
        if not cursor:
            return


async def _received(simulator_url: str) -> dict[str, Any]:
    """What the providers were sent, and which faults their callers have met: fields of the evidence."""
    calls: Counter[str] = Counter()
    cloud: set[str] = set()
    elsewhere = 0
    async with aiohttp.ClientSession(simulator_url, timeout=aiohttp.ClientTimeout(total=120)) as session:
        async with session.get("/control/received", params={"texts": "1"}) as answer:
            answer.raise_for_status()
            received = await answer.json()
        async with session.get("/control/faults") as answer:
            answer.raise_for_status()
            met = (await answer.json())["met"]
    for entry in received["received"]:
        found = {nonce for text in entry["texts"] for nonce in _NONCE.findall(text)}
        elsewhere += entry["provider"] == _ELSEWHERE
        calls.update(found)
        if entry["provider"] != _OWN_NODES:
            cloud |= found
    return {
        "calls": calls,
        "sent_to_cloud": frozenset(cloud),
        "sent_elsewhere": elsewhere,
        "all_calls_kept": received["complete"],
        "faults": {f"{one['provider']} {one['kind']}": one["count"] for one in met},
    }


def as_json_lines(rows: Iterable[Any]) -> str:
    """For the folder that is kept if something was violated."""
    return "".join(json.dumps(row, default=repr) + "\n" for row in rows)
