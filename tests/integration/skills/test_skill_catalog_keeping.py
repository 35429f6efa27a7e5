"""Submissions become catalog and feed, each once, whatever dies."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import SkillChange, SkillStatus
from headrace_contracts.ids import new_id
from headrace_contracts.topics import SKILLS_CATALOG, SKILLS_FEED, SKILLS_SUBMITTED
from headrace_skill_broadcaster import keeper
from headrace_skill_broadcaster.decide.catalog import decide, feed_event_id
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.memory import NetworkRequest, Operation
from headrace_streams.provisioning import PartitionsDiffer
from headrace_streams.records import ProducerRecord
from headrace_testing.odd_values import ODD, UNFORESEEN, fail_on_odd_values
from headrace_testing.skill_broadcaster import Installation

Eventually = Callable[..., Awaitable[None]]


async def test_a_submission_becomes_a_version_and_is_told(installation: Installation, eventually: Eventually) -> None:
    await installation.run()
    submission = await installation.submit("retry", interests=("testing", "backend"))
    await eventually(lambda: len(installation.feed()) == 2)
    entry = installation.catalog()["acme/retry"]
    assert (entry.version, entry.status, entry.submission_id) == (1, SkillStatus.LIVE, submission.submission_id)
    source = installation.records(SKILLS_SUBMITTED)[0]
    target = installation.records(SKILLS_CATALOG)[0]
    assert (target.key, target.partition) == (source.key, source.partition)
    assert entry.positions[0].next_offset == source.offset + 1
    assert {feed_event_id(event) for event in installation.feed()} == {
        "acme/retry/1/testing",
        "acme/retry/1/backend",
    }
    assert {record.key for record in installation.records(SKILLS_FEED)} == {b"acme/testing", b"acme/backend"}


async def test_versions_follow_each_other_also_within_a_batch(
    installation: Installation, eventually: Eventually
) -> None:
    for number in range(20):
        await installation.submit("retry", f"body {number // 2}", interests=("testing",))
    await installation.run()
    await eventually(lambda: len(installation.feed()) == 10)
    assert [event.version for event in installation.feed()] == list(range(1, 11))
    assert [event.change for event in installation.feed()] == [SkillChange.PUBLISHED] + [SkillChange.UPDATED] * 9
    assert [past.version for past in installation.catalog()["acme/retry"].history] == list(range(1, 11))


async def test_tenants_have_skills_of_the_same_name(installation: Installation, eventually: Eventually) -> None:
    await installation.run()
    for tenant in ("acme", "umbra"):
        await installation.submit("retry", tenant, tenant=tenant, interests=("testing",))
    await eventually(lambda: len(installation.catalog()) == 2)
    assert {entry.version for entry in installation.catalog().values()} == {1}


async def test_a_bad_submission_is_kept_with_its_reason_and_the_next_goes_on(
    installation: Installation, eventually: Eventually
) -> None:
    await installation.run()
    await installation.submit("Not-A-Name")
    await installation.submit("missing", None)
    await installation.submit("forged", digest="0" * 64)
    topic = "t." + SKILLS_SUBMITTED.name
    installation.cluster.append(ProducerRecord(topic, b"garbage", b"acme/garbage"))
    good = await installation.submit("good")
    misplaced = installation.records(SKILLS_SUBMITTED)
    copy = next(record for record in misplaced if record.key == b"acme/good")
    installation.cluster.append(ProducerRecord(topic, copy.value, b"acme/other"))
    await eventually(lambda: len(installation.dead_letters()) == 5)
    await eventually(lambda: len(installation.catalog()) == 1)
    reasons = " | ".join(letter.error_message for letter in installation.dead_letters())
    for part in ("name:", "nothing to revoke", "digest:", "Confluent wire format", "record's key"):
        assert part in reasons
    assert installation.catalog()["acme/good"].submission_id == good.submission_id


async def test_a_skill_that_the_log_refuses_is_kept_and_its_neighbours_go_on(
    installation: Installation, eventually: Eventually
) -> None:
    for number in range(50):
        await installation.submit("a", f"body {number}", interests=("testing",))
    # The submission fits into a record, also as a dead letter; with the history of the skill it does not.
    await installation.submit("a", "x" * 250_000)
    await installation.submit("a", "last", interests=("testing",))
    installation.cluster.record_limit = 253_000
    await installation.run()
    # What came behind it in the same batch had taken the next number already.
    await eventually(lambda: {event.version for event in installation.feed()} == {*range(1, 51), 52})
    assert [letter.error_type for letter in installation.dead_letters()] == ["SendToDeadLetters"]
    assert installation.catalog()["acme/a"].version == 52


async def test_a_submission_too_large_for_the_dead_letters_is_kept_without_its_body(
    installation: Installation, eventually: Eventually
) -> None:
    await installation.submit("Not-A-Name", "x" * 250_000)
    await installation.submit("good")
    installation.cluster.record_limit = 250_300
    await installation.run()
    await eventually(lambda: list(installation.catalog()) == ["acme/good"])
    (letter,) = installation.dead_letters()
    assert letter.value is None
    assert letter.omitted_bytes is not None
    assert letter.omitted_bytes > 250_000
    assert "name:" in letter.error_message


async def test_what_the_dead_letters_do_not_take_is_passed_over_by_nobody(
    installation: Installation, eventually: Eventually
) -> None:
    await installation.submit("Not-A-Name", "x" * 40_000)
    # Smaller than any dead letter: refused for another reason than its size.
    limit, installation.cluster.record_limit = installation.cluster.record_limit, 30
    await installation.run()
    await asyncio.sleep(1.0)
    assert installation.dead_letters() == []
    installation.cluster.record_limit = limit
    await eventually(lambda: len(installation.dead_letters()) == 1)


async def test_a_repeated_submission_changes_nothing(installation: Installation, eventually: Eventually) -> None:
    await installation.run()
    again = new_id()
    await installation.submit("retry", "one", submission_id=again, interests=("testing",))
    await installation.submit("retry", "two", interests=("testing",))
    await installation.submit("retry", "one", submission_id=again, interests=("testing",))
    await installation.submit("retry", "three", interests=("testing",))
    await eventually(lambda: [entry.body for entry in installation.catalog().values()] == [plain("three")])
    assert installation.catalog()["acme/retry"].version == 3
    await eventually(lambda: len(installation.feed()) >= 3)
    assert [feed_event_id(event) for event in installation.feed()] == [
        f"acme/retry/{version}/testing" for version in (1, 2, 3)
    ]


async def test_a_new_process_goes_on_where_the_killed_one_was(
    installation: Installation, eventually: Eventually
) -> None:
    first = await installation.run("one")
    for number in range(30):
        await installation.submit(f"skill-{number}", "one", interests=("testing",))
    await eventually(lambda: len(installation.catalog()) > 5)
    first.kill()
    for number in range(30):
        await installation.submit(f"skill-{number}", "two", interests=("testing",))
    await installation.run("two")
    await eventually(lambda: sum(entry.version == 2 for entry in installation.catalog().values()) == 30)
    expected = {f"acme/skill-{number}/{version}/testing" for number in range(30) for version in (1, 2)}
    await eventually(lambda: {feed_event_id(event) for event in installation.feed()} == expected)
    assert not installation.dead_letters()


class Failing:
    """A network on which appends to one topic fail for a while."""

    def __init__(self, topic: str, error: Exception, *, after: bool, times: int = 1) -> None:
        self._topic = topic
        self._error = error
        self._after = after
        self.times = times

    async def call(self, request: NetworkRequest, perform: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        hit = (
            self.times > 0
            and request.operation is Operation.APPEND
            and any(partition.topic == self._topic for partition in request.partitions)
        )
        if not hit:
            return perform()
        self.times -= 1
        if self._after:
            perform()
        raise self._error


@pytest.mark.parametrize("topic", [SKILLS_CATALOG, SKILLS_FEED])
@pytest.mark.parametrize(
    ("error", "after"),
    [(TransientError("no"), False), (AppendUncertain("lost"), False), (AppendUncertain("answer lost"), True)],
)
async def test_a_failing_log_costs_time_and_nothing_else(
    installation: Installation, eventually: Eventually, topic: Any, error: Exception, after: bool
) -> None:
    network = Failing("t." + topic.name, error, after=after, times=3)
    await installation.make("one", network).start()
    for number in range(5):
        await installation.submit("retry", f"body {number}", interests=("testing",))
    await eventually(lambda: {event.version for event in installation.feed()} == {1, 2, 3, 4, 5})
    assert network.times < 3
    assert installation.catalog()["acme/retry"].version == 5
    assert [past.version for past in installation.catalog()["acme/retry"].history] == [1, 2, 3, 4, 5]


async def test_what_was_catalogued_and_not_told_is_told_by_the_next_owner(
    installation: Installation, eventually: Eventually
) -> None:
    network = Failing("t." + SKILLS_FEED.name, TransientError("no"), after=False, times=1_000_000)
    for number in range(10):
        await installation.submit(f"skill-{number}", interests=("testing",))
    first = await installation.make("one", network).start()
    await eventually(lambda: len(installation.catalog()) == 10)
    assert installation.feed() == []
    first.kill()
    await installation.run("two")
    await eventually(lambda: {event.name for event in installation.feed()} == {f"skill-{n}" for n in range(10)})
    assert len(installation.events(SKILLS_CATALOG)) == 10


async def test_a_late_record_of_a_former_owner_does_not_stand(
    installation: Installation, eventually: Eventually
) -> None:
    await installation.run()
    await installation.submit("retry", "one", interests=("testing",))
    await installation.submit("retry", "two", interests=("testing",))
    await eventually(lambda: installation.catalog().get("acme/retry") and len(installation.feed()) == 2)
    late = installation.records(SKILLS_CATALOG)[0]
    installation.cluster.append(ProducerRecord(late.topic, late.value, late.key, late.partition, late.headers))
    assert installation.catalog()["acme/retry"].version == 1
    await installation.submit("retry", "three", interests=("testing",))
    await eventually(lambda: installation.catalog()["acme/retry"].version == 3)
    await eventually(lambda: {event.version for event in installation.feed()} == {1, 2, 3})
    process = installation.processes[0]
    assert process.metrics.registry.get_sample_value(
        "headrace_skills_catalog_reloads_total", {"reason": "ReadAgain"}
    ) == pytest.approx(1)


async def test_a_late_record_is_put_right_also_when_nothing_more_is_submitted(
    installation: Installation, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_skill_broadcaster.service._POLL_SECONDS", 0.02)
    await installation.run()
    await installation.submit("retry", "one")
    await installation.submit("retry", "two")
    await eventually(
        lambda: installation.catalog().get("acme/retry") and installation.catalog()["acme/retry"].version == 2
    )
    late = installation.records(SKILLS_CATALOG)[0]
    installation.cluster.append(ProducerRecord(late.topic, late.value, late.key, late.partition, late.headers))
    assert installation.catalog()["acme/retry"].version == 1
    await eventually(lambda: installation.catalog()["acme/retry"].version == 2)
    view = installation.processes[0].view.get("acme", "retry")
    assert view is not None
    assert view.version == 2


async def test_partitions_move_between_processes_while_skills_come_in(
    installation: Installation, eventually: Eventually
) -> None:
    await installation.run("one")

    async def keep_submitting() -> None:
        for number in range(60):
            await installation.submit(f"skill-{number % 12}", f"body {number}", interests=("testing",))
            await asyncio.sleep(0.01)

    submitting = asyncio.create_task(keep_submitting())
    await asyncio.sleep(0.1)
    second = await installation.run("two")
    await asyncio.sleep(0.2)
    second.kill()
    await installation.run("three")
    await submitting
    await eventually(
        lambda: (
            len(installation.catalog()) == 12 and all(entry.version == 5 for entry in installation.catalog().values())
        ),
        15,
    )
    expected = {f"acme/skill-{number}/{version}/testing" for number in range(12) for version in range(1, 6)}
    await eventually(lambda: {feed_event_id(event) for event in installation.feed()} == expected)


async def test_unequal_numbers_of_partitions_are_refused_at_the_start(installation: Installation) -> None:
    installation.cluster.create_topic("u." + SKILLS_SUBMITTED.name, 3)
    installation.cluster.create_topic("u." + SKILLS_CATALOG.name, 2)
    installation.codec.topic_prefix = "u."
    process = installation.make("one")
    with pytest.raises(PartitionsDiffer, match="add partitions"):
        await process.submissions.start()


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
async def test_an_error_of_any_kind_in_one_record_stops_no_others(
    installation: Installation, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_on_odd_values(monkeypatch, error)
    for spec in (SKILLS_CATALOG, SKILLS_FEED):
        installation.cluster.append(ProducerRecord("t." + spec.name, ODD, b"acme/odd"))
    await installation.run()
    for spec in (SKILLS_SUBMITTED, SKILLS_FEED):
        installation.cluster.append(ProducerRecord("t." + spec.name, ODD, b"acme/odd"))
    await installation.submit("good")
    await eventually(lambda: len(installation.dead_letters()) == 1)
    (letter,) = installation.dead_letters()
    assert (letter.error_type, letter.value) == (type(error).__name__, ODD)
    assert "user wrote" not in letter.error_message
    await eventually(lambda: any(record.value != ODD for record in installation.records(SKILLS_CATALOG)))


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
async def test_an_error_of_any_kind_in_a_decision_costs_that_submission(
    installation: Installation, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(current: Any, submission: Any, *rest: Any) -> Any:
        if submission.name == "odd":
            raise error
        return decide(current, submission, *rest)

    monkeypatch.setattr(keeper, "decide", failing)
    await installation.run()
    await installation.submit("odd")
    await installation.submit("good")
    await eventually(lambda: list(installation.catalog()) == ["acme/good"])
    await eventually(lambda: [each.error_type for each in installation.dead_letters()] == [type(error).__name__])
