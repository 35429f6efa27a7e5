"""What intake keeps in Postgres: migrations, idempotency keys, the task view, and what happens when it is away."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AnswerChoice,
    Content,
    Failure,
    HistoryChanged,
    HistoryChangeKind,
    Lane,
    Message,
    Privacy,
    ServedFrom,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
    Turn,
    Usage,
)
from headrace_intake.adapters.history import History
from headrace_intake.adapters.idempotency_keys import IdempotencyKeys
from headrace_intake.adapters.retention import Retention
from headrace_intake.adapters.view_store import TaskIdReused, ViewStore
from headrace_intake.decide.idempotency import Taken
from headrace_intake.decide.pages import After, Filter
from headrace_intake.decide.rows import NotAViewRow
from headrace_intake.decide.views import document, of_submission, with_completion
from headrace_intake.migrations import MIGRATIONS
from headrace_runtime.database import DatabaseAway, Outage, OutageKind
from headrace_streams.errors import PartitionsLost, TransientError
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import database_at, prepared
from headrace_testing.dead_letters import KeptDeadLetters, NoDeadLetters
from headrace_testing.signatures import FORGERIES, NEW, TAKEN, access_key, keys, signed, verification
from headrace_testing.stored_positions import at, moving

pytestmark = pytest.mark.stack

SUBMITTED = TopicPartition("headrace.tasks.submitted", 4)
COMPLETED = TopicPartition("headrace.tasks.completed", 4)
CHANGED = TopicPartition("headrace.history.changed", 4)
TOPIC_OF = {TaskSubmitted: SUBMITTED, TaskCompleted: COMPLETED, HistoryChanged: CHANGED}


def submitted(task_id: str, **changes: Any) -> TaskSubmitted:
    fields: dict[str, Any] = {
        "task_id": task_id,
        "tenant": "acme",
        "messages": (),
        "submitted_at": 1_000,
        "user": "ann",
    }
    return TaskSubmitted(**{**fields, "role": "tester", "kind": "task", "labels": {"a": "ü"}, **changes})


def completed(task_id: str, **changes: Any) -> TaskCompleted:
    fields: dict[str, Any] = {
        "task_id": task_id, "tenant": "acme", "user": "ann", "kind": "task", "role": "tester", "labels": {"a": "ü"},
        "status": TaskStatus.SUCCEEDED, "answer": plain("whole"), "finish_reason": "stop", "provider": "ollama",
        "model": "phi3", "node": "n1", "simulated": True, "served_from": ServedFrom.ATTEMPT, "cost_nanodollars": 7,
        "usage": Usage(input_tokens=1, output_tokens=2, cached_input_tokens=3, searches=4), "attempts": 2,
        "model_ms": 1.5, "trail": (TrailStep(at=1_001, step="dispatched", provider="ollama", reason="local first"),),
        "policy_version": "v1", "home_partition": 4, "privacy": Privacy.SENSITIVE, "lane": Lane.BATCH,
        "submitted_at": 1_000, "completed_at": 2_000,
    }  # fmt: skip
    return TaskCompleted(**{**fields, **changes})


class Feed:
    """Hands events to the store as a projection does."""

    def __init__(self, store: ViewStore) -> None:
        self.store = store
        self.next: dict[TopicPartition, int | None] = {}

    async def __call__(self, *events: TaskSubmitted | TaskCompleted | HistoryChanged, partition: int = 4) -> None:
        batch: list[tuple[Record, Any]] = []
        after = dict(self.next)
        for event in events:
            topic = TOPIC_OF[type(event)]
            place = TopicPartition(topic.topic, partition)
            offset = after.get(place) or 0
            batch.append((Record(place.topic, place.partition, offset, 0, b"route", b""), event))
            after[place] = offset + 1
        moves = {
            each: moving(self.next.get(each), following)
            for each, following in after.items()
            if following is not None and following != self.next.get(each)
        }
        await self.store.apply(batch, moves)
        self.next = after


async def test_forged_tasks_have_no_row_and_no_second_dead_letter(postgres_dsn: str) -> None:
    known = keys()
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        producers = verification(known, patience_seconds=1.0)
        store, history = ViewStore(database, NoDeadLetters(), producers=producers), History(database)
        headers = [*(each.headers for each in FORGERIES.values()), *TAKEN.values(), signed(NEW)]
        batch: list[tuple[Record, Any]] = []
        for number, sign in enumerate(headers):
            signature = tuple(sign(SUBMITTED.topic, b"route", b"v"))
            record = Record(SUBMITTED.topic, SUBMITTED.partition, number, 0, b"route", b"v", signature)
            batch.append((record, submitted(f"t{number}")))
        asyncio.get_running_loop().call_later(0.2, known.update, {NEW: access_key(NEW)})
        await store.apply(batch, {SUBMITTED: moving(None, len(batch))})
        found = {number for number in range(len(headers)) if await history.get("acme", f"t{number}") is not None}
        assert found == set(range(len(FORGERIES), len(headers)))
        assert (await store.positions([SUBMITTED]))[SUBMITTED].next_offset == len(headers)


async def test_a_key_is_taken_by_one_of_many(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        keys = IdempotencyKeys(database)
        mine = [Taken(f"t{number}", "d", 1_000 + number, number, accepted=False) for number in range(12)]
        found = await asyncio.gather(*(keys.take("acme", "k", each) for each in mine))
        (winner,) = (each for each, earlier in zip(mine, found, strict=True) if earlier is None)
        assert all(earlier == winner for earlier in found if earlier is not None)
        assert await keys.take("other", "k", mine[0]) is None
        await keys.mark_accepted("acme", "k", winner.task_id)
        again = await keys.take("acme", "k", mine[0])
        assert again is not None
        assert again.accepted


@pytest.mark.parametrize(
    "order", [("submitted", "completed"), ("completed", "submitted"), ("both",), ("both backwards",)]
)
async def test_the_view_is_the_same_in_whichever_order_events_come(postgres_dsn: str, order: Sequence[str]) -> None:
    task = submitted("t", model="phi3", reply_partition=2, deadline_at=9_000, session="s", subject="p")
    end = completed("t", session="s", subject="p", failure=Failure(code="c", message="m"))
    batches: dict[str, tuple[TaskSubmitted | TaskCompleted, ...]] = {
        "submitted": (task,), "completed": (end,), "both": (task, end, task, end), "both backwards": (end, task),
    }  # fmt: skip
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        feed, history = Feed(ViewStore(database, NoDeadLetters())), History(database)
        for name in order:
            await feed(*batches[name])
        stored = await history.get("acme", "t")
        assert stored is not None
        assert document(stored.view) == document(with_completion(of_submission(task), end))
        assert (stored.route_key, stored.home_partition, stored.reply_partition) == (b"route", 4, 2)
        assert await history.get("other", "t") is None
        assert await history.get("acme", "u\0") is None


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"cache_write_5m_tokens": 200},
        {"cache_write_1h_tokens": 100},
        {"cached_input_tokens": 3, "cache_write_5m_tokens": 5, "cache_write_1h_tokens": 7, "searches": 1},
        {"cache_write_5m_tokens": 2**40, "cache_write_1h_tokens": 2**62},
    ],
)
async def test_the_history_shows_every_count_of_the_usage(postgres_dsn: str, counts: dict[str, int]) -> None:
    used = Usage(input_tokens=1_000, output_tokens=10, **counts)
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        await Feed(ViewStore(database, NoDeadLetters()))(submitted("t"), completed("t", usage=used))
        stored = await History(database).get("acme", "t")
        assert stored is not None
        assert stored.view.usage == used
        (listed,), _ = await History(database).page("acme", Filter())
        assert listed.usage == used


@pytest.mark.parametrize(
    "vectors",
    [
        (),
        (Content(data=b"\0\0\x80?"),),
        (Content(data=bytes(range(256)) * 12),) * 300,
        (Content(cipher="key-1", data=b"\xff\0sealed"), Content(data=b"\0\0\x80?")),
    ],
    ids=["none", "one", "many", "sealed"],
)
async def test_the_history_keeps_vectors_bit_by_bit(postgres_dsn: str, vectors: tuple[Content, ...]) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        await Feed(ViewStore(database, NoDeadLetters()))(submitted("t"), completed("t", embeddings=vectors))
        stored = await History(database).get("acme", "t")
        assert stored is not None
        assert stored.view.embeddings == vectors
        (listed,), _ = await History(database).page("acme", Filter())
        assert listed.embeddings == ()


async def test_a_view_with_rows_gets_the_columns_and_an_older_release_still_writes(postgres_dsn: str) -> None:
    old_row = (
        "INSERT INTO intake.tasks (task_id, tenant, home_partition, user_name, kind, labels, submitted_at, status, "
        "completed_at, input_tokens, output_tokens, cached_input_tokens, searches) "
        "VALUES ($1, 'acme', 0, '', 'task', '{}', 1, 'succeeded', 2, 10, 20, 5, 0)"
    )
    await MIGRATIONS.upgrade(postgres_dsn, "0001")
    connection = await asyncpg.connect(postgres_dsn)
    try:
        await connection.execute(old_row, "before")
        await MIGRATIONS.upgrade(postgres_dsn)
        await connection.execute(old_row, "during-the-rollout")
        async with prepared(postgres_dsn, MIGRATIONS) as database:
            listed, _ = await History(database).page("acme", Filter())
        assert [(view.task_id, view.usage) for view in listed] == [
            (name, Usage(input_tokens=10, output_tokens=20, cached_input_tokens=5))
            for name in ("during-the-rollout", "before")
        ]
        await MIGRATIONS.downgrade(postgres_dsn, "0001")
        assert await connection.fetchval("SELECT sum(cached_input_tokens) FROM intake.tasks") == 10
    finally:
        await connection.close()


async def test_a_task_that_has_not_ended_is_accepted(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        await Feed(ViewStore(database, NoDeadLetters()))(submitted("t"))
        stored = await History(database).get("acme", "t")
        assert stored is not None
        assert document(stored.view) == document(of_submission(submitted("t")))


async def test_the_first_end_counts_and_another_tenant_cannot_touch_it(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        feed, history = Feed(ViewStore(database, NoDeadLetters())), History(database)
        await feed(submitted("t", reply_partition=1))
        await feed(submitted("t", tenant="evil", reply_partition=5), completed("t", tenant="evil", node="evil"))
        await feed(completed("t", node="first"))
        await feed(completed("t", node="second"))
        stored = await history.get("acme", "t")
        assert stored is not None
        assert (stored.view.node, stored.reply_partition) == ("first", 1)
        assert await history.get("evil", "t") is None


async def test_positions_move_with_the_rows_or_not_at_all(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        store, history = ViewStore(database, NoDeadLetters()), History(database)
        assert await store.positions([SUBMITTED]) == {}
        await store.apply([], {SUBMITTED: moving(None, 5)})
        assert await store.positions([SUBMITTED, COMPLETED]) == {SUBMITTED: at(5)}
        late = [(Record(SUBMITTED.topic, 4, 5, 0, b"k", b""), submitted("t"))]
        for moves in (
            {SUBMITTED: moving(4, 6)},
            {SUBMITTED: moving(None, 6)},
            {SUBMITTED: moving(5, 6), COMPLETED: moving(1, 2)},
        ):
            with pytest.raises(PartitionsLost):
                await store.apply(late, moves)
        assert await store.positions([SUBMITTED]) == {SUBMITTED: at(5)}
        assert await history.get("acme", "t") is None
        await store.apply(late, {SUBMITTED: moving(5, 6), COMPLETED: moving(None, 1)})
        assert await store.positions([SUBMITTED, COMPLETED]) == {SUBMITTED: at(6), COMPLETED: at(1)}


async def test_what_cannot_be_a_row_is_put_aside_and_passed_over(postgres_dsn: str) -> None:
    dead_letters = KeptDeadLetters()

    async with prepared(postgres_dsn, MIGRATIONS) as database:
        feed = Feed(ViewStore(database, dead_letters))
        await feed(submitted("x" * 500), submitted("t", role="a\0b", session="s" * 3_000, labels={"\0": "\0"}))
        assert [(record.offset, type(error)) for record, error in dead_letters.kept] == [(0, NotAViewRow)]
        stored = await History(database).get("acme", "t")
        assert stored is not None
        assert stored.view.role == "a\ufffdb"


@pytest.mark.parametrize("in_one_batch", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "other_tenant"),
    [
        (submitted("t"), submitted("t"), False),
        (completed("t"), completed("t", home_partition=1), False),
        (submitted("t"), completed("t", home_partition=1), False),
        (submitted("t"), submitted("t", tenant="umbra"), True),
        (completed("t"), completed("t", home_partition=1, tenant="umbra"), True),
    ],
)
async def test_an_id_of_two_tasks_is_reported(
    postgres_dsn: str,
    first: TaskSubmitted | TaskCompleted,
    second: TaskSubmitted | TaskCompleted,
    other_tenant: bool,
    in_one_batch: bool,
) -> None:
    found: list[TaskIdReused] = []
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        store = ViewStore(database, NoDeadLetters(), found.append)
        feed = Feed(store)
        if in_one_batch:
            topics = [
                SUBMITTED.topic if isinstance(event, TaskSubmitted) else COMPLETED.topic for event in (first, second)
            ]
            places = [TopicPartition(topic, partition) for topic, partition in zip(topics, (4, 1), strict=True)]
            records = [Record(place.topic, place.partition, 0, 0, b"route", b"") for place in places]
            await store.apply(
                list(zip(records, (first, second), strict=True)), {place: moving(None, 1) for place in places}
            )
        else:
            await feed(first)
            await feed(first)
            assert not found, "an event that is read again is of the same task"
            await feed(second, partition=1)
        assert found == [TaskIdReused("t", 4, 1, other_tenant)]


async def test_pages_hold_every_task_once_newest_first(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        feed, history = Feed(ViewStore(database, NoDeadLetters())), History(database)
        # Several share a millisecond, so the id must decide.
        await feed(*(submitted(f"t{number:02}", submitted_at=1_000 + number // 4) for number in range(23)))
        seen: list[str] = []
        after: After | None = None
        while True:
            views, after = await history.page("acme", Filter(limit=5, after=after))
            seen.extend(view.task_id for view in views)
            if after is None:
                break
        assert seen == sorted(seen, reverse=True)
        assert len(seen) == 23


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ["d", "c", "b", "a"]),
        (Filter(status="succeeded"), ["b"]),
        (Filter(status="accepted"), ["d", "c", "a"]),
        (Filter(role="writer"), ["c"]),
        (Filter(kind="odd"), ["a"]),
        (Filter(session="s"), ["d"]),
        (Filter(user="ann"), ["d", "c", "b"]),
        (Filter(user=""), ["a"]),
        (Filter(since=2_000, until=4_000), ["c", "b"]),
        (Filter(role="tester", status="accepted", since=1_500), ["d"]),
    ],
)
async def test_filters(postgres_dsn: str, wanted: Filter, expected: list[str]) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        await Feed(ViewStore(database, NoDeadLetters()))(
            submitted("a", submitted_at=1_000, kind="odd", user=""),
            completed("b", submitted_at=2_000),
            submitted("c", submitted_at=3_000, role="writer"),
            submitted("d", submitted_at=4_000, session="s"),
            submitted("other", tenant="other"),
        )
        views, after = await History(database).page("acme", wanted)
        assert [view.task_id for view in views] == expected
        assert after is None
        assert all(view.answer is None for view in views)


async def test_what_is_old_is_deleted(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        await Feed(ViewStore(database, NoDeadLetters()))(
            submitted("old", submitted_at=1_000), submitted("new", submitted_at=9_000)
        )
        keys = IdempotencyKeys(database)
        await keys.take("acme", "old", Taken("t", "d", 5_000, 0, accepted=True))
        await keys.take("acme", "new", Taken("t", "d", 9_500, 0, accepted=True))
        retention = Retention(database, lambda: 10_000, task_ms=5_000, key_ms=1_000)
        kinds = ("tasks", "turns", "conversations", "forgotten", "idempotency_keys", "files", "uploads", "batches")
        nothing = dict.fromkeys(kinds, 0)
        assert await retention.sweep() == {**nothing, "tasks": 1, "idempotency_keys": 1}
        assert await retention.sweep() == nothing
        history = History(database)
        assert await history.get("acme", "old") is None
        assert await history.get("acme", "new") is not None


async def test_without_postgres_everything_says_so_at_once() -> None:
    told: asyncio.Queue[Outage | None] = asyncio.Queue()
    database = database_at("postgresql://u:hidden@127.0.0.1:1/x", MIGRATIONS, on_change=told.put_nowait)
    waiting = asyncio.create_task(database.prepare())
    try:
        with pytest.raises(DatabaseAway):
            await History(database).get("acme", "t")
        with pytest.raises(TransientError):
            await ViewStore(database, NoDeadLetters()).positions([SUBMITTED])
        outage = await asyncio.wait_for(told.get(), 5)
        assert outage is not None
        assert outage.kind is OutageKind.UNREACHABLE
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def change(kind: HistoryChangeKind, **fields: Any) -> HistoryChanged:
    return HistoryChanged(**{"change_id": "c1", "tenant": "acme", "kind": kind, "changed_at": 3_000, **fields})


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_what_is_forgotten_is_gone_in_whichever_order_the_topics_are_read(
    postgres_dsn: str, order: tuple[int, ...], together: bool
) -> None:
    said = (Message(role="user", content=plain("my number is 4711")),)
    events: list[Any] = [
        submitted("t", messages=said, turn=Turn()),
        completed("t", answer=plain("4711 is yours"), choices=(AnswerChoice(finish_reason="stop"),)),
        change(HistoryChangeKind.TURN_FORGOTTEN, task_id="t"),
    ]
    other = submitted("t2", tenant="other", messages=said, turn=Turn())
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        feed = Feed(ViewStore(database, NoDeadLetters()))
        await feed(other, change(HistoryChangeKind.TURN_FORGOTTEN, task_id="t2"))
        in_order = [events[place] for place in order]
        if together:
            await feed(*in_order)
        else:
            for event in in_order:
                await feed(event)
        await feed(*events)  # read once more
        async with database.connection() as connection:
            turns = await connection.fetch("SELECT task_id, said FROM intake.turns")
            tasks = await connection.fetch("SELECT * FROM intake.tasks WHERE task_id = 't'")
        assert [row["task_id"] for row in turns] == ["t2"], "another tenant cannot let it be forgotten"
        assert "4711" not in str([dict(row) for row in tasks])
        assert tasks[0]["status"] == "succeeded"


async def test_a_conversation_is_as_its_last_change_says(postgres_dsn: str) -> None:
    said = (Message(role="user", content=plain("hello")),)
    conversation: Any = {"conversation": "conv"}
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        dead_letters = KeptDeadLetters()
        feed = Feed(ViewStore(database, dead_letters))
        made = change(HistoryChangeKind.CONVERSATION_SET, labels={"a": "1"}, **conversation)
        changed = change(HistoryChangeKind.CONVERSATION_SET, labels={"a": "2"}, changed_at=4_000, **conversation)
        added = change(HistoryChangeKind.MESSAGES_ADDED, messages=said, **conversation)
        await feed(made, changed, added, submitted("t", messages=said, turn=Turn(conversation="conv")))
        async with database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM intake.conversations")
            turns = await connection.fetch("SELECT task_id FROM intake.turns ORDER BY task_id")
        assert row is not None
        assert (row["labels"], row["created_at"], row["changed_at"], row["deleted"]) == (
            '{"a": "2"}',
            3_000,
            4_000,
            False,
        )
        assert [turn["task_id"] for turn in turns] == ["c1.0000", "t"]
        await feed(change(HistoryChangeKind.CONVERSATION_DELETED, changed_at=5_000, **conversation), made)
        await feed(made)  # nobody makes a deleted one again
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT deleted FROM intake.conversations")
            assert await connection.fetchval("SELECT array_agg(task_id) FROM intake.turns") == ["t"]
        assert not dead_letters.kept
        for kind, fields in (
            (HistoryChangeKind.UNKNOWN, {}),
            (HistoryChangeKind.CONVERSATION_SET, {}),
            (HistoryChangeKind.MESSAGES_ADDED, {"conversation": "x" * 201, "messages": said}),
            (HistoryChangeKind.TURN_FORGOTTEN, {"task_id": "a\0b"}),
        ):
            await feed(change(kind, **fields))
        assert len(dead_letters.kept) == 4
