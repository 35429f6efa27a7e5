"""Sessions that stay sensitive, on the twin: over a kill, a journal read anew, and a change of partition."""

from __future__ import annotations

from typing import Any

from headrace_contracts.events import Privacy, TaskSubmitted
from headrace_contracts.ids import new_id
from headrace_contracts.topics import SESSIONS_SENSITIVE, TASKS_SUBMITTED
from headrace_router.decide.sensitive_sessions import session_mark
from headrace_testing.router_twin import Router, Twin, key_of, now_ms
from headrace_testing.routing import GROQ_NODE, LOCAL, task

MARK = session_mark("acme", "s")


def asking(text: str, **fields: Any) -> TaskSubmitted:
    return task(new_id(), text, **{"session": "s", "privacy": Privacy.PUBLIC, "submitted_at": now_ms(), **fields})


async def submit_to(twin: Twin, partition: int, submitted: TaskSubmitted) -> None:
    await twin.publish(TASKS_SUBMITTED, submitted, submitted.task_id, key_of(submitted), partition)
    await twin.until_completed([submitted])


def follow(twin: Twin, router: Router) -> None:
    """As the router's table of the topic does."""
    for session in twin.written(SESSIONS_SENSITIVE):
        router.world.session_changed(session.mark.hex(), session)


async def test_a_session_stays_sensitive_after_a_kill_and_in_another_partition() -> None:
    async with Twin(partitions=2) as twin:
        twin.nodes = {"groq": GROQ_NODE}
        twin.work()
        first = twin.router("r1")
        before = asking("Nothing of interest.")
        await submit_to(twin, 0, before)
        assert twin.requests[-1].provider == "groq", "only the cloud is there"
        twin.nodes["workstation"] = LOCAL
        first.world.node_changed("workstation", twin.nodes["workstation"])
        secret = asking("My diagnosis is", privacy=Privacy.SENSITIVE)
        await submit_to(twin, 0, secret)
        await twin.until(lambda: len(twin.written(SESSIONS_SENSITIVE)) > 0)
        assert [session.mark for session in twin.written(SESSIONS_SENSITIVE)] == [MARK]
        assert b"diagnosis" not in b"".join(
            record.value or b"" for record in twin.cluster.records("headrace.sessions.sensitive")
        )
        await first.kill()
        # Another process: it knows the session from the journal, before anybody tells it anything.
        twin.router("r2")
        after = asking("What did I just say?")
        await submit_to(twin, 0, after)
        assert twin.requests[-1].provider == "ollama"
        (end,) = twin.completed()[after.task_id]
        assert (end.privacy, end.trail[0].step) == (Privacy.SENSITIVE, "raised")
        # Its key leads to another partition, since some were added: that one has heard of it.
        follow(twin, twin.routers[-1])
        moved = asking("And what is it called?", model="groq/llama-3.3-70b-versatile")
        await submit_to(twin, 1, moved)
        (end,) = twin.completed()[moved.task_id]
        assert end.failure is not None
        assert end.failure.code == "privacy"
        assert all(request.provider == "ollama" for request in twin.requests[1:])
        assert {request.privacy for request in twin.requests[1:]} == {Privacy.SENSITIVE}
        other = asking("Another session.", session="t", model="groq/llama-3.3-70b-versatile")
        await submit_to(twin, 1, other)
        assert twin.requests[-1].provider == "groq"


async def test_what_could_not_be_told_is_told_again_until_it_is_seen() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        router = twin.router()
        await submit_to(twin, 0, asking("My diagnosis is", privacy=Privacy.SENSITIVE))
        await twin.until(lambda: len(twin.written(SESSIONS_SENSITIVE)) == 1)
        sessions = next(iter(router.service._membership.routers.values()))._state.sessions  # type: ignore[union-attr]
        assert sessions.untold(now_ms()) == [], "a moment ago"
        assert [mark for mark, _ in sessions.untold(now_ms() + 6_000)] == [MARK]
        follow(twin, router)
        assert sessions.untold(now_ms() + 12_000) == []
