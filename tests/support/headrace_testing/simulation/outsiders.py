"""Other programs that write to the topics of tasks what intake would never take, and a cloud worker taken over."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from headrace_contracts import topics
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptFinished,
    Failure,
    Message,
    Outcome,
    Sampling,
    TaskCancelled,
    TaskSubmitted,
    Usage,
    UsageRecorded,
)
from headrace_contracts.topics import TopicSpec
from headrace_streams.publishing import Publication

from headrace_testing.simulation.chaos import PARTITIONS_AT_FIRST
from headrace_testing.simulation.plan import Fault
from headrace_testing.simulation.troubles import Trouble

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

FOREIGN: Final = "FOREIGN"
"""Marker in everything that must not be copied onward."""
_EVERY_SECONDS: Final = (0.5, 3.0, 15.0)
_NAN: Final = float("nan")
_TOO_LONG_KEY: Final = FOREIGN.encode() * 200

# With a usable id: the task ends as refused.
_REFUSED: Final[tuple[Callable[[TaskSubmitted], dict[str, Any]], ...]] = (
    lambda task: {"tenant": ""},
    lambda task: {"tenant": f"{FOREIGN}/acme"},
    lambda task: {"tenant": f"{FOREIGN}\x00"},
    lambda task: {"user": f"{FOREIGN}\x00"},
    lambda task: {"kind": ""},
    lambda task: {"session": f"{FOREIGN}\n"},
    lambda task: {"subject": FOREIGN * 40},
    lambda task: {"key_id": ""},
    lambda task: {"labels": {f"{FOREIGN}\x07": "x"}},
    lambda task: {"labels": {"x": f"{FOREIGN}\x00"}},
    lambda task: {"messages": ()},
    lambda task: {"messages": (Message(role=FOREIGN, content=plain("x")),)},
    lambda task: {"messages": (Message(role="user", content=replace(plain("x"), cipher=f"{FOREIGN}\x00")),)},
    lambda task: {"sampling": Sampling(temperature=_NAN)},
    lambda task: {"sampling": Sampling(temperature=float("inf"))},
    lambda task: {"sampling": Sampling(top_p=-1.0)},
    lambda task: {"sampling": Sampling(max_output_tokens=0)},
    lambda task: {"sampling": Sampling(stop=("",))},
    lambda task: {"submitted_at": task.submitted_at * 1000},
    lambda task: {"submitted_at": task.submitted_at // 1000},
    lambda task: {"deadline_at": task.submitted_at * 1000},
    lambda task: {"budget_nanodollars": -1},
    lambda task: {"reply_partition": -1},
    lambda task: {"role": None, "model": f"{FOREIGN}\x00"},
)
_UNUSABLE_IDS: Final = ("", f"{FOREIGN} task", f"{FOREIGN}/1", f"{FOREIGN}\x00", FOREIGN * 40, f"{FOREIGN}é")
_BAD_CANCELLATIONS: Final[tuple[dict[str, Any], ...]] = (
    {"task_id": ""},
    {"task_id": f"{FOREIGN}/1"},
    {"tenant": ""},
    {"requested_by": f"{FOREIGN}\x00"},
    {"reason": f"{FOREIGN}\x00"},
    {"requested_at": 0},
    {"requested_at": 1_790_000_000_000_000},
    {"home_partition": -1},
)
_BAD_USAGE: Final[tuple[dict[str, Any], ...]] = (
    {"event_id": ""},
    {"tenant": ""},
    {"usage": Usage(input_tokens=-1)},
    {"usage": Usage(output_tokens=2**62)},
)


# Of attempts that a cloud worker was not given.
_FORGED_REPORTS: Final[tuple[dict[str, Any], ...]] = (
    {"outcome": Outcome.ANSWERED, "content": plain(f"{FOREIGN} answer")},
    {"outcome": Outcome.REFUSED, "content": plain(f"{FOREIGN} refusal")},
    {"outcome": Outcome.CANCELLED},
    {"outcome": Outcome.EXPIRED},
    {"outcome": Outcome.FAILED_RETRYABLE, "failure": Failure(code="overloaded", message=FOREIGN)},
    {"outcome": Outcome.FAILED_PERMANENT, "failure": Failure(code="invalid_request", message=FOREIGN)},
    {"outcome": Outcome.FAILED_PERMANENT, "failure": Failure(code="answered_remotely", message=FOREIGN)},
)


class Outsiders(Trouble):
    """From the beginning to the end of the trouble they write such a record now and then."""

    fault = Fault.OUTSIDERS

    def __init__(self, rng: random.Random) -> None:
        # Its own, so that what the others write stays what it was.
        self._forger = random.Random()
        self._forger.setstate(rng.getstate())
        self._every = rng.choice(_EVERY_SECONDS)
        self._count = 0
        self._mended = False
        super().__init__(rng, f"outsiders wrote every {self._every} s")

    def begin(self, world: SimulatedWorld) -> None:
        self._go_on(world)

    def _go_on(self, world: SimulatedWorld) -> None:
        if self._mended:
            return
        world.cluster.client = "stranger"
        self.rng.choice((self._refused, self._refused, self._inadmissible, self._cancellation, self._usage))(world)
        self._report(world)
        world.loop.outside(self._every * self.rng.uniform(0.5, 1.5), self._go_on, world)

    def mend(self, world: SimulatedWorld) -> None:
        self._mended = True

    def _task(self, world: SimulatedWorld, **fields: Any) -> TaskSubmitted:
        self._count += 1
        good = TaskSubmitted(
            task_id=f"outsider-{self._count}",
            tenant="acme",
            messages=(Message(role="user", content=plain(f"{FOREIGN} question")),),
            submitted_at=world.now_ms(),
        )
        return replace(good, **fields)

    def _refused(self, world: SimulatedWorld) -> None:
        good = self._task(world)
        task = replace(good, **self.rng.choice(_REFUSED)(good))
        key = self.rng.choice((None, b"outsider", _TOO_LONG_KEY))
        if key == _TOO_LONG_KEY and self.rng.random() < 0.5:
            task = good
        world.judge.refused.add(task.task_id)
        self._write(world, topics.TASKS_SUBMITTED, task, key, fails=False)

    def _inadmissible(self, world: SimulatedWorld) -> None:
        task = self._task(world, task_id=self.rng.choice(_UNUSABLE_IDS))
        self._write(world, topics.TASKS_SUBMITTED, task, b"outsider", fails=True)

    def _cancellation(self, world: SimulatedWorld) -> None:
        good = TaskCancelled(task_id="outsider", tenant="acme", requested_at=world.now_ms())
        event = replace(good, **self.rng.choice(_BAD_CANCELLATIONS))
        self._write(world, topics.TASKS_CANCELLED, event, b"outsider", fails=True)

    def _usage(self, world: SimulatedWorld) -> None:
        good = UsageRecorded(
            event_id="outsider/1", tenant="acme", task_id="outsider", attempt_id="outsider/1",
            execution_id="outsider", provider="groq", model="llama-3.3-70b-versatile", outcome=Outcome.ANSWERED,
            usage=Usage(), recorded_at=world.now_ms(),
        )  # fmt: skip
        event = replace(good, **self.rng.choice(_BAD_USAGE))
        self._write(world, topics.USAGE_RECORDED, event, b"outsider", fails=True)

    def _report(self, world: SimulatedWorld) -> None:
        """As the cloud worker, say how one of the newest local attempts has ended."""
        local = [sent for (topic, _, _), (_, sent) in world.judge.topics.work.items() if topic.startswith("work.local")]
        if not local:
            return
        sent = self._forger.choice(local[-3:])
        report = AttemptFinished(
            attempt_id=sent.attempt_id, task_id=sent.task_id, tenant=sent.tenant, number=sent.number,
            home_partition=sent.home_partition, execution_id="forged", provider=sent.provider, model=sent.model,
            finished_at=world.now_ms(), **self._forger.choice(_FORGED_REPORTS),
        )  # fmt: skip
        world.clients.write(
            Publication(
                spec=topics.ATTEMPTS_FINISHED_CLOUD, event=report, event_id=f"{sent.attempt_id}/forged", key=b"forged",
                tenant=sent.tenant, time_ms=world.now_ms(), partition=sent.home_partition,
            ),
            forged=True,
        )  # fmt: skip

    def _write(self, world: SimulatedWorld, spec: TopicSpec, event: Any, key: bytes | None, *, fails: bool) -> None:
        event_id = self.rng.choice(("", f"{FOREIGN}\n", FOREIGN * 100, "outsider"))
        number = self.rng.randrange(PARTITIONS_AT_FIRST)
        world.clients.write(
            Publication(
                spec=spec, event=event, event_id=event_id, key=key, tenant="outsider", time_ms=world.now_ms(),
                partition=number,
            ),
            inadmissible=fails,
        )  # fmt: skip
