"""What a tenant may have in flight in a partition: which tasks end at once, and which do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Content,
    Message,
    MessagePart,
    Options,
    Outcome,
    PartKind,
    ServedFrom,
    TaskPhase,
    TaskStatus,
    Tool,
)
from headrace_router.decide.model import Equal
from headrace_router.decide.tenant_quota import LiveLoad, TenantQuota, size_of
from headrace_streams.journal_reading import outline_of_task
from headrace_testing.routing import Desk, NoPeers, task

MEGABYTE = 1_048_576


def desk(load: LiveLoad, quota: TenantQuota | None = None, **fields: Any) -> Desk:
    return Desk(quota=quota or TenantQuota(10, 10 * MEGABYTE), peers=NoPeers(load=load), **fields)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (LiveLoad(10, 20_000), "10 live tasks in this partition, and may have 10"),
        (LiveLoad(11, 20_000), "11 live tasks in this partition, and may have 10"),
        (LiveLoad(3, 10 * MEGABYTE), "live tasks of 10485760 bytes in this partition"),
    ],
    ids=["as many as it may", "more: the setting was lowered", "bytes"],
)
@pytest.mark.parametrize("leader", [None, "other"], ids=["alone", "equal to one in flight"])
@pytest.mark.parametrize("session", [None, "s1"], ids=["no session", "session"])
def test_a_task_beyond_the_quota_ends_at_once(
    load: LiveLoad, says: str, leader: str | None, session: str | None
) -> None:
    found = desk(load)
    found.peers.equal = Equal(leader=leader)
    decision = found.submit(session=session, reply_partition=2)
    result = decision.state.result
    assert decision.state.phase is TaskPhase.FINISHED
    assert result is not None
    assert (result.status, result.attempts, result.cost_nanodollars) == (TaskStatus.FAILED, 0, 0)
    assert result.failure is not None
    assert (result.failure.code, result.failure.retry_after_ms) == ("too_many_live_tasks", 5_000)
    assert says in result.failure.message
    # Whoever waits is told, and every reader of the terminal states.
    assert [command.event_id.rpartition("/")[2] for command in decision.commands] == ["reply", "completed"]


@pytest.mark.parametrize("load", [LiveLoad(), LiveLoad(9, 20_000), LiveLoad(1, 9 * MEGABYTE)])
def test_a_task_within_the_quota_runs(load: LiveLoad) -> None:
    found = desk(load)
    assert found.submit().state.phase is TaskPhase.RUNNING
    # What it has is not compared again: neither by a retry nor by an end.
    found.peers.load = LiveLoad(1_000, 1_000 * MEGABYTE)
    found.end(Outcome.FAILED_RETRYABLE)
    assert found.state is not None
    assert found.state.phase is not TaskPhase.FINISHED


def test_an_answer_from_the_cache_takes_no_room() -> None:
    answered = desk(LiveLoad())
    answered.submit()
    answer = answered.end(Outcome.ANSWERED).state.result
    found = desk(LiveLoad(10, 20_000))
    found.peers.equal = Equal(answer=answer)
    result = found.submit().state.result
    assert result is not None
    assert result.served_from is ServedFrom.CACHE


def test_one_task_of_any_size_may_be_live() -> None:
    large = task(text="x" * (2 * MEGABYTE))
    assert desk(LiveLoad(), TenantQuota(10, MEGABYTE)).submit(large).state.phase is TaskPhase.RUNNING
    assert desk(LiveLoad(1, 1), TenantQuota(10, MEGABYTE)).submit(large).state.phase is TaskPhase.FINISHED


def test_every_way_to_fill_memory_with_a_task_counts() -> None:
    small = task(text="x")
    many = replace(small, messages=tuple(Message(role="user", content=plain("")) for _ in range(2_048)))
    labelled = replace(small, labels={f"name{number}": "ü" * 1_000 for number in range(32)})
    large = task(text="x" * 100_000)
    assert size_of(small) < 5_000
    assert size_of(many) > 400_000
    assert size_of(labelled) > 64_000
    assert size_of(large) > 100_000


IMAGE = MessagePart(kind=PartKind.IMAGE, content=Content(data=b"x" * 100_000), media_type="image/png")
CARGO = [
    {"messages": (Message(role="user", content=plain("x" * 100_000)),)},
    {"messages": (Message(role="user", content=plain(""), parts=(IMAGE,)),)},
    {"messages": (Message(role="user", content=plain(""), parts=(replace(IMAGE, content=None, url=IMAGE.content),)),)},
    {"options": Options(tools=(Tool(name="f", parameters=plain('"' + "x" * 100_000 + '"')),))},
    {"options": Options(extra={"a": plain("x" * 100_000)}, logit_bias={"1": 2.0}, choices=3)},
    {"messages": (Message(role="user", content=plain("x"), name=plain("x" * 100_000)),)},
    {"options": Options(inputs=(plain("x" * 50_000), plain("y" * 50_000)))},
]  # fmt: skip


@pytest.mark.parametrize("cargo", CARGO)
def test_all_that_a_task_holds_is_counted_and_alike_by_its_next_owner(cargo: dict[str, Any]) -> None:
    held = replace(task(), **cargo)
    assert 100_000 < size_of(held) < 110_000
    assert outline_of_task(held.to_avro()) == (held.tenant, size_of(held))
