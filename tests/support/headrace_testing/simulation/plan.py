"""What one seed draws before anything runs: the size of the simulation, which faults occur, and how often."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from headrace_testing.simulation.research import searches
from headrace_testing.simulation.several_models import several


class Fault(StrEnum):
    """What can fail. The first group occurs at an I/O boundary, the second at scheduled times."""

    CRASH_BEFORE = "crash_before"
    """The process dies before its request is sent."""
    CRASH_IN_FLIGHT = "crash_in_flight"
    """It dies while its request is in flight; the request still arrives."""
    CRASH_AFTER = "crash_after"
    """It dies when the response arrives."""
    FREEZE_BEFORE = "freeze_before"
    """It freezes before its request is sent, and continues later."""
    FREEZE_IN_FLIGHT = "freeze_in_flight"
    """It freezes while its request is in flight."""
    TRANSIENT = "transient"
    """The cluster certainly did nothing."""
    LOST_REQUEST = "lost_request"
    """The request never arrives, and the client times out."""
    LOST_ANSWER = "lost_answer"
    """It was executed, and the response never arrives."""
    SLOW = "slow"
    """It is slow."""
    EXPELLED_IN_FLIGHT = "expelled_in_flight"
    """It is slow, and meanwhile the group removes the process, which continues."""

    RESTART = "restart"
    """A process is asked to stop, and restarted."""
    EXPEL = "expel"
    """A group removes a live member."""
    CLOCK = "clock"
    """A host's wall clock jumps."""
    COMPACTION = "compaction"
    RETENTION = "retention"
    DATABASE_AWAY = "database_away"
    DATABASE_LOST_ANSWER = "database_lost_answer"
    """A transaction was committed, and its response lost."""
    MODEL_SLOW = "model_slow"
    MODEL_HANGS = "model_hangs"
    """It says nothing until the call's time-out."""
    MODEL_FAILS = "model_fails"
    """Temporarily, after consumption."""
    MODEL_REFUSES_CALL = "model_refuses_call"
    """Permanently: another model may succeed."""
    MODEL_REJECTS = "model_rejects"
    """Its provider rejects the request, or blocks the output, with an error."""
    MODEL_BREAKS_OFF = "model_breaks_off"
    """The connection is lost in the middle of the answer."""
    MODEL_SAYS_NOTHING = "model_says_nothing"
    """It consumes, ends in an orderly way, and the answer is empty."""
    MODEL_ENDS_ODDLY = "model_ends_oddly"
    """The provider gives a reason for the end that nobody knows."""
    MODEL_CUT_OFF = "model_cut_off"
    """The answer ends at its limit."""
    MODEL_LEAVES = "model_leaves"
    """A node that lists a model as its own has another host make the answer."""
    MODEL_DECLINES = "model_declines"
    """Its safety system refuses."""
    NODE_DOWN = "node_down"
    HANDLER_PARKS = "handler_parks"
    HANDLER_FAILS = "handler_fails"
    REPEATED_SUBMIT = "repeated_submit"
    CANCEL = "cancel"
    EARLY_CANCEL = "early_cancel"
    """A cancellation that overtakes its task."""
    POISON = "poison"
    """An undecodable record."""
    SITE_GONE = "site_gone"
    """All workers of a site are gone at once, and come back later."""
    SWITCHED_OFF = "switched_off"
    """An operator switches a provider, a model or a feature off for a while."""
    POLICY_CHANGED = "policy_changed"
    """An operator publishes another policy."""
    FORGED_CANCEL = "forged_cancel"
    """A request to cancel another tenant's task."""

    PARTITION_SICK = "partition_sick"
    """Reads from a partition, or queries of its bounds, hang or fail for a while."""
    PARTITIONS_ADDED = "partitions_added"
    TRANSACTION_OPEN = "transaction_open"
    """A foreign producer's transaction holds back what stands behind its first record."""

    SICK_FOR_MINUTES = "sick_for_minutes"
    """A partition of one topic cannot be written, read or asked about, for minutes."""
    RECORDS_REFUSED = "records_refused"
    """A topic refuses large records for good, or all records until somebody allows them."""
    OUTSIDERS = "outsiders"
    """Other programs write records that decode and that nobody could have meant."""
    TOPIC_RECREATED = "topic_recreated"
    TOPIC_TRUNCATED = "topic_truncated"
    TOPICS_RESIZED = "topics_resized"
    """The topics of tasks get more partitions."""
    TRANSACTION_LASTS = "transaction_lasts"
    """A foreign producer's transaction stays open for minutes, while everything is restarted."""
    JOURNAL_JUNK = "journal_junk"
    """Undecodable records in a partition of the journal, until an operator skips them."""
    SCHEMA_IDS_LOST = "schema_ids_lost"
    """The registry has lost or given away ids that services write, until an operator repairs it."""


AT_BOUNDARY = (
    Fault.CRASH_BEFORE, Fault.CRASH_IN_FLIGHT, Fault.CRASH_AFTER, Fault.FREEZE_BEFORE, Fault.FREEZE_IN_FLIGHT,
    Fault.TRANSIENT, Fault.LOST_REQUEST, Fault.LOST_ANSWER, Fault.SLOW, Fault.EXPELLED_IN_FLIGHT,
)  # fmt: skip
CRASHES = frozenset({Fault.CRASH_BEFORE, Fault.CRASH_IN_FLIGHT, Fault.CRASH_AFTER})
PASSING = (Fault.PARTITION_SICK, Fault.PARTITIONS_ADDED, Fault.TRANSACTION_OPEN)
"""Drawn from a generator of their own, so that seeds without them are what they were."""
LASTING = (
    Fault.SICK_FOR_MINUTES, Fault.RECORDS_REFUSED, Fault.OUTSIDERS, Fault.TOPIC_RECREATED, Fault.TOPIC_TRUNCATED,
    Fault.TOPICS_RESIZED, Fault.TRANSACTION_LASTS, Fault.JOURNAL_JUNK,
    Fault.SCHEMA_IDS_LOST,
)  # fmt: skip
"""Drawn and scheduled by `lasting`, as they outlast all the others."""
SITES = ("a", "b")
"""All sites of all seeds; workers may also have none."""
_SLOW_SECONDS = 3.0
"""Of a model where sites go away, so that they have something to do then."""
OF_SITES = (Fault.SITE_GONE,)
"""Drawn with the sites, from a generator of their own."""
FORGED = (Fault.FORGED_CANCEL,)
"""Drawn from another generator of their own."""
OPERATED = (Fault.SWITCHED_OFF, Fault.POLICY_CHANGED)
"""What operators do, drawn from another generator of its own."""
FREEZES = frozenset({Fault.FREEZE_BEFORE, Fault.FREEZE_IN_FLIGHT})


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of one seed.

    Attributes:
        boundary: Chance of each fault at an I/O boundary.
        rates: Chance of each other fault on its occasion, or how often a minute it occurs.
        submit_seconds: Time over which tasks are submitted.
        fault_seconds: Time after which no more faults occur.
        long_idle: Whether the platform is idle for longer than the journal's retention.
        max_held_bytes: Of each worker's engine; drawn from a generator of its own, as are the faults below.
        alike: Share of tasks that repeat the previous question.
        sites: The site of each local worker, drawn from a generator of its own; without any, all are of none. Workers
            of one site have the same nodes, those of different sites different ones.
        research: Whether some tasks search before a model answers, and there are sources to ask.
        several: Whether some tasks ask for a cascade or an ensemble.
        paid: Whether all tasks are for cloud providers, and their workers are killed now and then; drawn from a
            generator of its own.
    """

    seed: int
    routers: int
    local_workers: int
    cloud_workers: int
    accountants: int
    tasks: int
    boundary: Mapping[Fault, float]
    rates: Mapping[Fault, float]
    submit_seconds: float
    fault_seconds: float
    latency_seconds: float
    static_members: bool
    max_in_flight: int
    max_buffered: int
    max_held_bytes: int
    metadata_limit: int
    drain_seconds: float
    model_seconds: float
    most_crashes: int
    most_freezes: int
    long_idle: bool
    alike: float
    sites: tuple[str, ...] = ()
    research: bool = False
    several: bool = False
    paid: bool = False

    def rate(self, fault: Fault) -> float:
        """Chance of a fault with an occasion of its own."""
        return self.rates.get(fault, 0.0)


def draw_plan(seed: int, rng: random.Random) -> Plan:
    """The plan of a seed. Each kind of fault is off in about half of all seeds, so that each pair of faults also occurs
    without a third, and rates are drawn over orders of magnitude.
    """
    calm = rng.random() < 0.05
    intensity = 0.0 if calm else 10.0 ** rng.uniform(-2.7, -1.3)
    boundary = {
        fault: intensity * 10.0 ** rng.uniform(-0.7, 0.3) for fault in AT_BOUNDARY if rng.random() < 0.5
    }  # fmt: skip
    timed = [fault for fault in Fault if fault not in (*AT_BOUNDARY, *PASSING, *LASTING, *FORGED, *OF_SITES, *OPERATED)]
    rates = {fault: rng.uniform(0.05, 0.35) for fault in timed if not calm and rng.random() < 0.45}
    passing = random.Random(f"{seed} lasting")
    rates |= {fault: 1.0 for fault in PASSING if not calm and passing.random() < 0.2}
    forged = random.Random(f"{seed} forged")
    rates |= {fault: 1.0 for fault in FORGED if not calm and forged.random() < 0.25}
    operated = random.Random(f"{seed} operators")
    rates |= {fault: 1.0 for fault in OPERATED if not calm and operated.random() < 0.25}
    of_sites = random.Random(f"{seed} sites")
    sites: tuple[str, ...] = ()
    if of_sites.random() < 0.4:
        sites = of_sites.choice((("", "a"), ("", "a", "b"), ("", "a", "a"), ("", "", "a", "b")))
        rates |= {fault: 1.0 for fault in OF_SITES if not calm and of_sites.random() < 0.7}
    paid = random.Random(f"{seed} paid").random() < 0.15
    submit_seconds = rng.choice((0.5, 5.0, 15.0, 30.0))
    return Plan(
        seed=seed,
        routers=rng.choice((1, 2, 2)),
        local_workers=len(sites) or rng.choice((1, 2)),
        cloud_workers=rng.choice((0, 1, 1)) + 2 * paid,
        accountants=rng.choice((1, 1, 2)),
        tasks=rng.randint(3, 12),
        boundary=boundary,
        rates=rates,
        submit_seconds=submit_seconds,
        fault_seconds=submit_seconds + rng.uniform(5.0, 30.0),
        latency_seconds=rng.choice((0.0005, 0.002, 0.01)),
        static_members=rng.random() < 0.5,
        max_in_flight=rng.choice((1, 2, 8, 64)),
        max_buffered=rng.choice((1, 2, 100)),
        max_held_bytes=random.Random(f"{seed} bytes").choice((64 * 1024 * 1024, 64 * 1024 * 1024, 4_000, 1)),
        metadata_limit=rng.choice((4095, 4095, 64)),
        drain_seconds=rng.choice((0.0, 2.0, 8.0)),
        model_seconds=max(rng.choice((0.05, 0.5, 3.0)), _SLOW_SECONDS if Fault.SITE_GONE in rates else 0.0),
        most_crashes=rng.randint(2, 12),
        most_freezes=rng.randint(1, 6),
        long_idle=rng.random() < 0.02,
        alike=rng.choice((0.0, 0.2, 0.6)),
        sites=sites,
        research=searches(seed),
        several=several(seed),
        paid=paid,
    )
