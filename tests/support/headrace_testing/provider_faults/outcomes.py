"""What comes of a fault: through the real client, the real worker and its reports."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_contracts import events, topics
from headrace_contracts.content import plain
from headrace_models.ports import ModelInfo, ProviderStatus
from headrace_models.worker.endpoint import Endpoint

from headrace_testing.provider_faults.faults import PROMPT, SILENCE, Fault
from headrace_testing.provider_faults.upstream import FakeUpstream, Request
from headrace_testing.provider_faults.wires import Wire
from headrace_testing.workers import WorkerBench, attempt

FIRST_TOKEN_SECONDS = 0.6
BETWEEN_TOKENS_SECONDS = 0.5
CALL_SECONDS = 1.5
"""Short where silence is what is tried, so that the whole table takes seconds; elsewhere PATIENT_SECONDS, so that a
busy machine changes nothing."""
PATIENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to.

    Attributes:
        finished, usages: Its reports.
        busy: Slots that are still taken.
        pieces: The text that was streamed.
    """

    finished: events.AttemptFinished
    usages: tuple[events.UsageRecorded, ...]
    busy: int
    pieces: str
    requests: tuple[Request, ...]


async def outcome_of(fault: Fault, wire: Wire) -> Outcome | None:
    """Run one attempt against the fault; None if this wire cannot show it."""
    script = fault.script(wire)
    if script is None:
        return None
    async with FakeUpstream(script) as upstream:
        client = wire.client(fault.address(upstream.url))
        try:
            return await _run(client, wire, upstream, short=fault.group == SILENCE)
        finally:
            await client.close()


async def _run(client: object, wire: Wire, upstream: FakeUpstream, *, short: bool) -> Outcome:
    bench = WorkerBench()
    await bench.prepare()
    endpoint = Endpoint(client, slots=1)  # type: ignore[arg-type]
    endpoint.seen(ProviderStatus(True, "", (ModelInfo(wire.model, loaded=True),), 1.0, "1"))
    runner = bench.runner(
        [endpoint],
        first_token_seconds=FIRST_TOKEN_SECONDS if short else PATIENT_SECONDS,
        between_tokens_seconds=BETWEEN_TOKENS_SECONDS if short else PATIENT_SECONDS,
        call_seconds=CALL_SECONDS if short else PATIENT_SECONDS,
    )
    request = attempt(
        provider=wire.provider,
        model=wire.model,
        messages=(events.Message(role="user", content=plain(PROMPT)),),
        stream=True,
        reply_partition=0,
    )
    await runner.handle(bench.submit(request))
    (finished,) = bench.read(topics.ATTEMPTS_FINISHED)
    replies = bench.read(topics.TASKS_REPLIES)
    return Outcome(
        finished=finished,
        usages=tuple(bench.read(topics.USAGE_RECORDED)),
        busy=endpoint.busy,
        pieces="".join(reply.text.data.decode() for reply in replies if reply.text is not None),
        requests=tuple(upstream.requests),
    )
