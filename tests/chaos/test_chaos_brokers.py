"""What is dealt to three brokers follows from the seed; the orders to the cluster follow from what it looks like."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from headrace_chaos.brokers import Brokers, Replicas, pick, rotated, without_leader
from headrace_chaos.checks import judge
from headrace_chaos.history import honest, with_topic
from headrace_chaos.plan import BROKER_SESSION_SECONDS, OF_BROKERS, Act, Blow, acts, broker_deck
from headrace_chaos.platform import DOUBLED
from headrace_chaos.recovery import Death, Recovery, recoveries
from headrace_chaos.report import closing_line

SEEDS = (1, 7, 8, 99)
NAMES = {"kafka-1", "kafka-2", "kafka-3"}


def dealt(seed: int, rounds: int = 1, *, partitions: bool = True) -> list[Act]:
    deck = broker_deck(DOUBLED, partitions=partitions)
    return list(islice(acts(seed, deck, again=True), rounds * len(deck)))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_is_dealt_to_brokers_before_any_comes_again(seed: int) -> None:
    assert {act.blow for act in dealt(seed)} >= set(OF_BROKERS)
    assert Blow.PARTITIONS_ADDED not in {act.blow for act in dealt(seed, partitions=False)}
    assert {Blow.KAFKA_KILL, Blow.KILL, Blow.ZOMBIE} <= {act.blow for act in dealt(seed)}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seed_picks_the_brokers(seed: int) -> None:
    assert dealt(seed, 3) == dealt(seed, 3) != dealt(seed + 1, 3)
    for act in dealt(seed, 3):
        match act.blow:
            case Blow.BROKER_KILL | Blow.BROKER_SLOW | Blow.BROKER_FROZEN:
                assert len(act.targets) == 1
                assert set(act.targets) < NAMES
            case Blow.TWO_BROKERS:
                assert len(set(act.targets)) == 2
                assert set(act.targets) < NAMES
            case Blow.LEADERLESS:
                assert len(act.targets) == 1


def test_in_the_long_run_every_broker_and_many_topics_are_hit() -> None:
    hit = Counter(target for act in dealt(5, 60) for target in act.targets)
    assert set(hit) >= NAMES
    topics = {act.targets[0] for act in dealt(5, 60) if act.blow is Blow.LEADERLESS}
    assert {"tasks.journal", "tasks.submitted", "tasks.completed", "tasks.replies"} <= topics


def test_one_sleeps_through_its_session_another_does_not_and_a_leader_is_missed_for_a_minute() -> None:
    holds = {act.blow: act.hold for act in dealt(2)}
    assert holds[Blow.BROKER_SLOW] < BROKER_SESSION_SECONDS < holds[Blow.BROKER_FROZEN]
    assert holds[Blow.LEADERLESS] >= 60


FOUND = {
    ("a", 0): Replicas(1, (1, 2, 3), (1, 2, 3)),
    ("a", 1): Replicas(3, (2, 3, 1), (3, 1)),
    ("b", 0): Replicas(2, (3, 2, 1), (2,)),
    ("b", 1): Replicas(-1, (1,), ()),
}


def test_leaders_move_without_data() -> None:
    plan = rotated(FOUND)
    assert plan == {("a", 0): (2, 3, 1), ("a", 1): (3, 1, 2), ("b", 0): (2, 1, 3)}
    for name, replicas in plan.items():
        assert set(replicas) == set(FOUND[name].all)
        assert replicas[0] != FOUND[name].all[0]


def test_partitions_are_taken_from_whoever_leads_them() -> None:
    plan = without_leader({name: held for name, held in FOUND.items() if held.leader > 0})
    assert plan == {("a", 0): (2, 3), ("a", 1): (2, 1), ("b", 0): (3, 1)}


@pytest.mark.parametrize("topic", ["a", "b"])
def test_a_partition_of_that_topic_is_picked(topic: str) -> None:
    assert {pick(FOUND, topic, random.Random(seed)) for seed in range(20)} == {(topic, 0), (topic, 1)}


@pytest.mark.parametrize(
    ("votes", "active"),
    [
        ([(3, 1), (3, 1), (3, 1)], 1),
        ([(4, 2), (3, 1), (4, 2)], 2),  # one was down when the others voted
        ([(4, 2), None, (7, 3)], 3),
    ],
)
def test_the_newest_vote_names_the_active_controller(
    tmp_path: Path, votes: list[tuple[int, int] | None], active: int
) -> None:
    for node, vote in enumerate(votes, start=1):
        if vote is not None:
            folder = tmp_path / f"kafka-{node}" / "data" / "__cluster_metadata-0"
            folder.mkdir(parents=True)
            (folder / "quorum-state").write_text(json.dumps({"leaderEpoch": vote[0], "leaderId": vote[1]}))
    assert Brokers({"bootstrap.servers": "127.0.0.1:1"}, tmp_path).controller() == active


def test_the_closing_line_has_the_recovery_of_each_kind() -> None:
    def took(blow: str, first: int | None, everywhere: int | None) -> Recovery:
        return Recovery(Death(0, "kafka", blow, apart=True), first, everywhere)

    found = [
        took("broker kill -9", 1_000, 9_000), took("broker kill -9", 2_000, 11_000),
        took("broker kill -9", 9_000, 9_500),
        took("leaders moved", 100, 300), took("two brokers down", None, None),
    ]  # fmt: skip
    line = closing_line(seed=1, seconds=60, dealt={}, judgement=judge(honest()), recoveries=found, disk=True, kept=None)
    assert "broker kill -9 2.0/9.0 (9.5/11.0)" in line
    assert "leaders moved 0.1/0.1 (0.3/0.3)" in line
    assert "two brokers down never (never)" in line


@pytest.mark.parametrize(("who", "seen"), [("kafka-1", True), ("kafka-2", True), ("kafka", True), ("router", False)])
def test_a_broker_may_take_longer_than_a_service_to_come_back(who: str, seen: bool) -> None:
    evidence = honest()
    begun = min(record.at_ms for record in evidence.of("tasks.submitted"))
    death = Death(begun - 1, who, "kill -9", apart=True)
    late = [replace(record, at_ms=record.at_ms + 100_000) for record in evidence.of("tasks.completed")]
    (found,) = recoveries(with_topic(evidence, "tasks.completed", late), [death], [])
    assert (found.first_ms is not None) is seen
