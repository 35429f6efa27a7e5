"""One simulation: built from a seed, run until everything is settled, judged."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from headrace_contracts.codec import Codec
from headrace_contracts.events import TaskState
from headrace_contracts.topics import topics_with
from headrace_models.prices import PriceBook, load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.model import CAUSES, Submitted
from headrace_router.decide.policy import Deadlines, ModelRef, PerLane, Policy, RolePolicy
from headrace_router.metrics import RouterMetrics
from headrace_runtime.metrics import Metrics
from headrace_streams.memory import MemoryLog
from prometheus_client import CollectorRegistry

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation import oracle_bytes, oracle_operators, oracle_sites
from headrace_testing.simulation.chaos import Chaos
from headrace_testing.simulation.clients import Clients
from headrace_testing.simulation.cluster import SimulatedCluster
from headrace_testing.simulation.forgers import Forgers
from headrace_testing.simulation.judge import Judge
from headrace_testing.simulation.lasting import LastingTrouble
from headrace_testing.simulation.ledger import SimulatedDatabase
from headrace_testing.simulation.log import SimulatedCodec
from headrace_testing.simulation.loop import SimulationStuck, VirtualLoop
from headrace_testing.simulation.models import REMOTE_BY_HOST, REMOTE_BY_NAME, Models
from headrace_testing.simulation.network import PATIENCE_SECONDS, Endures, SimulatedNetwork, Weather
from headrace_testing.simulation.operators import Operators
from headrace_testing.simulation.paid_work import PaidWork
from headrace_testing.simulation.plan import SITES, Fault, Plan, draw_plan
from headrace_testing.simulation.processes import AccountantBody, Body, RouterBody, SimulatedProcess, WorkerBody
from headrace_testing.simulation.research import Questions
from headrace_testing.simulation.settings import SettingsWriter
from headrace_testing.simulation.several_models import JUDGED, VOTE, TeamTasks, with_ensemble
from headrace_testing.simulation.trace import Trace

EPOCH_MS = 1_790_000_000_000
PARTITIONS = 2
_SETTLE_SECONDS = 900.0
_LOOK_SECONDS = 2.0
_AFTERMATH_SECONDS = 15.0
_LONG_IDLE_SECONDS = 700.0


@dataclass(frozen=True, slots=True)
class Kit:
    """What is expensive to build and never changes: shared by all simulations of a process."""

    codec: Codec
    policy: Policy
    prices: PriceBook


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one seed."""

    seed: int
    violations: Sequence[str]
    digest: str
    seconds: float
    faults: Mapping[str, int]
    boundaries: Mapping[tuple[str, str], int]
    tasks: int
    records: int
    steps: int
    last: Sequence[str] = field(repr=False)


@cache
def kit() -> Kit:
    codec = SimulatedCodec(PREFIX)
    asyncio.run(codec.prepare(topics_with(SITES).values(), register=True))
    shipped = load_policy(None)
    policy = shipped.model_copy(
        update={
            "roles": {name: _tempted(name, role) for name, role in shipped.roles.items()},
            "deadlines": Deadlines(default=PerLane(interactive=40_000, batch=90_000), longest=100_000),
            "attempts": shipped.attempts.model_copy(
                update={"timeout": PerLane(interactive=12_000, batch=25_000), "max_output_tokens": 400}
            ),
            "cache": shipped.cache.model_copy(update={"ttl": 20_000}),
        }
    )
    return Kit(codec, policy, load_price_book())


def _tempted(name: str, role: RolePolicy) -> RolePolicy:
    """Two roles ask first for a model that the nodes list and their maker's cloud runs: nobody may get it. Two others
    have ensembles."""
    if name in (VOTE, JUDGED):
        role = with_ensemble(role, judged=name == JUDGED)
    first = {"documentation": REMOTE_BY_NAME, "security_reviewer": REMOTE_BY_HOST}.get(name)
    if first is None:
        return role
    return role.model_copy(update={"models": (ModelRef(provider="ollama", model=first), *role.models)})


class SimulatedWorld:
    """Everything of one simulation."""

    def __init__(self, seed: int, *, keep_all: bool = False) -> None:
        self.rng = random.Random(seed)
        self.plan: Plan = draw_plan(seed, self.rng)
        self.kit = kit()
        self.loop = VirtualLoop()  # type: ignore[abstract]  # what is left out is never called here
        self.trace = Trace(self.loop.time, keep_all=keep_all)
        self.weather = Weather(self.plan, self.rng, self.trace, self.loop)
        self.cluster = SimulatedCluster(self.loop, self.trace)
        for spec in topics_with([site for site in self.plan.sites if site]).values():
            self.cluster.create_topic(PREFIX + spec.name, PARTITIONS if spec.partitions > 1 else 1)
        self.models = Models(self.plan, self.rng, self.trace, self.loop.time)
        self.database = SimulatedDatabase()
        self.judge = Judge(self)
        self.cluster.witness = self.judge
        self.processes = self._processes()
        self.questions = Questions(seed, some=self.plan.research)
        self.teams = TeamTasks(seed, some=self.plan.several)
        self.clients = Clients(self)
        self.settings = SettingsWriter(self)
        self.forgers = Forgers(self)
        self.operators = Operators(self)
        self.calm = False
        self.partitions = PARTITIONS
        self.trouble = LastingTrouble(self)
        self._settled_at: float | None = None

    def now_ms(self) -> int:
        """True wall-clock time."""
        return EPOCH_MS + round(self.loop.time() * 1000)

    def network(self, process: Endures, *, mortal: bool = True) -> SimulatedNetwork:
        return SimulatedNetwork(process, self.loop, self.weather, self.trace, self._act, mortal=mortal)

    def happens(self, fault: Fault, about: str) -> bool:
        """Whether a fault with an occasion of its own occurs this time."""
        rate = self.plan.rate(fault)
        if self.calm or rate == 0.0 or self.rng.random() >= rate:
            return False
        self.trace.fault(fault.value, about)
        return True

    def defect(self, what: str, error: BaseException | None = None) -> None:
        """Record an event that must never happen, whatever faults occur."""
        where = ""
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            where = " (" + " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames)) + ")"
        self.judge.violated(f"defect: {what}{where}")

    def run(self) -> Outcome:
        """Run until everything is settled, or cannot settle any more; then judge."""
        plan = self.plan
        try:
            self.loop.outside(0.0, self._begin)
            self.loop.run_until(lambda: self.calm and self.trouble.ended)
            self._settle()
            if plan.long_idle:
                self._idle_for_long()
                self._settle()
        except SimulationStuck as stuck:
            self.judge.violated(f"not settled: {stuck}; {'; '.join(self.judge.unsettled()) or 'all is done'}")
        for failure in self.loop.failures:
            self.judge.violated(f"defect: {failure}")
        violations = self.judge.verdict()
        return Outcome(
            seed=plan.seed,
            violations=tuple(dict.fromkeys(violations)),
            digest=self.trace.digest(),
            seconds=self.loop.time(),
            faults=dict(self.trace.faults),
            boundaries=dict(self.trace.boundaries),
            tasks=self.judge.accepted,
            records=self.cluster.history.count,
            steps=self.loop.steps,
            last=self.trace.before_violation or tuple(self.trace.lines),
        )

    def close(self) -> None:
        self.loop.close()

    def _begin(self) -> None:
        self.settings.begin()
        for process in self.processes:
            process.start_later(self.rng.uniform(0.0, 0.5))
        if self.plan.paid:
            paid = PaidWork(self)
            self.clients.begin(self.plan.tasks, self.plan.submit_seconds, paid.for_cloud)
            paid.begin()
        else:
            self.clients.begin(self.plan.tasks, self.plan.submit_seconds)
        self.forgers.begin()
        self.operators.begin()
        if self.plan.rate(Fault.SITE_GONE):
            self.loop.outside(1.0, self._look_at_sites)
        Chaos(self).begin()
        self.trouble.begin()
        self.loop.outside(self.plan.fault_seconds, self._calm_down)

    def _look_at_sites(self) -> None:
        oracle_sites.look(self.judge)
        if self._settled_at is None:
            self.loop.outside(1.0, self._look_at_sites)

    def _calm_down(self) -> None:
        """End all faults: frozen processes continue, and clocks are right."""
        self.trace.note("calm")
        self.calm = self.weather.calm = self.models.calm = True
        self.database.away = False
        for process in self.processes:
            process.skew_ms = 0
            process.thaw()

    def _settle(self) -> None:
        """Run until nothing is left to do, and a while longer."""
        until = self.loop.time() + _SETTLE_SECONDS
        self._settled_at = None
        self.loop.outside(0.0, self._look, until)
        self.loop.run_until(lambda: self._settled_at is not None)
        end = self.loop.time() + _AFTERMATH_SECONDS
        self.loop.run_until(lambda: self.loop.time() >= end)

    def _look(self, until: float) -> None:
        if not self.clients.unsent and not self.judge.unsettled():
            self._settled_at = self.loop.time()
            return
        if self.loop.time() > until:
            raise SimulationStuck(f"{_SETTLE_SECONDS:.0f} s without faults were not enough")
        self.loop.outside(_LOOK_SECONDS, self._look, until)

    def _idle_for_long(self) -> None:
        """Idle long enough for the journal's retention to reach its oldest records, then do some more work."""
        end = self.loop.time() + _LONG_IDLE_SECONDS
        self.loop.run_until(lambda: self.loop.time() >= end)
        Chaos(self).expire_journal(_LONG_IDLE_SECONDS)
        for process in self.processes:
            self.loop.outside(self.rng.uniform(0.0, 1.0), process.crash)
        self.loop.outside(0.0, self.clients.begin, 2, 5.0)

    def _router(self, process: SimulatedProcess, log: MemoryLog) -> Body:
        return RouterBody(self, process, log, _CheckedMetrics(self, process))

    def _act(self, client: str) -> None:
        self.cluster.client = client

    def _processes(self) -> list[SimulatedProcess]:
        plan = self.plan
        makers: list[tuple[str, int, Callable[[SimulatedProcess, MemoryLog], Body]]] = [
            ("router", plan.routers, self._router),
            ("local", plan.local_workers, lambda process, log: WorkerBody(self, process, log, cloud=False)),
            ("cloud", plan.cloud_workers, lambda process, log: WorkerBody(self, process, log, cloud=True)),
            ("accountant", plan.accountants, lambda process, log: AccountantBody(self, process, log)),
        ]
        return [
            SimulatedProcess(self, f"{name}-{number}", make, PATIENCE_SECONDS if name == "router" else 120.0)
            for name, count, make in makers
            for number in range(1, count + 1)
        ]


@cache
def _registered() -> Metrics:
    return Metrics("router", CollectorRegistry())


@cache
def _shared_metrics() -> RouterMetrics:
    return RouterMetrics(_registered())


class _CheckedMetrics(RouterMetrics):
    """The metrics of the router in a process, for which a failed decision is a defect."""

    def __init__(self, world: SimulatedWorld, process: SimulatedProcess) -> None:
        self.__dict__.update(_shared_metrics().__dict__)
        self._world = world
        self._process = process

    def decided(self, cause: str, state: TaskState, codes: list[str]) -> None:
        super().decided(cause, state, codes)
        if cause == CAUSES[Submitted]:
            oracle_bytes.check_taken(self._world.judge, self._process, state)
        oracle_operators.check_sent(self._world.judge, self._process, state)

    def failed(self, cause: str) -> None:
        self._world.defect(f"a decision about {cause} failed")


def simulate(seed: int, *, keep_all: bool = False) -> Outcome:
    """Run one seed."""
    world = SimulatedWorld(seed, keep_all=keep_all)
    try:
        return world.run()
    finally:
        world.close()
