"""Whether a position is one of its log, and where to go on."""

from __future__ import annotations

import logging

import pytest
from headrace_streams.errors import TransientError
from headrace_streams.log_identity import (
    Continue,
    DataLost,
    LogState,
    Recreated,
    StoredPosition,
    Truncated,
    Verdict,
    explained,
    fingerprint,
    judge,
)
from headrace_streams.memory import HANGS, Ailment, MemoryCluster, MemoryLog
from headrace_streams.partitioning import static_member_id
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_streams.watching import LogWatch

PARTITION = TopicPartition("t", 0)


@pytest.mark.parametrize(
    ("stored", "log", "harmless", "verdict"),
    [
        (StoredPosition(5, "a"), LogState("a", 0, 9), False, Continue(5)),
        (StoredPosition(0, "a"), LogState("a", 0, 0), False, Continue(0)),
        (StoredPosition(9, "a"), LogState("a", 9, 9), True, Continue(9)),
        # Stored by an older version.
        (StoredPosition(5, None), LogState("a", 0, 9), True, Continue(5)),
        (StoredPosition(5, "a"), LogState(None, 0, 9), True, Continue(5)),
        # Another log, whether it is shorter or longer.
        (StoredPosition(5, "a"), LogState("b", 0, 9), False, Recreated(0)),
        (StoredPosition(5, "a"), LogState("b", 0, 2), True, Recreated(0)),
        (StoredPosition(5, "a"), LogState("b", 7, 9), False, Recreated(7)),
        (StoredPosition(5, None), LogState("a", 1, 4), False, Recreated(1)),
        # The same one, cut short.
        (StoredPosition(5, "a"), LogState("a", 1, 4), False, Truncated(4)),
        (StoredPosition(5, "a"), LogState("a", 1, 4), True, Truncated(1)),
        (StoredPosition(1, "a"), LogState("a", 0, 0), False, Truncated(0)),
        # Retention was faster.
        (StoredPosition(5, "a"), LogState("a", 6, 9), False, DataLost(6, 1)),
        (StoredPosition(0, None), LogState("a", 100, 100), True, DataLost(100, 100)),
        (StoredPosition(2, "a"), LogState("a", 7, 9), True, DataLost(7, 5)),
    ],
)
def test_a_position_is_compared_with_its_log(
    stored: StoredPosition, log: LogState, harmless: bool, verdict: Verdict
) -> None:
    assert judge(stored, log, repeats_are_harmless=harmless) == verdict


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Recreated(3), ["deleted and created again", "first record, 3", "restore the topic"]),
        (Truncated(4), ["lost records", "Going on at 4", "three replicas"]),
        (DataLost(9, 4), ["up to 4 records were deleted", "retention.ms"]),
    ],
)
def test_the_operator_is_told_what_happened_and_what_to_do(
    verdict: Recreated | Truncated | DataLost, words: list[str]
) -> None:
    text = explained("group g", PARTITION, StoredPosition(5, "a"), verdict)
    assert text.startswith("group g: t[0]")
    for word in words:
        assert word in text


def test_fingerprints_differ_and_fit() -> None:
    found = {fingerprint(f"topic {number}") for number in range(1_000)}
    assert len(found) == 1_000
    assert {len(each) for each in found} == {8}


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ({"a": 6, "b": 6}, {"b": 6, "a": 6}, True),
        ({"a": 6}, {"a": 8}, False),
        ({"a": 6, "b": 6}, {"a": 6, "b": 8}, False),
    ],
)
def test_a_static_member_is_another_one_when_partitions_were_added(
    before: dict[str, int], after: dict[str, int], same: bool
) -> None:
    assert (static_member_id("pod-0", before) == static_member_id("pod-0", after)) is same


@pytest.mark.parametrize("ailment", [HANGS, Ailment(TransientError("down")), Ailment(TransientError("late"), 0.05)])
async def test_a_partition_that_does_not_answer_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, ailment: Ailment, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headrace_streams.watching.ANSWER_SECONDS", 0.1)
    caplog.set_level(logging.INFO, "headrace_streams.watching")
    cluster = MemoryCluster()
    cluster.create_topic("t", 3)
    for partition in range(3):
        cluster.append(ProducerRecord("t", b"x", partition=partition))
    cluster.sicken(TopicPartition("t", 1), bounds=ailment)
    watch = LogWatch(MemoryLog(cluster).admin(), "group g", repeats_are_harmless=True)
    topic_id = cluster.describe_topics(["t"])["t"].topic_id
    looked = await watch.look(["t"], {TopicPartition("t", n): StoredPosition(n, topic_id) for n in range(3)})
    assert looked.topic_ids == {"t": topic_id}
    assert looked.verdicts == {TopicPartition("t", 0): Continue(0), TopicPartition("t", 2): Truncated(0)}
    assert "bounds of t[1] are not known" in caplog.text
