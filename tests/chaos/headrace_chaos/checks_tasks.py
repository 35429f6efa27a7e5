"""Promises to submitters of tasks: nothing lost, nothing ended twice, nothing invented, nothing leaked."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from headrace_chaos import journal_rule
from headrace_chaos.evidence import Claim, Evidence, Seen, Told, Value, Violation, prompt_of, text_of

CLOUD = ("work.cloud.interactive", "work.cloud.batch")
LOCAL = ("work.local.interactive", "work.local.batch")
TOLD = ("attempts.cancelled.local", "attempts.cancelled.cloud")
OUTCOMES = {"attempts.finished": LOCAL, "attempts.finished.cloud": CLOUD}
"""Topics of outcomes, each with those of the work that it is about."""
OWN_PROVIDER = "ollama"


def violations(evidence: Evidence) -> Iterator[Violation]:
    """All checks."""
    yield from _lost(evidence)
    yield from _ended_twice(evidence)
    yield from _invented(evidence)
    yield from _run_twice_for_one_key(evidence)
    yield from _against_the_journal(evidence)
    yield from _attempts(evidence)
    yield from _leaked(evidence)
    yield from _shown_otherwise(evidence)
    yield from _dead_letters(evidence)


def _values(records: Iterable[Seen]) -> Iterator[Value]:
    return (record.value for record in records if record.value is not None)


def _completed(evidence: Evidence) -> dict[str, Value]:
    return {value["task_id"]: value for value in _values(evidence.of("tasks.completed"))}


def _lost(evidence: Evidence) -> Iterator[Violation]:
    submitted = {value["task_id"] for value in _values(evidence.of("tasks.submitted"))}
    ended = _completed(evidence).keys()
    for claim in evidence.claims:
        if claim.told is Told.ACCEPTED and claim.task_id not in submitted:
            yield Violation("accepted but not on disk", f"{claim.task_id} ({claim.via})")
        if claim.told is Told.ACCEPTED and claim.task_id not in ended:
            yield Violation("task lost", f"{claim.task_id} ({claim.via}, {claim.privacy}) was accepted and never ended")
    accepted = {claim.task_id for claim in evidence.claims if claim.told is Told.ACCEPTED}
    for task_id in sorted(submitted - ended - accepted):
        yield Violation("task lost", f"{task_id} is in tasks.submitted and never ended")


def _ended_twice(evidence: Evidence) -> Iterator[Violation]:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for record in evidence.of("tasks.completed"):
        if record.value is not None:
            place = f"{record.partition}/{record.offset} {record.value['status']}"
            places[record.value["task_id"]].append(place)
    for task_id, found in places.items():
        if len(found) > 1:
            yield Violation("two terminal states", f"{task_id} at {', '.join(found)}")


def _invented(evidence: Evidence) -> Iterator[Violation]:
    nonces = {claim.nonce for claim in evidence.claims}
    cancelled = {value["task_id"] for value in _values(evidence.of("tasks.cancelled"))}
    submitted: dict[str, Value] = {}
    for task in _values(evidence.of("tasks.submitted")):
        submitted[task["task_id"]] = task
        if nonces.isdisjoint(prompt_of(task).split()):
            yield Violation("submitted by no client", task["task_id"])
    completed = _completed(evidence)
    for task_id, result in completed.items():
        if task_id not in submitted:
            yield Violation("completed but never submitted", task_id)
        elif result["tenant"] != submitted[task_id]["tenant"]:
            yield Violation("completed for another tenant", task_id)
        if result["status"] == "cancelled" and task_id not in cancelled:
            yield Violation("cancelled without a request", task_id)
        if result["status"] == "succeeded" and not text_of(result["answer"]):
            yield Violation("succeeded without an answer", task_id)
        source = result["source_task_id"]
        if source is not None:
            yield from _served_from(task_id, result, source, completed.get(source))


def _served_from(task_id: str, result: Value, source_id: str, source: Value | None) -> Iterator[Violation]:
    if source is None or source["tenant"] != result["tenant"]:
        yield Violation("answer of an unknown task", f"{task_id} from {source_id}")
    elif result["status"] == "succeeded" and text_of(source["answer"]) != text_of(result["answer"]):
        yield Violation("answer differs from its source's", f"{task_id} from {source_id}")


def _run_twice_for_one_key(evidence: Evidence) -> Iterator[Violation]:
    tasks: defaultdict[str, set[str]] = defaultdict(set)
    keyed = {claim.nonce: claim for claim in evidence.claims if claim.idempotency_key}
    for task in _values(evidence.of("tasks.submitted")):
        for nonce in keyed.keys() & set(prompt_of(task).split()):
            tasks[nonce].add(task["task_id"])
    for nonce, ids in tasks.items():
        if len(ids) > 1:
            yield Violation("one Idempotency-Key, several tasks", f"{keyed[nonce].idempotency_key}: {sorted(ids)}")
    for claim in keyed.values():
        if claim.told is Told.ACCEPTED and claim.task_id not in tasks[claim.nonce]:
            yield Violation("one Idempotency-Key, several tasks", f"{claim.idempotency_key}: told {claim.task_id}")


def _against_the_journal(evidence: Evidence) -> Iterator[Violation]:
    reading = journal_rule.read(evidence.of("tasks.journal"))
    commanded: set[tuple[str, str]] = set()
    results: dict[str, Value] = {}
    for record in reading.counting:
        entry = record.value
        assert entry is not None
        commanded.update((command["topic"], command["event_id"]) for command in entry["commands"])
        if entry["kind"] != "decision" or entry["state"] is None or entry.get("cause") == "replaced":
            continue
        task_id, result = entry["task_id"], entry["state"]["result"]
        if task_id in results and result != results[task_id]:
            yield Violation("a finished task continued", f"{task_id} at {record.partition}/{record.offset}")
        elif result is not None:
            results[task_id] = result
    for topic in (*LOCAL, *CLOUD, *TOLD, "tasks.completed"):
        for record in evidence.of(topic):
            if (topic, record.event_id) not in commanded:
                yield Violation("not commanded", f"{topic} {record.partition}/{record.offset} {record.event_id}")
    for record in evidence.of("tasks.replies"):
        if record.value is not None and record.value["kind"] == "finished":
            if ("tasks.replies", record.event_id) not in commanded:
                yield Violation("not commanded", f"tasks.replies {record.event_id}")
            if record.value["result"] != results.get(record.value["task_id"]):
                yield Violation("not what the journal decided", f"tasks.replies {record.event_id}")
    for task_id, result in _completed(evidence).items():
        if result != results.get(task_id):
            yield Violation("not what the journal decided", f"tasks.completed {task_id}")
    once_written = ("tasks.completed", *TOLD)
    written = {(topic, record.event_id) for topic in once_written for record in evidence.of(topic)}
    for topic, event_id in sorted(commanded):
        if topic in once_written and (topic, event_id) not in written:
            yield Violation("commanded but never written", event_id)


def _attempts(evidence: Evidence) -> Iterator[Violation]:
    asked = {value["attempt_id"] for topic in (*LOCAL, *CLOUD) for value in _values(evidence.of(topic))}
    told = {(value["task_id"], value["tenant"]) for topic in TOLD for value in _values(evidence.of(topic))}
    costed = {
        (value["attempt_id"], value["execution_id"])
        for value in _values(evidence.of("usage.recorded"))
        if value["outcome"] != "lost"
    }
    last: dict[str, Value] = {}
    for topic, work in OUTCOMES.items():
        asked_there = {value["attempt_id"] for of_work in work for value in _values(evidence.of(of_work))}
        for finished in _values(evidence.of(topic)):
            last[finished["attempt_id"]] = finished
            if finished["attempt_id"] not in asked:
                yield Violation("an attempt without a request", finished["attempt_id"])
            elif finished["attempt_id"] not in asked_there:
                yield Violation("an outcome in the topic of other workers", f"{topic} {finished['attempt_id']}")
            if finished["outcome"] == "cancelled" and (finished["task_id"], finished["tenant"]) not in told:
                yield Violation("stopped and not told to", finished["attempt_id"])
    for usage in _values(evidence.of("usage.recorded")):
        if usage["attempt_id"] not in asked:
            yield Violation("usage of an attempt without a request", usage["attempt_id"])
    for attempt_id, finished in last.items():
        # A node is named if a model was called. A worker that dies between the two records leaves an execution without
        # usage, but then another one follows.
        if finished["node"] is not None and (attempt_id, finished["execution_id"]) not in costed:
            yield Violation("an attempt without usage", attempt_id)


def _leaked(evidence: Evidence) -> Iterator[Violation]:
    sensitive = {claim.nonce for claim in evidence.claims if claim.privacy == "sensitive"}
    private = {
        value["task_id"]
        for value in _values(evidence.of("tasks.submitted"))
        if value["privacy"] == "sensitive" or not sensitive.isdisjoint(prompt_of(value).split())
    }
    for topic in CLOUD:
        for request in _values(evidence.of(topic)):
            if (
                request["privacy"] == "sensitive"
                or request["task_id"] in private
                or not sensitive.isdisjoint(prompt_of(request).split())
            ):
                yield Violation("sensitive content on a cloud topic", f"{topic} {request['attempt_id']}")
    for topic in (*OUTCOMES, "usage.recorded", "tasks.completed"):
        for value in _values(evidence.of(topic)):
            if value["task_id"] in private and value["provider"] not in (OWN_PROVIDER, None):
                yield Violation("sensitive task at a cloud provider", f"{topic} {value['task_id']}")
    for nonce in sorted(sensitive & evidence.sent_to_cloud):
        yield Violation("sensitive content at a cloud provider", nonce)


def _shown_otherwise(evidence: Evidence) -> Iterator[Violation]:
    completed = _completed(evidence)
    for task_id, shown in evidence.view.items():
        result = completed.get(task_id)
        if shown is None:
            yield Violation("the history misses a task", task_id)
        elif result is not None:
            differing = [
                name for name in ("status", "provider", "model", "usage", "cost_nanodollars", "attempts")
                if shown[name] != result[name]
            ]  # fmt: skip
            if "answer" in shown and (shown["answer"] or "") != text_of(result["answer"]):
                differing.append("answer")
            if differing:
                yield Violation("the history differs from the topic", f"{task_id}: {', '.join(differing)}")


def _dead_letters(evidence: Evidence) -> Iterator[Violation]:
    for topic in sorted(evidence.topics):
        if topic.endswith(".dlq"):
            for record in evidence.of(topic):
                if record.value is not None:
                    reason = f"{record.value['error_type']}: {record.value['error_message']}"
                    yield Violation("a valid record was dead-lettered", f"{topic} {reason}")


def claims_by_task(claims: Iterable[Claim]) -> dict[str, Claim]:
    """The claims that name a task."""
    return {claim.task_id: claim for claim in claims if claim.task_id}
