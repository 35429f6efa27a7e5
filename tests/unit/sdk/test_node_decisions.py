"""What an agent announces, whose word goes first, who gets a slot, and what an operator is shown."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from headrace.cli.nodes import hardware_text
from headrace.errors import Misconfigured
from headrace.node.announcing import HeardAnnouncement, Identity, advertised_url, announcement, rival
from headrace.node.benchmark import CallTimes, Level, level_of, suggested_slots
from headrace.node.call_queue import CallQueue, QueueFull, QueueState
from headrace.node.hardware import EnergyReading, Hardware, HardwareReader, total_watts, watts_between
from headrace.node.ollama_look import OllamaSeen, models_of
from headrace.node.proxy import tokens_per_second
from headrace.nodes import node_views
from headrace_contracts.events import AnnouncedModel, Gpu, ModelStatus, NodeDrained, NodeStatus, Place

ME = Identity(
    node="mac", url="http://10.0.0.7:11435", agent="b", host="mac.lan", started_at=200, slots=2, labels={"gpu": "m3"}
)
SEEN = OllamaSeen("", "0.12.0", (AnnouncedModel(name="gemma2:2b", loaded=True, vram_bytes=2**31),))


def test_an_announcement_says_what_was_seen() -> None:
    queue = QueueState(slots=2, running=1, waiting=3, room=16, tokens_per_second=21.5, accepting=True)
    said = announcement(ME, SEEN, Hardware(8, 16, 4), queue, stopping=None, now_ms=1_000)
    assert (said.node, said.url, said.slots, said.labels) == ("mac", "http://10.0.0.7:11435", 2, {"gpu": "m3"})
    assert (said.healthy, said.drained, said.ollama_version) == (True, False, "0.12.0")
    assert (said.running, said.waiting, said.tokens_per_second) == (1, 3, 21.5)
    assert said.gpus == (Gpu(name="(seen by Ollama only)", used_bytes=2**31),), "no driver told of any"
    assert (said.valid_for_ms, said.announced_at) == (30_000, 1_000)


def test_a_node_without_its_ollama_and_one_that_stops_say_so() -> None:
    away = announcement(ME, OllamaSeen("Ollama is away"), Hardware(), None, stopping=None, now_ms=1)
    assert (away.healthy, away.reason, away.running) == (False, "Ollama is away", None)
    leaving = announcement(ME, SEEN, Hardware(), None, stopping="its agent stops", now_ms=1)
    assert (leaving.drained, leaving.reason) == (True, "its agent stops")


def test_the_first_of_two_agents_with_one_name_goes_on_and_the_other_is_told() -> None:
    other = replace(ME, agent="a", url="http://10.0.0.8:11435", host="desk", started_at=100)
    mine = announcement(ME, SEEN, Hardware(), None, stopping=None, now_ms=1)
    theirs = announcement(other, SEEN, Hardware(), None, stopping=None, now_ms=1)
    problem = rival(ME, HeardAnnouncement(theirs, 1.0))
    assert problem is not None
    assert "desk" in problem
    assert "--name" in problem
    assert rival(other, HeardAnnouncement(mine, 1.0)) is None
    assert rival(ME, HeardAnnouncement(theirs, 31.0)) is None, "it has fallen silent"
    assert rival(ME, HeardAnnouncement(replace(theirs, url=ME.url), 1.0)) is None, "this agent, before its restart"
    assert rival(ME, HeardAnnouncement(mine, 1.0)) is None
    assert rival(ME, None) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"url": "https://gpu.lan:443/"}, "https://gpu.lan:443"),
        ({"ollama": "http://10.0.0.7:11434"}, "http://10.0.0.7:11434"),
        ({"proxy_host": "0.0.0.0", "proxy_port": 11435}, "http://mac.lan:11435"),
        ({"proxy_host": "10.0.0.7", "proxy_port": 11435, "tls": True}, "https://10.0.0.7:11435"),
    ],
)
def test_what_is_announced_follows_from_what_listens(given: dict[str, object], expected: str) -> None:
    usual: dict[str, object] = {
        "url": None, "ollama": "http://127.0.0.1:11434", "proxy_host": None, "proxy_port": None, "tls": False,
        "host": "mac.lan",
    }  # fmt: skip
    assert advertised_url(**{**usual, **given}) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [{}, {"proxy_host": "127.0.0.1", "proxy_port": 11435}, {"url": "mac.lan"}, {"url": "http://a:b@mac.lan"}]
)
def test_an_address_that_nobody_reaches_is_not_announced(given: dict[str, object]) -> None:
    usual: dict[str, object] = {
        "url": None, "ollama": "http://localhost:11434", "proxy_host": None, "proxy_port": None, "tls": False,
        "host": "mac.lan",
    }  # fmt: skip
    with pytest.raises(Misconfigured):
        advertised_url(**{**usual, **given})  # type: ignore[arg-type]


def test_models_are_read_as_far_as_they_are_models() -> None:
    tags = {"models": [{"model": "a", "size": 5}, {"name": "b", "size": True}, "c", {"size": 7}, {"model": "d" * 999}]}
    running = {
        "models": [
            {"model": "a", "size_vram": 3, "expires_at": "2026-01-01T00:00:00+00:00"},
            {"model": "b", "size_vram": "much", "expires_at": "2318-01-01T00:00:00Z"},
        ]
    }
    assert models_of(tags, running) == (
        AnnouncedModel(name="a", size_bytes=5, loaded=True, vram_bytes=3, expires_at=1_767_225_600_000),
        AnnouncedModel(name="b", loaded=True),
    )
    assert models_of({"models": "none"}, {}) == ()


def test_power_is_known_only_between_two_readings_that_go_on() -> None:
    before, now = EnergyReading(10.0, {"p0": 1_000_000}), EnergyReading(12.0, {"p0": 61_000_000})
    assert watts_between(before, now) == 30.0
    assert watts_between(None, now) is None
    assert watts_between(now, before) is None
    assert watts_between(replace(before, microjoules={"p0": 99_000_000}), now) is None, "the counter began again"
    assert watts_between(replace(before, microjoules={}), replace(now, microjoules={})) is None
    assert total_watts(30.0, [Gpu(name="g", watts=70.5), Gpu(name="h")]) == 100.5
    assert total_watts(None, [Gpu(name="g")]) is None


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    (tmp_path / "intel-rapl:0:0").mkdir()
    package.mkdir()
    (package / "energy_uj").write_text("1000000")
    reader = HardwareReader(tmp_path)
    first = reader.read()
    (package / "energy_uj").write_text("900000000")
    second = reader.read()
    reader.close()
    assert first.cpus
    assert first.memory_bytes
    assert first.memory_free_bytes
    assert (first.watts is None) == all(gpu.watts is None for gpu in first.gpus)
    assert second.watts is not None


@pytest.mark.parametrize(
    ("end", "speed"),
    [
        (b'{"x":1}\n{"done":true,"eval_count":50,"eval_duration":2000000000}\n', 25.0),
        (b'{"done":false,"eval_count":50,"eval_duration":2}', None),
        (b'{"done":true,"eval_count":0,"eval_duration":2}', None),
        (b'{"done":true}', None),
        (b"cut in the mid", None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_the_speed_is_what_the_last_line_says(end: bytes, speed: float | None) -> None:
    assert tokens_per_second(end) == speed


async def order_of(queue: CallQueue, *calls: tuple[str, bool]) -> list[str]:
    """Names in the order in which these calls get a slot, all waiting behind one that runs."""
    done: list[str] = []

    async def call(name: str, batch: bool) -> None:
        try:
            async with queue.slot(batch=batch):
                done.append(name)
                await asyncio.sleep(0)
        except QueueFull:
            done.append(f"{name} refused")

    async with queue.slot(batch=False):
        tasks = [asyncio.create_task(call(*one)) for one in calls]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return done


async def test_interactive_calls_go_before_batch_calls_without_starving_them() -> None:
    queue = CallQueue(1, 100)
    calls = [("b1", True), ("b2", True), *[(f"i{number}", False) for number in range(12)]]
    order = await order_of(queue, *calls)
    assert order[:8] == [f"i{number}" for number in range(8)]
    assert order.index("b1") == 8
    assert order.index("b2") > order.index("i11") - 1
    assert (queue.state.running, queue.state.waiting) == (0, 0)


async def test_a_full_queue_refuses_and_an_interactive_call_takes_the_place_of_a_batch_call() -> None:
    queue = CallQueue(1, 2)
    calls = [("b1", True), ("b2", True), ("b3", True), ("i1", False), ("i2", False), ("i3", False)]
    order = await order_of(queue, *calls)
    assert [name for name in order if "refused" not in name] == ["i1", "i2"]
    assert {name for name in order if "refused" in name} == {"b1 refused", "b2 refused", "b3 refused", "i3 refused"}


async def test_a_closed_queue_refuses_those_who_wait_and_lets_those_end_who_run() -> None:
    queue = CallQueue(1, 2)

    async def enter() -> None:
        async with queue.slot(batch=False):
            pass

    async with queue.slot(batch=False):
        waiting = asyncio.create_task(enter())
        await asyncio.sleep(0)
        queue.close("it stops")
        with pytest.raises(QueueFull, match="it stops") as full:
            await waiting
        assert 1 <= full.value.retry_after_seconds <= 120
    with pytest.raises(QueueFull, match="it stops"):
        await enter()
    assert not queue.state.accepting


async def test_a_caller_that_goes_leaves_its_place() -> None:
    queue = CallQueue(1, 2)
    async with queue.slot(batch=False):
        waiting = asyncio.create_task(order_of(queue))
        await asyncio.sleep(0)
        assert queue.state.waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert queue.state.waiting == 0
    async with asyncio.timeout(1):
        await queue.idle()


def call(tokens: int, first: float = 0.1, speed: float | None = 20.0) -> CallTimes:
    return CallTimes(first, 2.0, tokens, 300.0, speed)


def test_a_level_is_the_middle_of_its_calls_and_the_sum_of_what_they_write() -> None:
    level = level_of(2, [call(64, 0.1, 20.0), call(64, 0.3, None)], 4.0)
    assert level == Level(2, 0.2, 300.0, 20.0, 32.0)


@pytest.mark.parametrize(("totals", "slots"), [((20, 38, 70), 4), ((20, 38, 40), 2), ((20, 21, 70), 1)])
def test_slots_are_as_many_as_are_worth_it(totals: tuple[float, ...], slots: int) -> None:
    levels = [Level(parallel, 0.1, None, None, total) for parallel, total in zip((1, 2, 4), totals, strict=True)]
    assert suggested_slots(levels) == slots


def report(**changes: object) -> NodeStatus:
    made = NodeStatus(
        node="mac", place=Place.LOCAL, provider="ollama", worker="w1", healthy=True, slots=2, busy=1,
        models=(ModelStatus(name="gemma2:2b", loaded=True),), tokens_per_second=20.0, reported_at=1_000,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_an_operator_sees_each_node_once_with_what_everybody_says_of_it() -> None:
    said = announcement(replace(ME, site="berlin"), SEEN, Hardware(8), None, stopping=None, now_ms=1_000)
    lone = replace(said, node="lone")
    drained = NodeDrained(node="mac", reason="memory", drained_by="ann", drained_at=1)
    reports = [
        report(site="berlin"),
        report(worker="w2", healthy=False, reason="drained: memory", busy=2),
        report(node="old", valid_for_ms=1),
    ]
    lone_view, mac, off = node_views(reports, {"mac": said, "lone": lone}, {"mac": drained, "off": drained}, 2_000)
    assert (mac.node, mac.site, mac.workers, mac.slots, mac.busy) == ("mac", "berlin", ("w1", "w2"), 4, 3)
    assert (mac.state, mac.loaded, mac.reason) == ("drained, 3 running", ("gemma2:2b",), "drained: memory")
    assert (lone_view.state, lone_view.models) == ("no worker uses it", ("gemma2:2b",))
    assert (off.node, off.state) == ("off", "drained")


def test_hardware_is_shown_in_one_line_with_the_labels() -> None:
    machine = Hardware(8, 16 * 2**30, 4, (Gpu(name="RTX 4060", memory_bytes=8 * 2**30),), 96.4)
    said = announcement(ME, SEEN, machine, None, stopping=None, now_ms=1_000)
    (view,) = node_views([report(hardware={"gpu": "m3", "version": "0.12"})], {"mac": said}, {}, 2_000)
    assert hardware_text(view) == "8 CPUs, 16 GiB, RTX 4060 8 GiB, 96 W, gpu=m3"
    (other,) = node_views([report(hardware={"gpu": "m3", "version": "0.12"})], {}, {}, 2_000)
    assert hardware_text(other) == "gpu=m3"
