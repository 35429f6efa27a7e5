"""Promises about providers, whatever they do: content goes where it may, no use is invented, no slot is lost."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from headrace_chaos.evidence import Evidence, Violation, prompt_of


def violations(evidence: Evidence) -> Iterator[Violation]:
    """All checks."""
    if evidence.sent_elsewhere:
        yield Violation("content at a redirect's target", f"{evidence.sent_elsewhere} requests")
    if not evidence.all_calls_kept:
        yield Violation("the providers' record of calls is not complete", "a check of it could pass for that reason")
    for where, busy in evidence.busy.items():
        if busy:
            yield Violation("a slot is taken though all has ended", f"{where}: {busy}")
    yield from _invented(evidence)


def _invented(evidence: Evidence) -> Iterator[Violation]:
    """Tokens are booked only of calls that a provider has seen; equal prompts share their nonce, and their calls."""
    nonces = {claim.nonce for claim in evidence.claims}
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for record in evidence.of("tasks.submitted"):
        if record.value is not None:
            asked[record.value["task_id"]] = nonces & set(prompt_of(record.value).split())
    executions = {
        (record.value["attempt_id"], record.value["execution_id"]): record.value["task_id"]
        for record in evidence.of("usage.recorded")
        if record.value is not None and any(record.value["usage"][of] for of in ("input_tokens", "output_tokens"))
    }
    booked: Counter[str] = Counter()
    for task_id in executions.values():
        booked.update(asked[task_id])
    for nonce, times in booked.items():
        seen = evidence.calls.get(nonce, 0)
        if times > seen:
            yield Violation("use of a call that no provider has seen", f"{nonce}: {times} executions, {seen} calls")
