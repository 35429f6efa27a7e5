"""One run: platform, load, killer, settling, evidence, judgement, and the summary line."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from headrace_contracts.users import AGENT
from headrace_devstack.logins import ADMIN

from headrace_chaos.checks import Judgement, judge
from headrace_chaos.collect import as_json_lines, collect
from headrace_chaos.evidence import Evidence, Violation
from headrace_chaos.killer import Killer
from headrace_chaos.load import Load, Outsider
from headrace_chaos.plan import Act
from headrace_chaos.platform import Platform, folder_of_its_own, running
from headrace_chaos.recovery import Recovery, recoveries
from headrace_chaos.report import closing_line, details
from headrace_chaos.watching import LedgerWatch, until_idle, until_quiet
from headrace_chaos.wire import Avro

QUIET_SECONDS = 150.0
IDLE_SECONDS = 45.0
TENANTS = ("north", "south", "west")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run. `line` is the summary; `kept` is the folder with data and logs, if they are kept."""

    line: str
    judgement: Judgement
    recoveries: Sequence[Recovery]
    killer: Killer
    kept: Path | None

    @property
    def ok(self) -> bool:
        return not self.judgement.violations


async def chaos(
    *,
    seed: int,
    deal: Callable[[bool], Iterable[Act]],
    seconds: float | None,
    rate: float,
    say: Callable[[str], None],
    brokers: int = 1,
    secure: bool = False,
    keep: bool = False,
) -> Result:
    """Run it, with one broker or three. `deal` returns the faults, given whether the disk can be filled.

    With `secure`, everyone logs in. The faults end after `seconds`. With `keep` the folder with data and logs is kept
    even if nothing is violated.
    """
    began = time.monotonic()
    with folder_of_its_own() as folder:
        say(f"starting the platform in {folder}")
        async with running(folder, brokers, secure=secure) as platform:
            disk = platform.disk.mounted
            evidence, killer, watch, still_open = await _under_load(platform, deal(disk), seed, seconds, rate, say)
            judgement = judge(evidence)
            if still_open:
                more = tuple(Violation("not settled in time", problem) for problem in still_open[:20])
                judgement = _with(judgement, more)
            found = recoveries(evidence, killer.deaths, watch.booked)
            for line in details(judgement, found, killer.skipped):
                say(line)
            kept = folder if keep or judgement.violations else None
            if kept:
                _keep(folder, evidence, judgement)
        line = closing_line(
            seed=seed,
            seconds=time.monotonic() - began,
            dealt=killer.dealt,
            judgement=judgement,
            recoveries=found,
            disk=disk,
            kept=kept,
        )
        return Result(line, judgement, found, killer, kept)


async def _under_load(
    platform: Platform, acts: Iterable[Act], seed: int, seconds: float | None, rate: float, say: Callable[[str], None]
) -> tuple[Evidence, Killer, LedgerWatch, list[str]]:
    stack = platform.stack
    assert stack.simulator_url is not None
    say(f"event loops: {', '.join(sorted(set().union(*stack.event_loops().values())))}")
    avro = Avro(stack.registry_url)
    keys = await _keys(stack.intake_url, stack.api_key)
    api_keys = {tenant: made["key"] for tenant, made in keys.items()}
    signing_keys = {tenant: made["signing_key"] for tenant, made in keys.items()}
    outsider = Outsider(stack.kafka_properties(AGENT), stack.topic_prefix, avro, signing_keys)
    load = Load(
        seed=seed, rate=rate, intake_url=stack.intake_url, skills_url=stack.skills_url,
        simulator_url=stack.simulator_url, api_keys=api_keys, outsider=outsider,
    )  # fmt: skip
    killer, watch = Killer(platform, say, seed), LedgerWatch(stack.database_url)
    watching = asyncio.create_task(watch.run())
    try:
        say(f"load of {rate:g} tasks/s")
        await _blows(killer, load, acts, seconds)
        still_open = await until_quiet(
            kafka=stack.kafka_properties(ADMIN), registry_url=stack.registry_url, prefix=stack.topic_prefix,
            database_url=stack.database_url, seconds=QUIET_SECONDS, say=say,
        )  # fmt: skip
        busy = await until_idle(
            kafka=stack.kafka_properties(ADMIN), registry_url=stack.registry_url, prefix=stack.topic_prefix,
            seconds=IDLE_SECONDS,
        )  # fmt: skip
        began = time.monotonic()
        evidence = await collect(
            kafka=stack.kafka_properties(ADMIN), registry_url=stack.registry_url, prefix=stack.topic_prefix,
            database_url=stack.database_url, intake_url=stack.intake_url, simulator_url=stack.simulator_url,
            api_keys=api_keys, claims=load.claims, skills=load.skills, busy=busy,
        )  # fmt: skip
        records = sum(map(len, evidence.topics.values()))
        say(f"{records} records read from start to end in {time.monotonic() - began:.1f} s")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await load.close()
        await outsider.close()
    return evidence, killer, watch, still_open


async def _blows(killer: Killer, load: Load, acts: Iterable[Act], seconds: float | None) -> None:
    end = asyncio.Event()
    loading = asyncio.create_task(load.run(end))
    try:
        await killer.run(acts, None if seconds is None else time.monotonic() + seconds)
        end.set()
        await loading
    finally:
        killer.wake_all()
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)


async def _keys(intake_url: str, admin_key: str) -> dict[str, dict[str, str]]:
    keys: dict[str, dict[str, str]] = {}
    async with aiohttp.ClientSession(intake_url, headers={"Authorization": f"Bearer {admin_key}"}) as session:
        for tenant in TENANTS:
            async with session.post("/v1/keys", json={"tenant": tenant, "name": "chaos"}) as answer:
                answer.raise_for_status()
                keys[tenant] = await answer.json()
    return keys


def _keep(folder: Path, evidence: Evidence, judgement: Judgement) -> None:
    (folder / "keep").touch()
    (folder / "violations.txt").write_text("".join(f"{violation}\n" for violation in judgement.violations))
    (folder / "claims.jsonl").write_text(as_json_lines(evidence.claims))
    topics = folder / "topics"
    topics.mkdir(exist_ok=True)
    for topic, records in evidence.topics.items():
        (topics / f"{topic}.jsonl").write_text(as_json_lines(records))


def _with(judgement: Judgement, more: tuple[Violation, ...]) -> Judgement:
    return replace(judgement, violations=(*more, *judgement.violations))
