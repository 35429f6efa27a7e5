"""What share of the rate of unequal nodes a worker reaches, and what a thousand calls at once cost it.

Nodes: the worker's engine, runner and pool (on the in-memory log) with four simulated Ollama nodes in a process of
their own, 1, 2, 4 and 25 times as slow as the fastest, and answers of 17 to 118 tokens of which nobody tells the
length. As many tasks are out as nodes have slots, three times over. The ideal is what the same nodes do when each slot
of each is kept busy without a worker. Ways take turns, round by round: by expected finish (the worker's own), by least
connections and in turn; these two give a call to a node when it comes, as a plain load balancer does, where it then
waits.

Many: one worker with a thousand calls at once, each of 2 s, at one node with as many slots. They come evenly over the
first 2 s, as of many agents who know nothing of each other, or all at once. These would stay in step, since all take
equally long, if the worker reported all of them before it began the next ones.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import uvloop
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from headrace_contracts import events, topics
from headrace_contracts.content import plain
from headrace_local_worker.decide.balancing import choose_node
from headrace_models.conversation import ChatMessage
from headrace_models.ollama import OllamaNode
from headrace_models.ports import ChatRequest
from headrace_models.simulator import Simulator, SimulatorConfig
from headrace_models.simulator.pace import Speed
from headrace_models.worker.assembly import sharing_of
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.outcomes import ExecutionOutcome
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner, RunnerOptions, RunObserver
from headrace_runtime.garbage import SurvivorFreezer
from headrace_streams.handling import EngineOptions, TopicLane
from headrace_streams.parallel import ParallelConsumer
from headrace_testing.engine import Letters
from headrace_testing.workers import PREFIX, WorkerBench, attempt, now_ms

MODEL: Final = "gemma2:2b"
SLOTS: Final = 4
FASTEST: Final = 8.0
"""200 tokens a second."""
TIMES_SLOWER: Final = (1.0, 2.0, 4.0, 25.0)
PROBE_SECONDS: Final = 3.0
WARM_UP_SECONDS: Final = 8.0
MANY: Final = 1_000
MANY_SECONDS: Final = 2.0
SPREADS: Final = {"evenly": MANY_SECONDS, "all at once": 0.0}
"""Seconds within which the first thousand calls come."""
GOALS: Final = {"share_of_rate": 0.95, "share_of_ideal": 0.9, "memory_mb": 250}
RESULTS: Final = Path("bench-results/fleet.json")
PROMPTS: Final = (
    "Say hello.",
    "summarize: " + "many words here are said. " * 100,
    "review this code\n" + "def f(x): return x\n" * 30,
    "write release notes\n" + "\n".join(f"abc{number:04x} fix thing {number}" for number in range(60)),
    "document this\n" + "\n".join(f"def fun_{number}(x): pass" for number in range(80)),
)
"""Answers of 19, 17, 38, 83 and 118 tokens."""
Url = str
Spawn: Final = multiprocessing.get_context("spawn")


def serve_nodes(port: Connection) -> None:
    """Run the simulated nodes until killed."""

    async def run() -> None:
        urls = []
        for slower in TIMES_SLOWER:
            node = Simulator(
                SimulatorConfig(speed=Speed(FASTEST / slower), nodes={"node": (MODEL,)}, slots_per_node=SLOTS)
            )
            await node.start()
            urls.append(node.ollama_url("node"))
        port.send(urls)
        await asyncio.Event().wait()

    uvloop.run(run())


def serve_many(port: Connection) -> None:
    """Run a node that answers each call after 2 s, until killed."""
    end = {"model": MODEL, "done": True, "done_reason": "stop", "prompt_eval_count": 10, "eval_count": 2}
    said = {"model": MODEL, "message": {"role": "assistant", "content": "so it is"}, "done": False}
    answer = b"".join(json.dumps(part).encode() + b"\n" for part in (said, end))
    listed = {"models": [{"name": MODEL, "model": MODEL, "digest": "d", "size": 1}]}

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(MANY_SECONDS)
        return web.Response(body=answer, content_type="application/x-ndjson")

    def says(document: Mapping[str, Any]) -> Callable[[web.Request], Any]:
        async def handle(_request: web.Request) -> web.Response:
            return web.json_response(document)

        return handle

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/api/chat", chat)
        app.router.add_post("/api/show", says({"capabilities": ["completion"], "model_info": {}}))
        for path, document in (("version", {"version": "0.12.0"}), ("tags", listed), ("ps", listed)):
            app.router.add_get(f"/api/{path}", says(document))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2 * MANY)
        await site.start()
        port.send([f"http://127.0.0.1:{runner.addresses[0][1]}"])
        await asyncio.Event().wait()

    uvloop.run(run())


class AssignedOnArrival(Pool):
    """Gives a call to a node when it comes, where it then waits: what a balancer does that knows no queue."""

    def __init__(self, endpoints: Sequence[Endpoint], pick: Callable[[Mapping[str, int]], str]) -> None:
        super().__init__(endpoints, choose_node)
        self._pick = pick
        self._given = {one.name: 0 for one in endpoints}

    async def acquire(self, *args: Any, **more: Any) -> Endpoint:
        name = self._pick(self._given)
        self._given[name] += 1
        try:
            return await super().acquire(*args, **{**more, "without": frozenset(self.endpoints) - {name}})
        except BaseException:
            self._given[name] -= 1
            raise

    def release(self, endpoint: Endpoint, *args: Any, **more: Any) -> None:
        self._given[endpoint.name] -= 1
        super().release(endpoint, *args, **more)


def in_turn() -> Callable[[Mapping[str, int]], str]:
    """Round robin."""
    numbers = itertools.count()
    return lambda given: sorted(given)[next(numbers) % len(given)]


def least_connections(given: Mapping[str, int]) -> str:
    """The node with the fewest calls that run or wait there."""
    return min(sorted(given), key=lambda name: given[name])


WAYS: Final[Mapping[str, Callable[[Sequence[Endpoint]], Pool]]] = {
    "expected finish": lambda endpoints: Pool(endpoints, choose_node),
    "least connections": lambda endpoints: AssignedOnArrival(endpoints, least_connections),
    "in turn": lambda endpoints: AssignedOnArrival(endpoints, in_turn()),
}


class Demanding(RunObserver):
    """Sends a worker so many tasks, and another one whenever one has ended."""

    def __init__(self, bench: WorkerBench, prompts: Sequence[str]) -> None:
        self._bench = bench
        self._prompts = itertools.cycle(prompts)
        self._numbers = itertools.count()
        self._sent: dict[str, float] = {}
        self.counting = False
        self.answers = self.tokens = self.failures = 0
        self.seconds: list[float] = []

    def send(self) -> None:
        """One more task."""
        task_id = f"task-{next(self._numbers)}"
        self._sent[task_id] = time.perf_counter()
        message = events.Message(role="user", content=plain(next(self._prompts)))
        request = attempt(task_id, messages=(message,), sampling=events.Sampling(), requested_at=now_ms())
        self._bench.submit(request, key=task_id.encode())

    def reported(self, request: events.AttemptRequested, ended: ExecutionOutcome, queued_seconds: float) -> None:
        seconds = time.perf_counter() - self._sent.pop(request.task_id)
        if self.counting:
            self.failures += ended.outcome is not events.Outcome.ANSWERED
            self.answers += 1
            self.tokens += ended.usage.output_tokens
            self.seconds.append(seconds)
        self.send()


@asynccontextmanager
async def working(
    pool: Pool, prompts: Sequence[str], tasks: int, spread_seconds: float = 0.0
) -> AsyncIterator[Demanding]:
    """A worker with so many tasks out, the first of which come evenly over `spread_seconds`."""
    bench = WorkerBench()
    await bench.prepare()
    demanding = Demanding(bench, prompts)
    numbers = itertools.count()
    runner = AttemptRunner(
        codec=bench.codec, publisher=bench.publisher, pool=pool, options=RunnerOptions(worker="worker-1"),
        outcomes_to=topics.ATTEMPTS_FINISHED, clock_ms=now_ms, new_id=lambda: f"execution-{next(numbers)}",
        observer=demanding,
    )  # fmt: skip
    engine = ParallelConsumer(
        bench.log, PREFIX + "local-worker", [TopicLane(PREFIX + topics.WORK_LOCAL_INTERACTIVE.name)], runner.handle,
        dead_letters=Letters(), options=EngineOptions(max_in_flight=max(256, tasks), drain_seconds=0.0),
        sharing=sharing_of(bench.codec, pool),
    )  # fmt: skip

    async def probe() -> None:
        while True:
            for endpoint in pool.endpoints.values():
                pool.update(endpoint.name, await endpoint.provider.status())
            await asyncio.sleep(PROBE_SECONDS)

    running = [asyncio.create_task(probe())]
    while not all(endpoint.status.healthy for endpoint in pool.endpoints.values()):  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    running.append(asyncio.create_task(engine.run()))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(tasks):
        if spread_seconds:
            await asyncio.sleep(max(0.0, began + spread_seconds * number / tasks - loop.time()))
        demanding.send()
    try:
        yield demanding
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for endpoint in pool.endpoints.values():
            await endpoint.provider.close()


def spent_seconds() -> float:
    """Processor time of this process until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measured(
    pool: Pool, prompts: Sequence[str], tasks: int, warm_up: float, seconds: float, spread_seconds: float = 0.0
) -> dict[str, float]:
    """What a worker does in so many seconds, once it is warm."""
    async with working(pool, prompts, tasks, spread_seconds) as demanding:
        await asyncio.sleep(warm_up)
        began, spent, demanding.counting = time.perf_counter(), spent_seconds(), True
        await asyncio.sleep(seconds)
        took, spent, demanding.counting = time.perf_counter() - began, spent_seconds() - spent, False
    return {
        "tokens_per_second": demanding.tokens / took,
        "answers_per_second": demanding.answers / took,
        "median_seconds": statistics.median(demanding.seconds) if demanding.seconds else 0.0,
        "failures": float(demanding.failures),
        "processor_share": spent / took,
        "processor_ms_per_answer": 1000 * spent / max(1, demanding.answers),
    }


async def kept_busy(urls: Sequence[Url], seconds: float) -> dict[str, float]:
    """What the nodes do when each slot is kept busy, without a worker."""
    nodes = [OllamaNode(f"node-{number}", url) for number, url in enumerate(urls)]
    counted = {"tokens": 0, "answers": 0}
    counting = False

    async def ask(node: OllamaNode, prompts: Sequence[str]) -> None:
        for prompt in itertools.cycle(prompts):
            result = await node.chat(ChatRequest(MODEL, (ChatMessage("user", prompt),), 300.0), lambda _: None)
            if counting:
                counted["tokens"] += result.usage.output_tokens
                counted["answers"] += 1

    for node in nodes:
        await node.status()
    tasks = [
        asyncio.create_task(ask(node, PROMPTS[first % 5 :] + PROMPTS[: first % 5]))
        for node in nodes
        for first in range(SLOTS)
    ]
    await asyncio.sleep(WARM_UP_SECONDS)
    began, spent, counting = time.perf_counter(), spent_seconds(), True
    await asyncio.sleep(seconds)
    took, spent, counting = time.perf_counter() - began, spent_seconds() - spent, False
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for node in nodes:
        await node.close()
    return {
        "tokens_per_second": counted["tokens"] / took, "answers_per_second": counted["answers"] / took,
        "processor_share": spent / took, "processor_ms_per_answer": 1000 * spent / max(1, counted["answers"]),
    }  # fmt: skip


def rounds_of_ways(urls: Sequence[Url], rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """Figures of each way, round by round; the order turns round each time."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("kept busy", *WAYS)}
    for number in range(rounds):
        for way in list(found)[:: 1 if number % 2 else -1]:
            if way == "kept busy":
                found[way].append(uvloop.run(kept_busy(urls, seconds)))
                continue

            async def run(make: Callable[[Sequence[Endpoint]], Pool] = WAYS[way]) -> dict[str, float]:
                nodes = [Endpoint(OllamaNode(f"node-{at}", url), SLOTS) for at, url in enumerate(urls)]
                return await measured(make(nodes), PROMPTS, 3 * SLOTS * len(nodes), WARM_UP_SECONDS, seconds)

            found[way].append(uvloop.run(run()))
    return found


def many(url: Url, seconds: float, spread_seconds: float, port: Connection) -> None:
    """A worker with a thousand calls at once, in a process of its own; sends its figures."""
    # As every service has it.
    SurvivorFreezer().install()

    async def run() -> dict[str, float]:
        pool = Pool([Endpoint(OllamaNode("node", url), MANY)], choose_node)
        return await measured(pool, PROMPTS[:1], MANY, 3 * MANY_SECONDS, seconds, spread_seconds)

    found = uvloop.run(run())
    found["share_of_ideal"] = found["answers_per_second"] / (MANY / MANY_SECONDS)
    found["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    port.send(found)


def apart(target: Callable[..., None], *given: Any) -> tuple[Any, Any]:
    """Run something in a process of its own; the process, and what it sends first."""
    receiving, sending = Spawn.Pipe(duplex=False)
    process = Spawn.Process(target=target, args=(*given, sending), daemon=True)
    process.start()
    return process, receiving.recv()


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]} if rounds else {}


def main() -> int:
    """Print tables to standard error and the figures as JSON to standard output and to bench-results/."""
    parser = argparse.ArgumentParser(
        prog="make bench-fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (default 3)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="seconds of a round, after its warm-up (default 20)"
    )
    parser.add_argument("--only", choices=("nodes", "many"), help="only this part")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    write: Callable[[str], object] = sys.stderr.write
    machine = {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    report: dict[str, Any] = {"machine": machine, "goals": GOALS}
    if options.only != "many":
        server, urls = apart(serve_nodes)
        try:
            found = rounds_of_ways(urls, options.rounds, options.seconds)
        finally:
            server.kill()
            server.join()
        ideal = medians(found["kept busy"])
        lines = {}
        write(
            "| way | tokens/s | share of the ideal | median seconds of a task | ms of processor time for an answer |\n"
        )
        write("|---|---|---|---|---|\n")
        for way, rounds in found.items():
            line = medians(rounds)
            pairs = zip(rounds, found["kept busy"], strict=True)
            shares = [one["tokens_per_second"] / best["tokens_per_second"] for one, best in pairs]
            lines[way] = {**line, "share_of_rate": round(statistics.median(shares), 3), "rounds": rounds}
            write(
                f"| {way} | {line['tokens_per_second']:.0f} | {lines[way]['share_of_rate']:.1%} | "
                f"{line.get('median_seconds', 0.0):.2f} | {line['processor_ms_per_answer']:.1f} |\n"
            )
        report["nodes"] = {"times_slower": TIMES_SLOWER, "slots": SLOTS, "ideal": ideal, "ways": lines}
    if options.only != "nodes":
        server, urls = apart(serve_many)
        try:
            figures: dict[str, list[dict[str, float]]] = {name: [] for name in SPREADS}
            for _ in range(options.rounds):
                for name, spread in SPREADS.items():
                    process, one = apart(many, urls[0], options.seconds, spread)
                    process.join()
                    figures[name].append(one)
        finally:
            server.kill()
            server.join()
        report["many"] = {name: {**medians(rounds), "rounds": rounds} for name, rounds in figures.items()}
        write(f"\n{MANY} calls of {MANY_SECONDS:g} s at once\n\n")
        write("| calls come | answers/s | share of the ideal | ms of processor time for an answer | processor | MB |\n")
        write("|---|---|---|---|---|---|\n")
        for name, rounds in figures.items():
            line = medians(rounds)
            write(
                f"| {name} | {line['answers_per_second']:.0f} | {line['share_of_ideal']:.1%} | "
                f"{line['processor_ms_per_answer']:.2f} | {line['processor_share']:.0%} | {line['memory_mb']:.0f} |\n"
            )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    write(f"Also in {options.output}\n")
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
