"""What intake measures beside the requests themselves."""

from __future__ import annotations

from headrace_runtime.metrics import Metrics


class IntakeMetrics:
    """All metrics of intake under `headrace_intake_`."""

    def __init__(self, metrics: Metrics) -> None:
        own = metrics.for_subsystem("intake")
        self.accept_seconds = own.latency("accept", "From handing a task to the producer to Kafka's acknowledgement.")
        self.accepted = own.counter("tasks_accepted", "Tasks that Kafka has acknowledged.", ("api",))
        self.not_accepted = own.counter("tasks_not_accepted", "Tasks that were refused or not taken.", ("reason",))
        self.replayed = own.counter("tasks_replayed", "Requests whose Idempotency-Key stood for an earlier task.")
        self.answer_seconds = own.latency("answer", "From accepting a task to its end.", ("status",))
        self.waiters = own.gauge("waiters", "Callers that wait for an answer or follow its events.")
        self.pending = own.gauge("pending_tasks", "Tasks that this process knows from accepting them.")
        self.pending_bytes = own.gauge("pending", "Text and results kept for them.", unit="bytes")
        self.reply_delay = own.latency("reply_delay", "From writing a reply to telling the caller: how replies lag.")
        self.unreadable_replies = own.counter("unreadable_replies", "Replies that could not be read.")
        self.rereaders = own.gauge("rereaders", "Callers whose events are read from the topic again.")
