"""The cases of `ollama.sh`: the local worker whole, on a log in memory, with real Ollama servers as its nodes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

from headrace_contracts import events, topics
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Outcome
from headrace_runtime.logging import configure
from headrace_testing.worker_on_nodes import healthy_nodes, until, worker_on
from headrace_testing.workers import WorkerBench, attempt, now_ms

LONGEST_PROMPT_TRIED = 40_000
"""Tokens: of models that take more, it is not tried what they refuse."""


class Skipped(Exception):
    """The case needs what is not here; the text says what."""


class Wrong(Exception):
    """The case is not as it should be; the text says how."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """What the environment says."""

    urls: Sequence[str]
    model: str
    slots: int
    patience: float
    commands: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def names(self) -> Sequence[str]:
        return [f"node-{number}" for number in range(1, len(self.urls) + 1)]

    def listed(self, *numbers: int) -> Sequence[str]:
        """As in the worker's setting; all without numbers."""
        return [
            f"node-{number}={self.urls[number - 1]};slots={self.slots}"
            for number in numbers or range(1, len(self.urls) + 1)
        ]

    def document(self, number: int, path: str) -> Any:
        with urlopen(f"{self.urls[number - 1]}/{path}", timeout=10) as response:
            return json.load(response)

    async def control(self, number: int, *, start: bool) -> None:
        """Stop or start a node. Raises Wrong when its command fails."""
        process = await asyncio.create_subprocess_shell(self.commands[number][start])
        if await process.wait() != 0:
            raise Wrong(f"the command that {'starts' if start else 'stops'} node {number} failed")


def from_environment() -> Nodes:
    hosts = os.environ["OLLAMA_HOSTS"].replace(",", " ").split()
    urls = [(host if "://" in host else f"http://{host}").rstrip("/") for host in hosts]
    numbers = range(1, len(urls) + 1)
    commands = {
        number: (os.environ[f"OLLAMA_STOP_{number}"], os.environ[f"OLLAMA_START_{number}"])
        for number in numbers
        if os.environ.get(f"OLLAMA_STOP_{number}") and os.environ.get(f"OLLAMA_START_{number}")
    }
    model = os.environ.get("OLLAMA_MODEL", "gemma2:2b")
    slots, patience = int(os.environ.get("OLLAMA_SLOTS", "1")), float(os.environ.get("OLLAMA_PATIENCE", "300"))
    return Nodes(urls, model, slots, patience, commands)


class Case:
    """A bench of its own, and what cases do with it."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.bench = WorkerBench()

    def worker(self, listed: Sequence[str], **settings: Any) -> AbstractAsyncContextManager[object]:
        """The worker with these nodes."""
        return worker_on(self.bench, listed, look_seconds=1.0, **settings)

    def submit(self, number: int, name: str = "task", text: str = "Say hello in one word.", **more: Any) -> None:
        for each in range(number):
            values = {"model": self.nodes.model, "sampling": events.Sampling(max_output_tokens=16), **more}
            messages = (events.Message(role="user", content=plain(text)),)
            due = now_ms() + round(self.nodes.patience * 1000)
            key = str(values.get("session") or each).encode()
            self.bench.submit(attempt(f"{name}-{each}", messages=messages, deadline_at=due, **values), key=key)

    async def ends(self, number: int) -> Sequence[events.AttemptFinished]:
        def enough(found: list[Any]) -> bool:
            return len(found) >= number

        try:
            return await until(self.bench, topics.ATTEMPTS_FINISHED, enough, self.nodes.patience)
        except TimeoutError:
            there = len(self.bench.read(topics.ATTEMPTS_FINISHED))
            raise Wrong(f"{there} of {number} had ended after {self.nodes.patience:g} s") from None

    async def answered(self, number: int) -> Sequence[events.AttemptFinished]:
        """All ends. Raises Wrong unless each is an answer with text."""
        found = await self.ends(number)
        for end in found:
            if end.outcome is not Outcome.ANSWERED or end.content is None or not text_of(end.content).strip():
                why = end.failure.message if end.failure else "without text"
                raise Wrong(f"{end.task_id} ended as {end.outcome.value}: {why}")
        return found


def expect(fact: object, otherwise: str) -> None:
    if not fact:
        raise Wrong(otherwise)


async def each_node_answers(case: Case) -> str:
    for number, name in enumerate(case.nodes.names, 1):
        async with case.worker(case.nodes.listed(number)):
            case.submit(1, name)
            await case.answered(number)
    return f"{len(case.nodes.urls)} nodes"


async def a_burst_is_shared(case: Case) -> str:
    async with case.worker(case.nodes.listed()):
        await healthy_nodes(case.bench, *case.nodes.names)
        case.submit(8 * len(case.nodes.urls))
        found = await case.answered(8 * len(case.nodes.urls))
    return ", ".join(f"{name}: {number}" for name, number in sorted(Counter(str(end.node) for end in found).items()))


async def two_models_in_turn(case: Case) -> str:
    second = os.environ.get("OLLAMA_SECOND_MODEL")
    if not second:
        raise Skipped("needs OLLAMA_SECOND_MODEL")
    async with case.worker(case.nodes.listed()):
        await healthy_nodes(case.bench, *case.nodes.names)
        for turn in range(4):
            case.submit(2, f"turn-{turn}", model=(case.nodes.model, second)[turn % 2])
        await case.answered(8)
    return "8 answers"


async def an_absent_model_fails_at_once(case: Case) -> str:
    async with case.worker(case.nodes.listed()):
        await healthy_nodes(case.bench, *case.nodes.names)
        began = time.monotonic()
        case.submit(1, model="no-such-model:1b")
        (end,) = await case.ends(1)
    expect(end.failure is not None and end.outcome is not Outcome.ANSWERED, "it was answered")
    return f"after {time.monotonic() - began:.1f} s: {end.failure.code if end.failure else ''}"


async def a_long_prompt_is_read_whole(case: Case) -> str:
    words = 3_000
    async with case.worker(case.nodes.listed(1)):
        await healthy_nodes(case.bench, "node-1")
        case.submit(1, text="word " * words + "What was said above? Answer with one word.")
        (end,) = await case.answered(1)
    expect(end.usage.input_tokens >= words, f"only {end.usage.input_tokens} tokens of {words} words were read")
    return f"{end.usage.input_tokens} tokens"


async def a_prompt_that_is_too_long_is_refused(case: Case) -> str:
    async with case.worker(case.nodes.listed(1)):
        await healthy_nodes(case.bench, "node-1")
        (status,) = [one for one in case.bench.read(topics.FLEET_STATUS) if one.healthy][-1:]
        longest = next((one.context_tokens for one in status.models if one.name == case.nodes.model), None)
        if longest is None or longest > LONGEST_PROMPT_TRIED:
            raise Skipped(f"needs a model with a context below {LONGEST_PROMPT_TRIED:,} tokens")
        case.submit(1, text="word " * round(longest * 1.5))
        (end,) = await case.ends(1)
    code = end.failure.code if end.failure else end.outcome.value
    expect(code == "context_too_long", f"it ended as {code}: servers before 0.12.4 cut it without a word")
    return code


async def a_model_is_kept_as_long_as_set(case: Case) -> str:
    for keep_alive, stays in (("0", False), ("10m", True)):
        async with case.worker(case.nodes.listed(1), keep_alive=keep_alive):
            case.submit(1, f"kept-{keep_alive}")
            await case.answered(2 if stays else 1)
        await asyncio.sleep(1.0)
        loaded = {one["name"] for one in case.nodes.document(1, "api/ps")["models"]}
        expect(
            (case.nodes.model in loaded) is stays, f"keep_alive {keep_alive}: loaded are {', '.join(loaded) or 'none'}"
        )
    return "0 and 10m"


async def a_session_keeps_its_order(case: Case) -> str:
    async with case.worker(case.nodes.listed()):
        await healthy_nodes(case.bench, *case.nodes.names)
        case.submit(6, session="s")
        found = await case.answered(6)
    expect([end.task_id for end in found] == [f"task-{each}" for each in range(6)], "out of order")
    return "6 turns"


async def what_does_not_fit_runs_elsewhere(case: Case) -> str:
    huge = os.environ.get("OLLAMA_HUGE_MODEL")
    if not huge:
        raise Skipped("needs OLLAMA_HUGE_MODEL: on the first node it does not fit, on another it does")
    async with case.worker(case.nodes.listed()):
        await healthy_nodes(case.bench, *case.nodes.names)
        case.submit(4, model=huge)
        found = await case.answered(4)
    expect("node-1" not in {end.node for end in found}, "the first node ran it")
    return ", ".join(sorted({str(end.node) for end in found}))


async def thoughts_alone_are_no_answer(case: Case) -> str:
    thinking = os.environ.get("OLLAMA_THINKING_MODEL")
    if not thinking:
        raise Skipped("needs OLLAMA_THINKING_MODEL")
    async with case.worker(case.nodes.listed()):
        await healthy_nodes(case.bench, *case.nodes.names)
        case.submit(1, "short", model=thinking, sampling=events.Sampling(max_output_tokens=8))
        (end,) = await case.ends(1)
    said = end.content is not None and text_of(end.content).strip()
    code = end.failure.code if end.failure else end.outcome.value
    expect(said or code == "empty_answer", f"it ended as {code} without text")
    return "with text" if said else code


async def a_stopped_node_costs_nothing(case: Case) -> str:
    number = _stoppable(case.nodes)
    others = set(case.nodes.names) - {f"node-{number}"}
    try:
        async with case.worker(case.nodes.listed()):
            await healthy_nodes(case.bench, *case.nodes.names)
            many = 6 * len(case.nodes.urls)
            case.submit(many, text="Count from one to fifty.", sampling=events.Sampling(max_output_tokens=100))
            await asyncio.sleep(1.0)
            await case.nodes.control(number, start=False)
            await case.answered(many)
            await healthy_nodes(case.bench, *others)
            await case.nodes.control(number, start=True)
            await healthy_nodes(case.bench, *case.nodes.names)
            case.submit(many, "after")
            found = (await case.answered(2 * many))[many:]
    except TimeoutError:
        raise Wrong("the fleet was not as expected after it was stopped or started") from None
    finally:
        await case.nodes.control(number, start=True)
    expect(f"node-{number}" in {end.node for end in found}, "it got nothing when it was back")
    return f"node {number}, {many} answers, and {many} when it was back"


async def a_rolling_restart_fails_nothing(case: Case) -> str:
    _stoppable(case.nodes)
    if len(case.nodes.commands) < len(case.nodes.urls):
        raise Skipped("needs OLLAMA_STOP_n and OLLAMA_START_n of all nodes")
    async with case.worker(case.nodes.listed()):
        await healthy_nodes(case.bench, *case.nodes.names)
        sent = 0
        for number in range(1, len(case.nodes.urls) + 1):
            case.submit(4, f"round-{number}")
            sent += 4
            await case.nodes.control(number, start=False)
            case.submit(4, f"without-{number}")
            sent += 4
            await asyncio.sleep(2.0)
            await case.nodes.control(number, start=True)
            await healthy_nodes(case.bench, *case.nodes.names)
        await case.answered(sent)
    return f"{sent} answers"


def _stoppable(nodes: Nodes) -> int:
    if len(nodes.urls) < 2:
        raise Skipped("needs two nodes")
    if not nodes.commands:
        raise Skipped("needs OLLAMA_STOP_n and OLLAMA_START_n of a node")
    return min(nodes.commands)


CASES: Sequence[Callable[[Case], Awaitable[str]]] = (
    each_node_answers, a_burst_is_shared, two_models_in_turn, an_absent_model_fails_at_once,
    a_long_prompt_is_read_whole, a_prompt_that_is_too_long_is_refused, a_model_is_kept_as_long_as_set,
    a_session_keeps_its_order, what_does_not_fit_runs_elsewhere, thoughts_alone_are_no_answer,
    a_stopped_node_costs_nothing, a_rolling_restart_fails_nothing,
)  # fmt: skip


async def run_cases(nodes: Nodes) -> int:
    """Prints a line for each case; returns how many went wrong."""
    wrong = 0
    sys.stdout.write(f"nodes: {len(nodes.urls)}, model: {nodes.model}, calls at once at each: {nodes.slots}\n\n")
    for one in CASES:
        case, began = Case(nodes), time.monotonic()
        await case.bench.prepare()
        try:
            result, detail = "ok", await one(case)
        except Skipped as skipped:
            result, detail = "-", str(skipped)
        except Exception as error:  # noqa: BLE001 - the other cases are tried all the same
            wrong += 1
            result, detail = "WRONG", str(error) or type(error).__name__
        name = one.__name__.replace("_", " ")
        sys.stdout.write(f"{name:<42} {result:<6} {time.monotonic() - began:6.1f} s  {detail}\n")
        sys.stdout.flush()
    return wrong


def main() -> int:
    """Returns 0 if no case went wrong."""
    configure(service="local-worker", instance="here", format="human", level="error", stream=sys.stderr)
    return 1 if asyncio.run(run_cases(from_environment())) else 0


if __name__ == "__main__":
    raise SystemExit(main())
