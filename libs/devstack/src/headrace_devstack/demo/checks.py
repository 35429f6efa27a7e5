"""Checks whether the run kept Headrace's promises. Pure: each check takes the observations and reports its finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from headrace_contracts.events import ServedFrom
from headrace_models.local_servers import LOCAL_PROVIDERS

from headrace_devstack.demo.agent_figures import findings_rows, loop_figures
from headrace_devstack.demo.measure import cost_by_tenant
from headrace_devstack.demo.outcomes import JobOutcome, RunEvidence, SkillExchange
from headrace_devstack.demo.tool_loops import flaws_of_loops


@dataclass(frozen=True, slots=True)
class DemoCheck:
    """A promise, whether it was kept, and the finding."""

    promise: str
    kept: bool
    found: str


def all_checks(
    outcomes: Sequence[JobOutcome], evidence: RunEvidence, exchange: SkillExchange, unread: Sequence[str] = ()
) -> tuple[DemoCheck, ...]:
    """All checks; `unread` lists records that could not be decoded, which makes the other evidence incomplete."""
    return (
        _readable(unread),
        _accepted(outcomes, evidence),
        _one_end_each(evidence),
        _agents_and_topics_agree(outcomes, evidence),
        _answered(outcomes),
        _loops_whole(outcomes, evidence),
        _findings_valid(outcomes),
        _no_sensitive_attempt_for_the_cloud(evidence),
        _sensitive_answered_at_home(outcomes, evidence),
        *_nothing_sensitive_received(outcomes, evidence),
        _costs_agree(evidence),
        _skills_arrived(exchange),
    )


def _readable(unread: Sequence[str]) -> DemoCheck:
    found = f"{len(unread)} could not be decoded, such as {unread[0]}" if unread else "none failed to decode"
    return DemoCheck("every record read for these checks can be decoded", not unread, found)


def _accepted(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> DemoCheck:
    asked = sum(len(outcome.rounds) for outcome in outcomes)
    known = [task_id for outcome in outcomes for task_id in outcome.task_ids]
    submitted = [one.task_id for one in evidence.submitted]
    lost = set(known) - set(submitted)
    twice = _repeated(submitted)
    strangers = set(submitted) - set(known)
    refused = asked - len(known) + sum(not outcome.rounds for outcome in outcomes)
    kept = not (lost or twice or strangers or refused) and len(set(known)) == len(known)
    found = f"{len(set(known))} of {asked} tasks of {len(outcomes)} jobs accepted, {len(lost)} missing"
    if twice or strangers:
        found += f", {len(twice)} present twice, {len(strangers)} unknown to all agents"
    return DemoCheck("each job became one task, with tools one a round, in tasks.submitted once", kept, found)


def _one_end_each(evidence: RunEvidence) -> DemoCheck:
    ends = Counter(end.task_id for end in evidence.completions)
    submitted = {one.task_id for one in evidence.submitted}
    missing = submitted - ends.keys()
    several = [task_id for task_id, count in ends.items() if count > 1]
    unknown = ends.keys() - submitted
    found = f"{len(ends)} ended of {len(submitted)}; missing {len(missing)}, with several ends {len(several)}"
    if unknown:
        found += f", ends of unknown tasks {len(unknown)}"
    for name, ids in (("missing", sorted(missing)), ("several ends", sorted(several))):
        if ids:
            found += f"; {name}: {', '.join(ids[:3])}"
    kept = bool(submitted) and not (missing or several or unknown)
    return DemoCheck("each task has exactly one terminal state in tasks.completed", kept, found)


def _agents_and_topics_agree(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> DemoCheck:
    answered = {end.task_id for end in evidence.completions if end.answer is not None}
    seen = [one for outcome in outcomes for one in outcome.rounds]
    differ = [one for one in seen if one.task_id is not None and one.answered != (one.task_id in answered)]
    found = f"{len(seen) - len(differ)} of {len(seen)} tasks agree"
    return DemoCheck("agents received what tasks.completed says", not differ, found)


def _answered(outcomes: Sequence[JobOutcome]) -> DemoCheck:
    without = [outcome for outcome in outcomes if not outcome.answered]
    found = f"{len(outcomes) - len(without)} of {len(outcomes)}"
    if without:
        reasons = Counter(outcome.problem for outcome in without)
        found += "; " + "; ".join(f"{count} times {reason}" for reason, count in reasons.most_common(3))
    return DemoCheck("every job was answered", not without, found)


def _loops_whole(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> DemoCheck:
    flaws = flaws_of_loops(outcomes, evidence)
    loops = loop_figures(outcomes)
    found = f"{loops.calls} calls in {loops.loops} loops, {len(flaws)} flaws"
    if flaws:
        found += f", such as: {flaws[0]}"
    return DemoCheck(
        "every tool call has its result in the next round, in order, before the last answer", not flaws, found
    )


def _findings_valid(outcomes: Sequence[JobOutcome]) -> DemoCheck:
    rows = findings_rows(outcomes)
    invalid = [outcome.invalid for outcome in outcomes if outcome.invalid]
    # An answer that is neither a report, nor declined, nor known to be wrong, went missing on the way.
    missing = [
        outcome for outcome in outcomes
        if outcome.job.structured and outcome.answered and outcome.report is None and not outcome.declined
    ]  # fmt: skip
    found = (
        f"{sum(row.reports for row in rows)} reports with {sum(sum(row.by_severity.values()) for row in rows)} findings"
    )
    found += f", {len(invalid)} invalid, {len(missing)} missing"
    if invalid:
        found += f"; {invalid[0]}"
    return DemoCheck("every structured answer is of the form asked for", not invalid and not missing, found)


def _no_sensitive_attempt_for_the_cloud(evidence: RunEvidence) -> DemoCheck:
    leaks = [attempt for attempt in evidence.cloud_attempts if attempt.sensitive]
    found = f"{len(leaks)} sensitive among {len(evidence.cloud_attempts)} attempts on work.cloud.*"
    return DemoCheck("no sensitive attempt on the topics of the cloud", not leaks, found)


def _sensitive_answered_at_home(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> DemoCheck:
    sensitive = {task_id for outcome in outcomes if outcome.job.marker is not None for task_id in outcome.task_ids}
    ends = [end for end in evidence.completions if end.task_id in sensitive]
    away = [end for end in ends if end.provider is not None and end.provider not in LOCAL_PROVIDERS]
    lowered = [end for end in ends if end.privacy.value != "sensitive"]
    found = f"{len(ends)} sensitive tasks, {len(away)} answered elsewhere, {len(lowered)} with a lower level"
    return DemoCheck("sensitive tasks were answered on our own nodes only", not away and not lowered, found)


def _nothing_sensitive_received(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> tuple[DemoCheck, ...]:
    received = evidence.received
    promise = "no sensitive byte reached a cloud provider"
    if received is None:
        # Only a real provider itself could tell what it received; the two checks above rely on the topics alone.
        return ()
    away = {provider: count for provider, count in received.hits.items() if provider not in LOCAL_PROVIDERS and count}
    found = ", ".join(f"{provider} {count}" for provider, count in sorted(received.hits.items())) or "no provider"
    found = f"requests with a marker of a sensitive file: {found}"
    if not received.complete:
        found += "; the simulator had to discard older requests"
    expected = _sent_home(outcomes, evidence)
    arrived = sum(count for provider, count in received.hits.items() if provider in LOCAL_PROVIDERS)
    return (
        DemoCheck(promise, not away and received.complete, found),
        DemoCheck(
            "the markers do arrive where they may, so the check above can fail",
            arrived >= expected,
            f"{arrived} at our own nodes, at least {expected} expected",
        ),
    )


def _sent_home(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> int:
    sensitive = {task_id for outcome in outcomes if outcome.job.marker is not None for task_id in outcome.task_ids}
    return sum(1 for end in evidence.completions if end.task_id in sensitive and end.served_from is ServedFrom.ATTEMPT)


def _costs_agree(evidence: RunEvidence) -> DemoCheck:
    tasks = cost_by_tenant(evidence.completions)
    differ = sorted(tenant for tenant in tasks if tasks[tenant] != evidence.ledger.get(tenant))
    total, ledger = sum(tasks.values()), sum(evidence.ledger.values())
    found = f"tasks ${total / 1e9:.9f}, ledger ${ledger / 1e9:.9f}"
    if differ:
        found += f"; different for {', '.join(differ)}"
    return DemoCheck(
        "tasks and ledger agree on every tenant's cost, to the nano-dollar", bool(tasks) and not differ, found
    )


def _skills_arrived(exchange: SkillExchange) -> DemoCheck:
    arrived = Counter((delivery.skill, delivery.receiver) for delivery in exchange.deliveries)
    missing = exchange.expected - arrived.keys()
    several = [pair for pair, count in arrived.items() if count > 1]
    strangers = arrived.keys() - exchange.expected
    found = f"{len(arrived)} of {len(exchange.expected)} deliveries of {len(exchange.publish_ms)} skills"
    if several or strangers:
        found += f", {len(several)} repeated, {len(strangers)} to agents that did not follow its domain"
    if exchange.problems:
        found += f"; {exchange.problems[0]}"
    kept = not (missing or several or strangers or exchange.problems)
    return DemoCheck("every skill reached every agent that follows its domain, once", kept, found)


def _repeated(values: Sequence[str]) -> set[str]:
    return {value for value, count in Counter(values).items() if count > 1}
