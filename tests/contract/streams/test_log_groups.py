"""Consumer groups: assignment, hand-over, progress."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest
from headrace_streams.errors import LeaveGroup, PartitionsLost, RecordRefused, TopicMissing
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record, TopicPartition
from headrace_testing.logs import Listener, LogBench, take, until

VALUES = [b"%d" % number for number in range(10)]


async def test_a_new_group_begins_at_the_start(bench: LogBench) -> None:
    topic = await bench.topic()
    await bench.write(topic, VALUES)
    listener = Listener()
    consumer = await bench.member(topic, listener)
    assert [record.value for record in await take(consumer, 10)] == VALUES
    assert listener.told == [("assigned", (TopicPartition(topic, 0),))]
    assert await consumer.committed([TopicPartition(topic, 0)]) == {}


async def test_a_new_group_may_begin_at_the_end(bench: LogBench) -> None:
    topic = await bench.topic()
    await bench.write(topic, VALUES)
    listener = Listener()
    consumer = bench.consumer(from_start=False)
    await consumer.subscribe([topic], listener)
    await until(lambda: bool(listener.owned), consumer)
    # Only from its first fetch on does a consumer know where the end is.
    assert not await consumer.poll(10, 0.5)
    await bench.write(topic, [b"new"])
    assert [record.value for record in await take(consumer, 1)] == [b"new"]


async def test_progress_and_its_note_outlive_the_member(bench: LogBench) -> None:
    topic = await bench.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await bench.write(topic, VALUES)
    consumer = await bench.member(topic, Listener())
    await take(consumer, 10)
    await consumer.commit({first: OffsetAndMetadata(4, "note: ä")})
    assert await consumer.committed([first, second]) == {first: OffsetAndMetadata(4, "note: ä")}
    await consumer.close()
    follower = await bench.member(topic, Listener())
    assert [record.offset for record in await take(follower, 6)] == [4, 5, 6, 7, 8, 9]
    assert await follower.committed([first, second]) == {first: OffsetAndMetadata(4, "note: ä")}
    await follower.commit({first: OffsetAndMetadata(10)})
    assert await follower.committed([first]) == {first: OffsetAndMetadata(10)}


async def test_groups_do_not_share_progress(bench: LogBench) -> None:
    topic = await bench.topic()
    await bench.write(topic, VALUES)
    one = await bench.member(topic, Listener(), "one")
    await take(one, 10)
    await one.commit({TopicPartition(topic, 0): OffsetAndMetadata(10)})
    other = await bench.member(topic, Listener(), "other")
    assert len(await take(other, 10)) == 10


@pytest.mark.parametrize("length", [4000, 4095])
async def test_a_long_note_is_kept(bench: LogBench, length: int) -> None:
    topic = await bench.topic()
    partition = TopicPartition(topic, 0)
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await until(lambda: bool(listener.owned), consumer)
    await consumer.commit({partition: OffsetAndMetadata(0, "x" * length)})
    assert await consumer.committed([partition]) == {partition: OffsetAndMetadata(0, "x" * length)}


async def test_too_long_a_note_is_refused(bench: LogBench) -> None:
    topic = await bench.topic()
    partition = TopicPartition(topic, 0)
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await until(lambda: bool(listener.owned), consumer)
    with pytest.raises(RecordRefused, match="etadata"):
        await consumer.commit({partition: OffsetAndMetadata(0, "x" * 4096)})
    assert await consumer.committed([partition]) == {}


async def test_the_listener_says_where_to_start(bench: LogBench) -> None:
    topic = await bench.topic(3)
    for partition in range(3):
        await bench.write(topic, VALUES, partition=partition)
    before = await bench.member(topic, Listener())
    await take(before, 30)
    await before.commit(
        {TopicPartition(topic, 0): OffsetAndMetadata(9), TopicPartition(topic, 1): OffsetAndMetadata(8)}
    )
    await before.close()
    listener = Listener(starts={TopicPartition(topic, 0): 7, TopicPartition(topic, 2): 10})
    consumer = await bench.member(topic, listener)
    records = await take(consumer, 5)
    assert sorted((record.partition, record.offset) for record in records) == [(0, 7), (0, 8), (0, 9), (1, 8), (1, 9)]
    assert not await consumer.poll(1, 0.1)


async def test_partitions_are_shared_by_range_and_taken_back(bench: LogBench) -> None:
    topic = await bench.topic(5)
    everything = {TopicPartition(topic, number) for number in range(5)}
    one, two = Listener(), Listener()
    first = await bench.member(topic, one)
    await until(lambda: one.owned == everything, first)
    second = await bench.member(topic, two)
    await until(lambda: one.owned | two.owned == everything and bool(two.owned), first, second)
    assert sorted(map(len, (one.owned, two.owned))) == [2, 3]
    assert not one.owned & two.owned
    low = min((one, two), key=lambda listener: min(listener.owned))
    assert low.owned == {TopicPartition(topic, number) for number in range(3)}
    await second.close()
    assert two.told[-1][0] == "revoked"
    assert not two.owned
    await until(lambda: one.owned == everything, first)
    assert one.times_told("lost") == two.times_told("lost") == 0


async def test_copartitioned_topics_land_on_the_same_member(bench: LogBench) -> None:
    topics = [await bench.topic(4), await bench.topic(4)]
    one, two = Listener(), Listener()
    first, second = bench.consumer(), bench.consumer()
    await first.subscribe(topics, one)
    await second.subscribe(topics, two)
    await until(lambda: len(one.owned) == len(two.owned) == 4, first, second)
    for listener in (one, two):
        numbers = [{name.partition for name in listener.owned if name.topic == topic} for topic in topics]
        assert numbers[0] == numbers[1]
        assert len(numbers[0]) == 2


async def test_what_is_committed_while_revoked_is_where_the_next_owner_starts(bench: LogBench) -> None:
    topic = await bench.topic(2)
    for partition in range(2):
        await bench.write(topic, VALUES, partition=partition)
    one, two = Listener(), Listener()
    first = await bench.member(topic, one)
    handed = {record.topic_partition: 0 for record in await take(first, 20)}

    async def commit_half(partitions: Collection[TopicPartition]) -> None:
        await asyncio.sleep(0.05)
        await first.commit({name: OffsetAndMetadata(5, "half") for name in partitions})

    assert len(handed) == 2
    one.on_revoked = commit_half
    second = await bench.member(topic, two)
    records = await take(second, 5)
    assert [record.offset for record in records] == [5, 6, 7, 8, 9]
    assert one.told[1] == ("revoked", (TopicPartition(topic, 0), TopicPartition(topic, 1)))


async def test_what_was_polled_before_a_revocation_is_not_delivered_after_it(bench: LogBench) -> None:
    topic = await bench.topic(2)
    for partition in range(2):
        await bench.write(topic, [b"x"] * 200, partition=partition)
    one, two = Listener(), Listener()
    first = await bench.member(topic, one)
    await take(first, 3)
    second = await bench.member(topic, two)
    after: list[Record] = []
    async with asyncio.timeout(30):
        while len(after) < 200:
            records = await first.poll(1, 0.01)
            if one.times_told("revoked"):
                after += records
    assert [record.offset for record in after] == list(range(200))
    assert {record.topic_partition for record in after} == one.owned
    assert [record.offset for record in await take(second, 200)] == list(range(200))


async def test_partitions_of_others_cannot_be_committed(bench: LogBench) -> None:
    topic = await bench.topic(2)
    one, two = Listener(), Listener()
    first = await bench.member(topic, one)
    await until(lambda: len(one.owned) == 2, first)
    second = await bench.member(topic, two)
    await until(lambda: len(one.owned) == len(two.owned) == 1, first, second)
    (foreign,) = two.owned
    with pytest.raises(PartitionsLost, match=topic):
        await first.commit({foreign: OffsetAndMetadata(1)})
    assert await second.committed([foreign]) == {}


async def test_a_closed_member_cannot_commit_or_poll(bench: LogBench) -> None:
    topic = await bench.topic()
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await until(lambda: bool(listener.owned), consumer)
    await consumer.close()
    assert listener.told[-1] == ("revoked", (TopicPartition(topic, 0),))
    with pytest.raises(PartitionsLost, match=topic):
        await consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(1)})
    with pytest.raises(LeaveGroup, match="closed"):
        await consumer.poll(1, 0.0)


async def test_a_member_may_commit_while_it_closes(bench: LogBench) -> None:
    topic = await bench.topic()
    await bench.write(topic, VALUES)
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await take(consumer, 10)
    listener.on_revoked = lambda partitions: consumer.commit({name: OffsetAndMetadata(10) for name in partitions})
    await consumer.close()
    follower = await bench.member(topic, Listener())
    assert await follower.committed([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): OffsetAndMetadata(10)}


async def test_a_paused_partition_delivers_nothing_and_then_everything(bench: LogBench) -> None:
    topic = await bench.topic(2)
    quiet, busy = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await bench.write(topic, VALUES, partition=0)
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await take(consumer, 4)
    consumer.pause([quiet])
    await bench.write(topic, VALUES, partition=0)
    await bench.write(topic, VALUES, partition=1)
    assert {record.topic_partition for record in await take(consumer, 10)} == {busy}
    assert not await consumer.poll(10, 0.2)
    consumer.resume([quiet])
    assert [record.offset for record in await take(consumer, 16)] == list(range(4, 20))


async def test_pausing_a_partition_of_others_does_nothing(bench: LogBench) -> None:
    topic = await bench.topic()
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await until(lambda: bool(listener.owned), consumer)
    consumer.pause([TopicPartition(topic, 7)])
    consumer.resume([TopicPartition(topic, 7)])
    await bench.write(topic, VALUES)
    assert len(await take(consumer, 10)) == 10


async def test_the_listener_is_called_without_anybody_polling(bench: LogBench) -> None:
    topic = await bench.topic(2)
    one, two = Listener(), Listener()
    await bench.member(topic, one)
    await until(lambda: len(one.owned) == 2)
    await bench.member(topic, two)
    await until(lambda: len(one.owned) == len(two.owned) == 1)


async def test_what_a_listener_raises_comes_out_of_poll(bench: LogBench) -> None:
    topic = await bench.topic()

    class Broken(Listener):
        async def assigned(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
            raise LookupError(f"cannot restore {len(partitions)} partition")

    broken = await bench.member(topic, Broken())
    with pytest.raises(LookupError, match="cannot restore 1 partition"):
        await take(broken, 1)
    listener = Listener()
    await bench.member(topic, listener)
    await until(lambda: bool(listener.owned))


async def test_a_static_member_comes_back_to_its_partitions_without_a_rebalance(bench: LogBench) -> None:
    topic = await bench.topic(2)
    one, two = Listener(), Listener()
    first = await bench.member(topic, one, instance_id="one")
    second = await bench.member(topic, two, instance_id="two")
    await until(lambda: len(one.owned) == len(two.owned) == 1, first, second)
    before = set(one.owned)
    told_to_two = list(two.told)
    await first.close()
    back = Listener()
    again = await bench.member(topic, back, instance_id="one")
    await until(lambda: bool(back.owned), again, second)
    assert back.owned == before
    assert two.told == told_to_two


async def test_the_newer_of_two_static_members_wins(bench: LogBench) -> None:
    topic = await bench.topic()
    old, new = Listener(), Listener()
    fenced = await bench.member(topic, old, instance_id="same")
    await until(lambda: bool(old.owned), fenced)
    winner = await bench.member(topic, new, instance_id="same")
    await until(lambda: bool(new.owned), winner)
    with pytest.raises(LeaveGroup):
        await take(fenced, 1)
    await until(lambda: not old.owned)
    assert old.told[-1] == ("lost", (TopicPartition(topic, 0),))
    with pytest.raises(PartitionsLost):
        await fenced.commit({TopicPartition(topic, 0): OffsetAndMetadata(1)})
    await winner.commit({TopicPartition(topic, 0): OffsetAndMetadata(2)})


async def test_a_missing_topic_cannot_be_subscribed_to(bench: LogBench) -> None:
    topic = await bench.topic()
    with pytest.raises(TopicMissing, match="missing"):
        await bench.consumer().subscribe([topic, f"{bench.prefix}missing"], Listener())


async def test_a_fast_stream_reaches_a_slow_consumer_whole_and_in_order(bench: LogBench) -> None:
    topic = await bench.topic(2)
    producer = bench.producer()
    count = 12_000
    for number in range(count):
        producer.send(ProducerRecord(topic, b"%d" % number, partition=number % 2))
    consumer = await bench.member(topic, Listener())
    await producer.flush()
    # Long enough for any buffer to fill up.
    await asyncio.sleep(0.5)
    records = await take(consumer, count)
    for partition in range(2):
        own = [record for record in records if record.partition == partition]
        assert [record.offset for record in own] == list(range(count // 2))
        assert own[17].value == b"%d" % (34 + partition)


@pytest.mark.parametrize(("read", "to"), [(3, 0), (1, 4), (0, 2)])
async def test_a_seek_goes_on_elsewhere_and_leaves_the_rest_alone(bench: LogBench, read: int, to: int) -> None:
    topic = await bench.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await until(lambda: len(listener.owned) == 2, consumer)
    await bench.write(topic, [b"%d" % number for number in range(5)])
    await take(consumer, read)
    moved: list[int] = []
    await consumer.seek(TopicPartition(topic, 7), 3, lambda: moved.append(7))
    await consumer.seek(first, to, lambda: moved.append(0))
    assert moved == [0]
    assert [record.offset for record in await take(consumer, 5 - to)] == list(range(to, 5))
    await bench.write(topic, [b"x"], partition=1)
    assert (await take(consumer, 1))[0].topic_partition == second
    consumer.pause([first])
    await consumer.seek(first, 1)
    assert not await consumer.poll(10, 0.3)
    consumer.resume([first])
    assert [record.offset for record in await take(consumer, 4)] == [1, 2, 3, 4]
