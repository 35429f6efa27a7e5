"""Which answers are stored for all partitions, and which tasks they may serve.

The cache of a partition is a fold over its journal: it holds what is in that journal anyway. Stored answers leave their
partition, last longer, and are in another place, so less may be there: nothing sensitive, ever.
"""

from __future__ import annotations

from dataclasses import replace

from headrace_contracts.events import Privacy, TaskCompleted, TaskState, TaskSubmitted

from headrace_router.decide.answer_policy import answer_version
from headrace_router.decide.equality import equality_digest
from headrace_router.decide.model import DecisionContext, Equal, StoredAnswer
from headrace_router.decide.raising import content_raises, highest
from headrace_router.decide.routes import role_name, rules_of
from headrace_router.decide.sharing import may_be_kept


def may_be_stored(end: TaskCompleted, digest: str) -> bool:
    """Whether the end of a task with this digest may be stored."""
    return bool(digest) and end.privacy is not Privacy.SENSITIVE and may_be_kept(end)


def for_storing(end: TaskCompleted) -> TaskCompleted:
    """What of an end is stored: the answer and where it came from, not who asked."""
    return replace(
        end, user="", key_id=None, kind="chat", role=None, session=None, subject=None, labels={}, trail=()
    )  # fmt: skip


def digest_to_look_up(task: TaskSubmitted, context: DecisionContext) -> str:
    """The digest under which a stored answer may serve a task; empty if none may, or none is needed.

    The decision does not believe it: by then rules, policy and peers may be others, and it computes its own.
    """
    if not task.allow_cached or not context.policy.cache.stored_ttl or not context.switches.has("cache", context.now):
        return ""
    rules = rules_of(task, context, floor=highest(content_raises(task, context.policy)))
    if rules.objection is not None or rules.privacy is Privacy.SENSITIVE:
        return ""
    digest = equality_digest(task, rules, answer_version(context.policy, role_name(task, context.policy)))
    equal = context.peers.equal_to(digest, context.now)
    return digest if equal.answer is None and equal.leader is None else ""


def known_answer(state: TaskState, stored: StoredAnswer | None, context: DecisionContext) -> Equal:
    """What is known of tasks equal to a new one: in its partition, and else among the stored answers."""
    equal = context.peers.equal_to(state.digest, context.now)
    if equal.answer is not None or stored is None or not _may_serve(stored, state, context):
        return equal
    return Equal(equal.leader, stored.end)


def _may_serve(stored: StoredAnswer, state: TaskState, context: DecisionContext) -> bool:
    end, now = stored.end, context.now
    return (
        stored.digest == state.digest
        and state.task is not None
        and end.tenant == state.task.tenant
        # The digest holds the level too. Said again, because what it prevents cannot be undone.
        and end.privacy is state.privacy
        and state.privacy is not Privacy.SENSITIVE
        and end.completed_at <= now < end.completed_at + context.policy.cache.stored_ttl
        and may_be_kept(end)
    )
