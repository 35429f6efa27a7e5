"""The checker can fail: each test alters a correct history in one point, and the checker must report it."""

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import headrace_chaos
import pytest
from headrace_chaos import journal_rule
from headrace_chaos.checks import judge
from headrace_chaos.evidence import Claim, Evidence, Ledger, Told
from headrace_chaos.history import (
    AT,
    Topics,
    appended,
    changed,
    completed,
    honest,
    request,
    usage,
    with_topic,
    without,
)

Doctor = Callable[[Evidence], Evidence]


def rules(evidence: Evidence) -> set[str]:
    return {violation.rule for violation in judge(evidence).violations}


def entry_of(evidence: Evidence, task_id: str, number: int = 0) -> dict[str, Any]:
    found = [r for r in evidence.of("tasks.journal") if r.value is not None and r.value["task_id"] == task_id]
    return dict(found[number].value or {})


def test_an_honest_history_breaks_no_rule() -> None:
    judgement = judge(honest())
    assert judgement.violations == ()
    assert set(judgement.duplicates.values()) == {0}
    assert (judgement.tasks, judgement.ended, judgement.epochs) == (2, {"succeeded": 2}, 2)


def _lost(evidence: Evidence) -> Evidence:
    return without(evidence, "tasks.completed", lambda record: record.event_id == "t-cloud/completed")


def _never_on_disk(evidence: Evidence) -> Evidence:
    return replace(evidence, claims=(*evidence.claims, Claim("n3", "t3", "north", "public", "http", Told.ACCEPTED, AT)))


def _twice(evidence: Evidence) -> Evidence:
    return appended(evidence, "tasks.completed", "t-cloud/completed", completed("t-cloud", "groq"))


def _two_ends(evidence: Evidence) -> Evidence:
    other = completed("t-cloud", "groq", status="failed")
    return appended(evidence, "tasks.completed", "t-cloud/completed", other)


def _invented(evidence: Evidence) -> Evidence:
    return appended(evidence, "tasks.completed", "t9/completed", completed("t9", "groq"))


def _submitted_by_no_client(evidence: Evidence) -> Evidence:
    return replace(evidence, claims=[claim for claim in evidence.claims if claim.nonce != "n-cloud"])


def _not_cancelled(evidence: Evidence) -> Evidence:
    return changed(evidence, "tasks.completed", "t-cloud/completed", status="cancelled")


def _another_answer(evidence: Evidence) -> Evidence:
    return changed(evidence, "tasks.completed", "t-cloud/completed", answer={"cipher": "none", "data": b"Other."})


def _sensitive_in_the_cloud(evidence: Evidence) -> Evidence:
    return appended(evidence, "work.cloud.batch", "t-local/1", request("t-local", "n-local", "sensitive", "groq"))


def _sensitive_relabelled(evidence: Evidence) -> Evidence:
    return appended(evidence, "work.cloud.batch", "t-local/2", request("t-local", "n-local", "public", "groq"))


def _sensitive_at_a_provider(evidence: Evidence) -> Evidence:
    return replace(evidence, sent_to_cloud=frozenset({"n-local"}))


def _sensitive_used_by_a_provider(evidence: Evidence) -> Evidence:
    return changed(evidence, "usage.recorded", "t-local/1/x", provider="groq")


def _work_of_an_ignored_entry(evidence: Evidence) -> Evidence:
    """A zombie's decision, after a newer epoch start, was published."""
    zombie = {**entry_of(evidence, "t-local"), "commands": [{"topic": "work.local.batch", "event_id": "t-local/7"}]}
    evidence = appended(evidence, "tasks.journal", "zombie", zombie)
    return appended(evidence, "work.local.batch", "t-local/7", request("t-local", "n-local", "sensitive", "ollama"))


def _work_of_no_entry(evidence: Evidence) -> Evidence:
    return appended(evidence, "work.local.batch", "t-local/2", request("t-local", "n-local", "sensitive", "ollama"))


def _told_by_no_entry(evidence: Evidence) -> Evidence:
    told = {"task_id": "t-local", "tenant": "north"}
    return appended(evidence, "attempts.cancelled.local", "t-local/cancelled/local", told)


def _not_told(evidence: Evidence) -> Evidence:
    *before, last = evidence.of("tasks.journal")
    entry = last.value or {}
    command = {"topic": "attempts.cancelled.cloud", "event_id": "t-cloud/cancelled/cloud"}
    changed_entry = replace(last, value={**entry, "commands": [*entry["commands"], command]})
    return with_topic(evidence, "tasks.journal", [*before, changed_entry])


def _stopped_untold(evidence: Evidence) -> Evidence:
    return changed(evidence, "attempts.finished", "t-local/1/x", outcome="cancelled")


def _stopped_for_another_tenant(evidence: Evidence) -> Evidence:
    told = {"task_id": "t-local", "tenant": "south"}
    evidence = appended(evidence, "attempts.cancelled.local", "t-local/cancelled/local", told)
    return changed(evidence, "attempts.finished", "t-local/1/x", outcome="cancelled")


def _completion_not_written(evidence: Evidence) -> Evidence:
    evidence = without(evidence, "tasks.completed", lambda record: record.event_id == "t-local/completed")
    return replace(evidence, claims=[claim for claim in evidence.claims if claim.nonce != "n-local"])


def _went_on_after_its_end(evidence: Evidence) -> Evidence:
    last = evidence.of("tasks.journal")[-1].value
    assert last is not None
    on = {**last, "sequence": last["sequence"] + 1, "state": {"result": None}, "commands": []}
    return appended(evidence, "tasks.journal", "on", on)


def _attempt_without_request(evidence: Evidence) -> Evidence:
    finished = {**usage("t-local", "ollama"), "attempt_id": "t-local/5", "node": None}
    return appended(evidence, "attempts.finished", "t-local/5/x", finished)


def _attempt_without_usage(evidence: Evidence) -> Evidence:
    return without(evidence, "usage.recorded", lambda record: record.event_id == "t-cloud/1/x")


def _execution_without_usage(evidence: Evidence) -> Evidence:
    """The usage is that of an earlier execution."""
    last = {**usage("t-cloud", "groq"), "execution_id": "y", "node": "groq"}
    return appended(evidence, "attempts.finished.cloud", "t-cloud/1/y", last)


def _outcome_of_another_worker(evidence: Evidence) -> Evidence:
    """The cloud worker says how a local attempt ended."""
    (local,) = evidence.of("attempts.finished")
    return appended(evidence, "attempts.finished.cloud", "t-local/1/x", dict(local.value or {}))


def _redirect_followed(evidence: Evidence) -> Evidence:
    return replace(evidence, sent_elsewhere=1)


def _slot_lost(evidence: Evidence) -> Evidence:
    return replace(evidence, busy={**evidence.busy, "groq of cloud-worker-2": 1})


def _call_invented(evidence: Evidence) -> Evidence:
    return replace(evidence, calls={"n-local": 1})


def _call_costed_twice(evidence: Evidence) -> Evidence:
    again = {**usage("t-local", "ollama"), "execution_id": "y", "event_id": "t-local/1/y"}
    return appended(evidence, "usage.recorded", "t-local/1/y", again)


def _calls_forgotten(evidence: Evidence) -> Evidence:
    return replace(evidence, all_calls_kept=False)


def _two_tasks_for_a_key(evidence: Evidence) -> Evidence:
    task = dict(evidence.of("tasks.submitted")[0].value or {})
    return appended(evidence, "tasks.submitted", "t-second", {**task, "task_id": "t-second"})


def _shown_otherwise(evidence: Evidence) -> Evidence:
    view = dict(evidence.view)
    view["t-cloud"] = {**(view["t-cloud"] or {}), "status": "failed"}
    return replace(evidence, view=view)


def _not_shown(evidence: Evidence) -> Evidence:
    return replace(evidence, view={**evidence.view, "t-cloud": None})


def _dead_letter(evidence: Evidence) -> Evidence:
    letter = {"error_type": "UnreadableValue", "error_message": "?"}
    return appended(evidence, "tasks.submitted.dlq", "d", letter)


def _answer_of_an_unknown_task(evidence: Evidence) -> Evidence:
    return changed(evidence, "tasks.completed", "t-cloud/completed", source_task_id="t-unknown")


def _ledger(evidence: Evidence, **changes: Any) -> Evidence:
    return replace(evidence, ledger=replace(evidence.ledger, **changes))


def _row_twice(evidence: Evidence) -> Evidence:
    return _ledger(evidence, entries=[*evidence.ledger.entries, evidence.ledger.entries[0]])


def _row_missing(evidence: Evidence) -> Evidence:
    return _ledger(evidence, entries=evidence.ledger.entries[:1], balances=evidence.ledger.balances[:1])


def _row_invented(evidence: Evidence) -> Evidence:
    return without(evidence, "usage.recorded", lambda record: record.event_id == "t-cloud/1/x")


def _one_nano_dollar_less(evidence: Evidence) -> Evidence:
    rows = [{**row, "cost_nanodollars": max(0, row["cost_nanodollars"] - 1)} for row in evidence.ledger.entries]
    balances = [{**row, "cost_nanodollars": max(0, row["cost_nanodollars"] - 1)} for row in evidence.ledger.balances]
    return _ledger(evidence, entries=rows, balances=balances)


def _balance_off(evidence: Evidence) -> Evidence:
    balances = [{**row, "executions": 2} for row in evidence.ledger.balances]
    return _ledger(evidence, balances=balances)


def _position_behind(evidence: Evidence) -> Evidence:
    return _ledger(evidence, positions=[{"topic": "headrace.usage.recorded", "partition": 0, "next_offset": 1}])


def _skill_lost(evidence: Evidence) -> Evidence:
    return changed(evidence, "skills.catalog", "s1", digest="d9")


def _skill_forked(evidence: Evidence) -> Evidence:
    return appended(
        evidence, "skills.catalog", "s3", {**(evidence.of("skills.catalog")[1].value or {}), "digest": "d3"}
    )


def _missing_in_feed(evidence: Evidence) -> Evidence:
    return without(evidence, "skills.feed", lambda record: record.offset == 1)


def _told_under_two_ids(evidence: Evidence) -> Evidence:
    return appended(evidence, "skills.feed", "another-id", dict(evidence.of("skills.feed")[0].value or {}))


@pytest.mark.parametrize(
    ("doctor", "rule"),
    [
        (_lost, "task lost"),
        (_lost, "commanded but never written"),
        (_never_on_disk, "accepted but not on disk"),
        (_twice, "two terminal states"),
        (_two_ends, "two terminal states"),
        (_invented, "completed but never submitted"),
        (_submitted_by_no_client, "submitted by no client"),
        (_not_cancelled, "cancelled without a request"),
        (_another_answer, "not what the journal decided"),
        (_sensitive_in_the_cloud, "sensitive content on a cloud topic"),
        (_sensitive_relabelled, "sensitive content on a cloud topic"),
        (_sensitive_at_a_provider, "sensitive content at a cloud provider"),
        (_sensitive_used_by_a_provider, "sensitive task at a cloud provider"),
        (_work_of_an_ignored_entry, "not commanded"),
        (_work_of_no_entry, "not commanded"),
        (_told_by_no_entry, "not commanded"),
        (_not_told, "commanded but never written"),
        (_stopped_untold, "stopped and not told to"),
        (_stopped_for_another_tenant, "stopped and not told to"),
        (_completion_not_written, "task lost"),
        (_went_on_after_its_end, "a finished task continued"),
        (_attempt_without_request, "an attempt without a request"),
        (_attempt_without_usage, "an attempt without usage"),
        (_two_tasks_for_a_key, "one Idempotency-Key, several tasks"),
        (_shown_otherwise, "the history differs from the topic"),
        (_not_shown, "the history misses a task"),
        (_execution_without_usage, "an attempt without usage"),
        (_outcome_of_another_worker, "an outcome in the topic of other workers"),
        (_redirect_followed, "content at a redirect's target"),
        (_slot_lost, "a slot is taken though all has ended"),
        (_call_invented, "use of a call that no provider has seen"),
        (_call_costed_twice, "use of a call that no provider has seen"),
        (_calls_forgotten, "the providers' record of calls is not complete"),
        (_dead_letter, "a valid record was dead-lettered"),
        (_answer_of_an_unknown_task, "answer of an unknown task"),
        (_row_twice, "booked twice"),
        (_row_missing, "usage not booked"),
        (_row_invented, "booked without usage"),
        (_one_nano_dollar_less, "booked other than used"),
        (_balance_off, "balance is not the sum of its entries"),
        (_position_behind, "ledger at another offset"),
        (_skill_lost, "skill lost"),
        (_skill_forked, "two skills of one version"),
        (_missing_in_feed, "a skill missing in the feed"),
        (_told_under_two_ids, "a skill in the feed under two ids"),
    ],
)
def test_a_doctored_history_is_recognised(doctor: Doctor, rule: str) -> None:
    assert rule in rules(doctor(honest()))


def test_recognisable_repeats_are_counted_and_allowed() -> None:
    evidence = honest()
    evidence = appended(evidence, "work.local.batch", "t-local/1", request("t-local", "n-local", "sensitive", "ollama"))
    last = evidence.of("tasks.replies")[-1]
    evidence = appended(evidence, "tasks.replies", last.event_id, dict(last.value or {}))
    # A worker died before it could record the usage of its execution, so that another one followed.
    again = {**usage("t-local", "ollama"), "execution_id": "y", "node": "a-node"}
    first = replace(evidence.of("attempts.finished")[0], event_id="t-local/1/y", value=again)
    evidence = with_topic(evidence, "attempts.finished", [first, *evidence.of("attempts.finished")])
    judgement = judge(evidence)
    assert judgement.violations == ()
    assert {kind: n for kind, n in judgement.duplicates.items() if n} == {"work": 1, "replies": 1, "executions": 1}


def test_journal_entries_count_only_in_their_places() -> None:
    topics = Topics()
    topics.epoch_start("router-1")
    topics.decide("a", None)
    first = topics.entry("late", None, ())
    topics.epoch_start("router-2")
    topics.decide("b", None)
    topics.add("tasks.journal", "zombie", first)  # of the older epoch, after the newer epoch start
    topics.decide("c", None)  # the owner does not know yet that its epoch has ended
    topics.epoch_start("router-2")
    topics.decide("d", None)
    gap = topics.entry("e", None, ())
    topics.add("tasks.journal", "gap", {**gap, "sequence": gap["sequence"] + 1})  # one before it was lost
    reading = journal_rule.read(topics.records["tasks.journal"])
    assert [(record.value or {})["task_id"] for record in reading.counting] == ["a", "b", "d"]
    assert [(record.value or {})["task_id"] for record in reading.ignored] == ["late", "c", "e"]
    assert reading.epoch_starts == 3


def test_a_ledger_without_usage_and_a_topic_without_ledger_are_both_wrong() -> None:
    assert "usage not booked" in rules(replace(honest(), ledger=Ledger()))
    assert "booked without usage" in rules(with_topic(honest(), "usage.recorded", []))


def test_the_checker_shares_no_code_with_the_services() -> None:
    folder = Path(next(iter(headrace_chaos.__path__)))
    checker = ("evidence", "journal_rule", "money", "checks", "checks_tasks", "checks_money", "checks_providers",
               "checks_skills", "wire",
               "collect", "recovery", "watching")  # fmt: skip
    for name in checker:
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = {
            alias.name if isinstance(node, ast.Import) else node.module or ""
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        foreign = {one for one in imported if one.startswith("headrace") and not one.startswith("headrace_chaos")}
        assert not foreign, f"{name} imports {foreign}"
