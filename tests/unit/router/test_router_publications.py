"""What commands hold: it follows from the journal entry alone."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_contracts.content import text_of
from headrace_contracts.events import (
    AttemptRequested,
    AttemptsCancelled,
    AuditRecorded,
    CommandKind,
    EntryKind,
    JournalEntry,
    Lane,
    Mode,
    Outcome,
    Privacy,
    ReplyKind,
    Sampling,
    ServedFrom,
    TaskCompleted,
    TaskReply,
)
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_router.decide.model import Decision, Equal
from headrace_router.decide.publications import publication
from headrace_streams.publishing import Publication
from headrace_testing.routing import CLOUD, NOW, TASK_ID, Desk, NoPeers, preferences


def publications(decision: Decision, decided_at: int = NOW, tokens: ReplyTokens | None = None) -> list[Publication]:
    entry = JournalEntry(
        kind=EntryKind.DECISION,
        task_id=TASK_ID,
        state=decision.state,
        commands=decision.commands,
        policy_version="v1",
        decided_at=decided_at,
    )
    # As after a restart: only what the journal keeps is known.
    entry = JournalEntry.from_avro(entry.to_avro())
    return [publication(entry, command, tokens) for command in entry.commands]


def of(kind: type[Any], made: list[Publication]) -> Publication:
    (found,) = [item for item in made if isinstance(item.event, kind)]
    return found


def test_an_attempt_holds_the_conversation_under_the_roles_prompt() -> None:
    desk = Desk()
    made = publications(desk.submit(role="code_reviewer", session="s", user="eve", stream=True, reply_partition=2))
    sent = of(AttemptRequested, made)
    request: AttemptRequested = sent.event
    assert (sent.spec.name, sent.key, sent.partition) == ("work.local.batch", b"key", None)
    assert (sent.event_id, sent.tenant, sent.subject, sent.time_ms) == (f"{TASK_ID}/1", "acme", TASK_ID, NOW)
    assert [message.role for message in request.messages] == ["system", "user"]
    assert "defects" in text_of(request.messages[0].content)
    assert (request.attempt_id, request.number, request.home_partition) == (f"{TASK_ID}/1", 1, 3)
    assert (request.stream, request.reply_partition, request.session, request.user) == (True, 2, "s", "eve")
    # The report of an attempt that ran out of time is to come before the router abandons it.
    assert request.deadline_at == NOW + desk.policy.attempts.timeout.batch - 2_000
    assert request.policy_version == "v1"


@pytest.mark.parametrize(("session", "ordered"), [("s", True), (None, False)])
def test_attempts_keep_an_order_within_a_session_only(session: str | None, ordered: bool) -> None:
    desk = Desk()
    made = publications(desk.submit(session=session))
    assert of(AttemptRequested, made).ordered is ordered
    assert of(AttemptRequested, made).key, "equal prompts still share a key"
    assert all(each.ordered for each in publications(desk.end(Outcome.ANSWERED), NOW + 1))


def test_a_named_model_without_a_role_gets_no_system_prompt() -> None:
    request = of(AttemptRequested, publications(Desk().submit(model="phi3:3.8b"))).event
    assert [message.role for message in request.messages] == ["user"]


def test_a_cloud_attempt_has_a_bound() -> None:
    desk = Desk(fleet=CLOUD)
    made = publications(desk.submit(privacy=Privacy.PUBLIC, lane=Lane.INTERACTIVE, sampling=Sampling(temperature=0.2)))
    sent = of(AttemptRequested, made)
    assert sent.spec.name == "work.cloud.interactive"
    assert sent.event.sampling == Sampling(temperature=0.2, max_output_tokens=4096)
    assert sent.event.worst_case_nanodollars > 0


def test_no_attempt_outlives_its_task() -> None:
    request = of(AttemptRequested, publications(Desk().submit(deadline_at=NOW + 5000))).event
    assert request.deadline_at == NOW + 5000


def test_an_end_goes_to_its_home_partition_and_to_whoever_waits() -> None:
    desk = Desk()
    desk.submit(reply_partition=5)
    made = publications(desk.end(Outcome.ANSWERED), NOW + 1)
    completed, reply = of(TaskCompleted, made), of(TaskReply, made)
    assert (completed.spec.name, completed.key, completed.partition) == ("tasks.completed", b"key", 3)
    assert (reply.spec.name, reply.key, reply.partition) == ("tasks.replies", TASK_ID.encode(), 5)
    assert reply.event.kind is ReplyKind.FINISHED
    assert reply.event.result == completed.event
    assert (completed.event_id, reply.event_id) == (f"{TASK_ID}/completed", f"{TASK_ID}/reply")


@pytest.mark.parametrize(
    ("desk", "fields", "topic"),
    [
        (Desk(), {}, "attempts.cancelled.local"),
        (Desk(), {"privacy": Privacy.SENSITIVE, "user": "eve", "labels": {"a": "b"}}, "attempts.cancelled.local"),
        (Desk(fleet=CLOUD), {"privacy": Privacy.PUBLIC, "session": "s"}, "attempts.cancelled.cloud"),
    ],
)
def test_workers_are_told_of_a_cancellation_and_of_nothing_else(desk: Desk, fields: dict[str, Any], topic: str) -> None:
    desk.submit(**fields)
    sent = of(AttemptsCancelled, publications(desk.cancel(), NOW + 5))
    assert (sent.spec.name, sent.key, sent.partition) == (topic, b"key", None)
    assert (sent.event_id, sent.subject) == (f"{TASK_ID}/cancelled/{topic.rpartition('.')[2]}", TASK_ID)
    assert sent.event == AttemptsCancelled(task_id=TASK_ID, tenant="acme", cancelled_at=NOW)


def test_a_restart_names_the_attempt_that_begins() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC, stream=True, reply_partition=5)
    reply = of(TaskReply, publications(desk.end(Outcome.FAILED_PERMANENT)))
    assert (reply.event.kind, reply.event.attempt, reply.event.result) == (ReplyKind.RESTARTED, 2, None)
    assert reply.partition == 5


@pytest.mark.parametrize(
    ("desk", "fields", "action", "allowed", "reason"),
    [
        (Desk(), {}, "dispatch", True, "internal content, on local nodes; 1.6 GB"),
        (Desk(fleet=CLOUD), {"privacy": Privacy.PUBLIC}, "dispatch", True, "public content"),
        (
            Desk(fleet=CLOUD, tenant=preferences(allowed_providers=("groq",))), {}, "dispatch", True,
            "internal content, provider named in the preferences",
        ),
        (Desk(), {"mode": Mode.CLOUD}, "refuse", False, "no_consent: anthropic/claude-haiku-4-5: internal content"),
    ],
)  # fmt: skip
def test_the_audit_says_who_asked_for_what_and_why(
    desk: Desk, fields: dict[str, Any], action: str, allowed: bool, reason: str
) -> None:
    decision = desk.submit(user="eve", key_id="k1", subject="jane", **fields)
    sent = of(AuditRecorded, publications(decision))
    audit: AuditRecorded = sent.event
    assert (audit.action, audit.allowed) == (action, allowed)
    assert audit.reason.startswith(reason)
    assert (audit.tenant, audit.user, audit.key_id, audit.subject) == ("acme", "eve", "k1", "jane")
    assert audit.attempt_id == (f"{TASK_ID}/1" if allowed else None)
    assert (sent.key, audit.event_id, audit.policy_version) == (b"acme", sent.event_id, "v1")


def test_the_audit_of_a_second_attempt_tells_its_own_reason() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    audit = of(AuditRecorded, publications(desk.end(Outcome.FAILED_PERMANENT))).event
    assert (audit.provider, audit.reason, audit.attempt_id) == ("groq", "public content", f"{TASK_ID}/2")


def test_serving_a_kept_answer_is_audited() -> None:
    source = Desk()
    source.submit(task_id="source")
    result = source.end(Outcome.ANSWERED, task_id="source").state.result
    made = publications(Desk(peers=NoPeers(Equal(answer=result))).submit())
    audit = of(AuditRecorded, made).event
    assert (audit.action, audit.provider, audit.event_id) == ("serve_cached", "ollama", f"{TASK_ID}/serve_cached")
    assert "source" in audit.reason
    assert of(TaskCompleted, made).event.served_from is ServedFrom.CACHE


def test_every_command_names_the_topic_its_record_goes_to() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC, stream=True, reply_partition=5)
    desk.end(Outcome.FAILED_PERMANENT)
    desk.end(Outcome.ANSWERED)
    for decision in desk.decisions:
        for command, made in zip(decision.commands, publications(decision), strict=True):
            assert (command.topic, command.event_id) == (made.spec.name, made.event_id)
            assert isinstance(made.event, made.spec.record)
            assert isinstance(command.kind, CommandKind)


TOKENS = ReplyTokens("the secret of an installation")


def test_each_attempt_of_a_stream_has_a_token_of_its_own_and_the_routers_replies_another() -> None:
    desk = Desk()
    made = publications(desk.submit(privacy=Privacy.PUBLIC, stream=True, reply_partition=5), tokens=TOKENS)
    assert of(AttemptRequested, made).event.reply_token == TOKENS.of_attempt("acme", TASK_ID, 1)
    made = publications(desk.end(Outcome.FAILED_PERMANENT), tokens=TOKENS)
    assert of(AttemptRequested, made).event.reply_token == TOKENS.of_attempt("acme", TASK_ID, 2)
    assert of(TaskReply, made).event.reply_token == TOKENS.of_router("acme", TASK_ID)
    made = publications(desk.end(Outcome.ANSWERED), tokens=TOKENS)
    assert of(TaskReply, made).event.reply_token == TOKENS.of_router("acme", TASK_ID)


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"reply_partition": 5}])
def test_an_attempt_whose_pieces_nobody_reads_has_no_token(fields: dict[str, Any]) -> None:
    made = publications(Desk().submit(**fields), tokens=TOKENS)
    assert of(AttemptRequested, made).event.reply_token is None


def test_without_a_secret_there_are_no_tokens() -> None:
    desk = Desk()
    assert of(AttemptRequested, publications(desk.submit(stream=True, reply_partition=5))).event.reply_token is None
    assert of(TaskReply, publications(desk.end(Outcome.ANSWERED))).event.reply_token is None


def test_who_waits_for_a_task_that_cannot_begin_is_told_what_it_waits_for() -> None:
    desk = Desk(fleet=())
    (word,) = publications(desk.submit(privacy=Privacy.SENSITIVE, reply_partition=2))
    reply: TaskReply = word.event
    assert (word.spec.name, word.partition, word.key) == ("tasks.replies", 2, TASK_ID.encode())
    assert (reply.kind, reply.attempt, reply.result) == (ReplyKind.WAITING, 0, None)
    assert [step.step for step in reply.trail[-1:]] == ["waited"]
    assert reply.trail[-1].reason.startswith("no_local_capacity: ollama/")
    assert Desk(fleet=()).submit(privacy=Privacy.SENSITIVE).commands == ()
