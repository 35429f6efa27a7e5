"""Metrics of intake beyond those of HTTP requests."""

from __future__ import annotations

from headrace_runtime.metrics import Metrics


class IntakeMetrics:
    """All metrics of intake under `headrace_intake_`."""

    def __init__(self, metrics: Metrics) -> None:
        own = metrics.for_subsystem("intake")
        self.accept_seconds = own.latency("accept", "Time from producing a task to Kafka's acknowledgement.")
        self.accepted = own.counter("tasks_accepted", "Tasks acknowledged by Kafka.", ("api",))
        self.not_accepted = own.counter("tasks_not_accepted", "Tasks refused or not accepted.", ("reason",))
        self.replayed = own.counter("tasks_replayed", "Requests whose Idempotency-Key belonged to an earlier task.")
        self.hung_up = own.counter(
            "tasks_cancelled_on_disconnect", "Tasks cancelled since those who waited for them hung up."
        )
        self.answer_seconds = own.latency("answer", "Time from accepting a task to its end.", ("status",))
        self.waiters = own.gauge("waiters", "Callers waiting for an answer or following its events.")
        self.pending = own.gauge("pending_tasks", "Tasks accepted by this process and held in memory.")
        self.pending_limit = own.gauge("pending_limit", "Most text and results held in memory.", unit="bytes")
        self.pending_bytes = own.gauge("pending", "Text and results held in memory for those tasks.", unit="bytes")
        self.reply_delay = own.latency("reply_delay", "Time from writing a reply until it is dispatched to the caller.")
        self.unreadable_replies = own.counter("unreadable_replies", "Replies that could not be read.")
        self.rereaders = own.gauge("rereaders", "Callers served by reading the topic again.")
        self.task_ids_reused = own.counter("task_ids_reused", "Events of a task whose id another task has.")
