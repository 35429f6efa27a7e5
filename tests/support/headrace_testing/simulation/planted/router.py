"""Bugs of routing and of a router's state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_contracts import floors
from headrace_contracts.events import Privacy, TaskPhase, TaskState, TaskStatus
from headrace_router.decide import candidates, machine, publications, reports, routes, tasks
from headrace_router.decide.attempt_windows import OutNow
from headrace_router.decide.early_cancellations import EarlyCancellations
from headrace_router.decide.model import Submitted
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.live_bytes import LiveBytes
from headrace_router.partition import PartitionRouter
from headrace_router.reevaluation_queue import ReevaluationQueue
from headrace_router.supervisor import PartitionSupervisor
from headrace_router.timers import Timers
from headrace_runtime.producers import ProducerVerification
from headrace_streams import journal_reading

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _zombie_acts(patches: Patches) -> None:
    def acknowledge(self: Any, entry: Any, positions: Any, queued: float, since: int, done: Any) -> None:
        original(self, entry, positions, self._monotonic(), since, done)

    original = patches.put(PartitionRouter, "_acknowledge", acknowledge)


def _wake_up_lost(patches: Patches) -> None:
    patches.put(Timers, "set_all", lambda *_: None)


def _follower_forgotten(patches: Patches) -> None:
    patches.put(ReevaluationQueue, "add_leaderless_followers", lambda *_: None)


def _ended_forgotten(patches: Patches) -> None:
    patches.put(PartitionTasks, "has_ended", lambda *_: False)


def _submitted_again(patches: Patches) -> None:
    patches.put_key(
        machine.TRANSITIONS,  # type: ignore[arg-type]
        (TaskPhase.RUNNING, Submitted),
        lambda _state, event, context: machine._submit(None, event, context),
    )


def _loads_not_recovered(patches: Patches) -> None:
    def outline_of_task(task: Any) -> tuple[str, int]:
        return "", 0

    patches.put(journal_reading, "outline_of_task", outline_of_task)


def _same_attempt_number(patches: Patches) -> None:
    patches.put(routes, "attempt_id", lambda task_id, _number: f"{task_id}/1")


def _privacy_lowered(patches: Patches) -> None:
    def choose(state: Any, context: Any, not_now: Any = None) -> Any:
        if state.attempts:
            state = replace(state, privacy=Privacy.PUBLIC, task=replace(state.task, privacy=Privacy.PUBLIC))
        return original(state, context, not_now)

    original = patches.put(routes, "choose_for", choose)


def _consent_ignored(patches: Patches) -> None:
    def rules_for(*args: Any, **named: Any) -> Any:
        found = original(*args, **named)
        return replace(found, consented=frozenset({"groq", "anthropic"}))

    original = patches.put(routes, "rules_for", rules_for)


def _floor_ignored(patches: Patches) -> None:
    def demands_of_tenant(preferences: Any) -> Any:
        return replace(original(preferences), privacy=None, mode=None)

    original = patches.put(floors, "demands_of_tenant", demands_of_tenant)


def _user_before_tenant(patches: Patches) -> None:
    def rules_for(task: Any, role: Any, policy: Any, user: Any, tenant: Any, *rest: Any) -> Any:
        return original(task, role, policy, user, tenant if user is None else replace(user, user=""), *rest)

    original = patches.put(routes, "rules_for", rules_for)


def _raised_in_silence(patches: Patches) -> None:
    def rules_for(*args: Any, **named: Any) -> Any:
        return replace(original(*args, **named), objection=None)

    original = patches.put(routes, "rules_for", rules_for)


def _budget_ignored(patches: Patches) -> None:
    patches.put(candidates, "worst_case", lambda *_: 0)


def _cancelled_goes_on(patches: Patches) -> None:
    def apply(self: Any, task_id: str, state: Any) -> None:
        result = getattr(state, "result", None)
        if result is None or result.status is not TaskStatus.CANCELLED:
            original(self, task_id, state)

    original = patches.put(PartitionTasks, "apply", apply)


def _early_cancellation_forgotten(patches: Patches) -> None:
    patches.put(EarlyCancellations, "keep", lambda *_: None)


def _all_are_equal(patches: Patches) -> None:
    patches.put(machine, "equality_digest", lambda *_: "equal")


def _repeat_dispatches(patches: Patches) -> None:
    patches.put_key(
        machine.TRANSITIONS,  # type: ignore[arg-type]
        (TaskPhase.RUNNING, Submitted),
        lambda state, _event, context: routes.route(state, context),
    )


def _half_answer_cached(patches: Patches) -> None:
    patches.put(tasks, "may_be_kept", lambda result: result.status is TaskStatus.SUCCEEDED)


def _breach_unsaid(patches: Patches) -> None:
    patches.put(machine, "ANSWERED_REMOTELY", "never said")


def _forged_requests_taken(patches: Patches) -> None:
    patches.put(ProducerVerification, "check", lambda *_: None)


def _cloud_believed(patches: Patches) -> None:
    patches.put(machine, "may_report", lambda *_: True)


def _queueing_is_a_try(patches: Patches) -> None:
    patches.put(reports, "_may_have_asked", lambda _said: True)


def _sessions_unordered(patches: Patches) -> None:
    patches.put(publications, "_keeps_order", lambda _task: False)


def _ordered_without_session(patches: Patches) -> None:
    patches.put(publications, "_keeps_order", lambda _task: True)


def _memory_ignored(patches: Patches) -> None:
    patches.put(LiveBytes, "_add", lambda *_: None)


def _no_room_again(patches: Patches) -> None:
    patches.put(LiveBytes, "on_open", lambda *_: None)


def _put_aside_forgotten(patches: Patches) -> None:
    def put_aside(self: Any, record: Any) -> None:
        self._consumer.pause((self._submissions,))

    patches.put(PartitionSupervisor, "_put_aside", put_aside)


def _window_ignored(patches: Patches) -> None:
    patches.put(OutNow, "has_room", lambda *_: True)


def _window_never_reopens(patches: Patches) -> None:
    patches.put(PartitionTasks, "take_ready", lambda *_: ())


def _places_not_recovered(patches: Patches) -> None:
    def of_journal(self: Any, task_id: str, state: Any, *rest: Any) -> None:
        if not isinstance(state, TaskState):
            state = state._replace(work_topic=None)
        original(self, task_id, state, *rest)

    original = patches.put(PartitionTasks, "apply", of_journal)


BUGS = (
    Bug("sessions_unordered", "attempts of one session run beside each other", _sessions_unordered),
    Bug(
        "ordered_without_session", "attempts with equal prompts wait for each other", _ordered_without_session, hint=42
    ),
    Bug("zombie_acts", "a router that was frozen publishes on old acknowledgements", _zombie_acts, hint=125),
    Bug("wake_up_lost", "a recovered partition sets no timers", _wake_up_lost, hint=8),
    Bug("follower_forgotten", "followers of a leader that has ended are not notified", _follower_forgotten, hint=1),
    Bug("ended_forgotten", "a task submitted again after its end is run again", _ended_forgotten, hint=1),
    Bug("submitted_again", "a task submitted again while it runs is restarted", _submitted_again, hint=40),
    Bug(
        "loads_not_recovered", "a new owner does not count the live tasks that it finds", _loads_not_recovered, hint=186
    ),
    Bug("same_attempt_number", "a retry has the id of the attempt before it", _same_attempt_number, hint=1),
    Bug("privacy_lowered", "a retry forgets the privacy of its task", _privacy_lowered, hint=1),
    Bug("consent_ignored", "internal content goes to providers without consent", _consent_ignored, hint=7),
    Bug("floor_ignored", "what the tenant demands does not count", _floor_ignored, hint=4),
    Bug("user_before_tenant", "a user's preferences stand in place of the tenant's", _user_before_tenant, hint=4),
    Bug(
        "raised_in_silence", "a task that asks for less than its floor is run, at its floor", _raised_in_silence, hint=4
    ),
    Bug("budget_ignored", "no attempt is held against the task's budget", _budget_ignored, hint=8),
    Bug("cancelled_goes_on", "a cancelled task is remembered as it was before", _cancelled_goes_on, hint=14),
    Bug(
        "early_cancellation_forgotten",
        "a cancellation that overtakes its task is lost",
        _early_cancellation_forgotten,
        hint=6,
    ),
    Bug("forged_requests_taken", "whoever has written a request to cancel is believed", _forged_requests_taken, hint=4),
    Bug("all_are_equal", "an answer serves tasks that asked something else", _all_are_equal, hint=3),
    Bug(
        "half_answer_cached",
        "an answer that was cut off at its limit is served again later",
        _half_answer_cached,
        hint=140,
    ),
    Bug("breach_unsaid", "content that left to another host is not audited", _breach_unsaid, hint=70),
    Bug("cloud_believed", "a cloud worker is believed about local attempts", _cloud_believed, hint=4),
    Bug("queueing_is_a_try", "an attempt that asked nobody counts as a try", _queueing_is_a_try, hint=18),
    Bug("memory_ignored", "a router takes tasks beyond the memory that it may fill", _memory_ignored, hint=6),
    Bug("no_room_again", "a router that was full takes no task any more", _no_room_again, hint=6),
    Bug("put_aside_forgotten", "tasks that were read while there was no room are lost", _put_aside_forgotten, hint=6),
    Bug("window_ignored", "a tenant has any number of attempts out", _window_ignored, hint=196),
    Bug("window_never_reopens", "no task is told that its turn has come", _window_never_reopens, hint=219),
    Bug(
        "places_not_recovered", "a new owner does not count the attempts that are out", _places_not_recovered, hint=751
    ),
    Bug("repeat_dispatches", "a repeated submission sends another attempt out", _repeat_dispatches, hint=40),
)
