"""The plan follows from its seed; recovery times follow from the records on the topics."""

from dataclasses import replace
from itertools import islice

from headrace_chaos.checks import judge
from headrace_chaos.evidence import Told
from headrace_chaos.history import AT, honest, with_topic
from headrace_chaos.hostility import DECK, HOSTILE, OF_OLLAMA, ORDINARY, TALKERS, faults, planted
from headrace_chaos.plan import OF_BROKERS, Blow, acts, full_deck, short_deck
from headrace_chaos.platform import DOUBLED
from headrace_chaos.recovery import Death, Unit, owned_by, p50_and_max, recoveries, recovery_of
from headrace_chaos.report import closing_line, details
from headrace_devstack.services import NAMES
from headrace_models.simulator.faults import OF_VECTORS, Fault, FaultKind, FaultPlan


def test_the_same_seed_deals_the_same_blows_and_another_seed_others() -> None:
    deck = full_deck(DOUBLED, disk=True)
    first, again, other = (list(islice(acts(seed, deck, again=True), 100)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_every_kind_of_blow_is_dealt() -> None:
    long = {act.blow for act in acts(1, full_deck(DOUBLED, disk=True), again=False)}
    short = {act.blow for act in acts(1, short_deck(DOUBLED, disk=True), again=False)}
    assert long == set(Blow) - set(OF_BROKERS)
    assert long - short == {Blow.ALL, Blow.KAFKA_RESTART, Blow.POSTGRES_RESTART}
    assert Blow.DISK_FULL not in {act.blow for act in acts(1, full_deck(DOUBLED, disk=False), again=False)}


def test_every_service_is_killed_also_in_the_short_run() -> None:
    for deck in (short_deck(DOUBLED, disk=True), full_deck(DOUBLED, disk=True)):
        killed = {name for act in acts(1, deck, again=False) if act.blow is Blow.KILL for name in act.targets}
        assert killed >= set(NAMES)


def test_a_zombie_sleeps_longer_than_its_session() -> None:
    sleepers = [act for act in acts(3, full_deck(DOUBLED, disk=False), again=False) if act.blow is Blow.ZOMBIE]
    assert all(act.hold > 10 for act in sleepers)
    assert {target for act in sleepers for target in act.targets} == {f"{name}-2" for name in DOUBLED}


def test_every_fault_of_every_provider_is_dealt_before_one_comes_again() -> None:
    first, again, other = (list(islice(faults(seed), len(DECK))) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    for dealt in (first, other):
        assert {(fault["provider"], fault["kind"]) for fault, _ in dealt} == set(DECK)
        # All of them within the time of a short run.
        assert sum(pause for _, pause in dealt) < 60


def test_the_simulator_knows_every_fault_and_none_of_its_hostile_ones_is_left_out() -> None:
    known = FaultPlan()
    for provider, kind in DECK:
        known.add(provider, Fault(FaultKind(kind)), 1)
    fault = planted()
    known.add(fault["provider"], Fault(FaultKind(fault["kind"])), 1, fault["node"], fault["model"])
    ordinary = {kind for _, kind in ORDINARY} | {"unauthorised", "model_missing", "bad_request"}
    assert {kind.value for kind in FaultKind} - ordinary - OF_VECTORS == {*HOSTILE, *OF_OLLAMA, "answered_remotely"}
    assert set(TALKERS) == {provider for provider, _ in DECK}


def test_recovery_is_the_first_work_that_began_after_the_death() -> None:
    death = Death(1_000, "local-worker", "kill -9", apart=False)
    units = [Unit(0, 900, 1_100), Unit(0, 1_200, 4_000), Unit(0, 1_300, 3_500), Unit(1, 2_000, 6_000), Unit(2, 10, 20)]
    found = recovery_of(death, units)
    assert (found.first_ms, found.everywhere_ms) == (2_500, 5_000)
    assert recovery_of(death, units, frozenset({1})).first_ms == 5_000
    assert recovery_of(death, units, frozenset({2})).first_ms is None
    assert p50_and_max([1_000, 3_000, 2_000]) == (2.0, 3.0)


def test_a_router_is_measured_by_the_partitions_it_had() -> None:
    evidence = honest()
    begun = next(record.at_ms for record in evidence.of("tasks.journal") if (record.value or {})["kind"] == "barrier")
    first = Death(begun, "router", "kill -9", apart=False)
    assert owned_by(evidence, first) == {0}
    later = replace(first, at_ms=begun + 1_000)  # router-2 has taken over by then
    assert owned_by(evidence, later) == frozenset()
    assert owned_by(evidence, replace(later, who="router-2")) == {0}


def test_intake_counts_by_what_it_accepted_and_not_by_what_went_straight_to_kafka() -> None:
    evidence = honest()
    moved = [replace(record, at_ms=AT + 2_500) for record in evidence.of("tasks.submitted")]
    found = recoveries(
        with_topic(evidence, "tasks.submitted", moved), [Death(AT - 1, "intake", "kill -9", apart=False)], []
    )
    assert found[0].first_ms == 2_501
    only_kafka = [replace(claim, via="kafka") for claim in evidence.claims]
    assert recoveries(replace(evidence, claims=only_kafka), [found[0].death], [])[0].first_ms is None


def test_the_closing_line_says_kills_tasks_duplicates_recovery_and_verdict() -> None:
    evidence = honest()
    deaths = [Death(AT - 1, "intake", "kill -9", apart=False), Death(AT, "kafka", "Kafka kill -9", apart=True)]
    found = recoveries(evidence, deaths, [])
    line = closing_line(
        seed=7, seconds=90, dealt={Blow.KILL: 1, Blow.KAFKA_KILL: 1}, judgement=judge(evidence), recoveries=found,
        disk=False, kept=None,
    )  # fmt: skip
    assert line.startswith("chaos seed 7, 1.5 min: 2 kills (Kafka kill -9 1, kill -9 1); disk full: not possible here")
    assert "2 tasks (succeeded 2)" in line
    assert "completed 0" in line
    assert "faults" not in line
    hostile = replace(judge(evidence), faults={"groq redirect": 2, "ollama silence": 1})
    line_of_hostile = closing_line(
        seed=7, seconds=90, dealt={}, judgement=hostile, recoveries=[], disk=False, kept=None,
    )  # fmt: skip
    assert "3 calls met 2 faults of providers" in line_of_hostile
    assert any("groq redirect 2, ollama silence 1" in text for text in details(hostile, [], []))
    assert "recovery of 1 services" in line
    assert line.endswith("PASS: 0 violations")
    assert any("Kafka kill -9" in text for text in details(judge(evidence), found, []))


def test_a_claim_without_a_response_is_no_violation() -> None:
    evidence = honest()
    unsure = replace(evidence.claims[0], nonce="n-unsure", task_id="", told=Told.UNSURE, idempotency_key="")
    assert judge(replace(evidence, claims=[*evidence.claims, unsure])).violations == ()


def test_a_repeated_command_is_no_new_work() -> None:
    evidence = honest()
    work = evidence.of("work.local.batch")
    again = [*work, replace(work[0], offset=1, at_ms=AT + 60_000)]  # after a death at AT + 50 s
    death = Death(AT + 50_000, "local-worker", "kill -9", apart=False)
    assert recoveries(with_topic(evidence, "work.local.batch", again), [death], [])[0].first_ms is None
