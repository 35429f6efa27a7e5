"""The real services as simulated processes: built as their wiring builds them, killed, frozen, restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from headrace_cloud_worker.decide.offers import choose_provider
from headrace_cloud_worker.decide.privacy import forbid
from headrace_contracts import topics
from headrace_contracts.errors import RegistryUnavailable
from headrace_contracts.events import Lane, NodeStatus, Place, PolicyPublished, Preferences, SwitchedOff, SwitchKind
from headrace_contracts.groups import CLOUD_WORKER, local_worker_of
from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.decide.privacy import forbid as forbid_at_nodes
from headrace_models.worker.assembly import sharing_of
from headrace_models.worker.cancellations import Cancellations, CancelledTasks, is_cancelled
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.fleet import FleetOptions, FleetReporter
from headrace_models.worker.kill_switches import KillSwitches
from headrace_models.worker.paid_calls import PaidCalls
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner, RunnerOptions
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.limits import RouterLimits
from headrace_router.metrics import RouterMetrics
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import RetryRecord, StreamsError
from headrace_streams.handling import EngineSnapshot
from headrace_streams.memory import MemoryLog
from headrace_streams.parallel import EngineOptions, ParallelConsumer, TopicLane, ignore_assignment
from headrace_streams.projection import Projection
from headrace_streams.publishing import Publisher
from headrace_streams.records import Record
from headrace_streams.tables import Table
from headrace_streams.topic_limits import TopicLimits

from headrace_testing.router_twin import PREFIX, router_service
from headrace_testing.signatures import keys, verification
from headrace_testing.simulation.ledger import SimulatedLedger
from headrace_testing.simulation.log import SimulatedLog
from headrace_testing.simulation.loop import Fate
from headrace_testing.simulation.models import (
    ASKED,
    CLOUD_LISTINGS,
    EXECUTION,
    SEARCH_LISTINGS,
    Call,
    SimulatedProvider,
    listing_at,
    nodes_at,
)
from headrace_testing.simulation.network import LONGEST_IN_FLIGHT_SECONDS, PATIENCE_SECONDS
from headrace_testing.simulation.oracle_bytes import live_bytes_of
from headrace_testing.simulation.oracle_quota import quota_of
from headrace_testing.simulation.oracle_windows import window_of
from headrace_testing.simulation.plan import SITES, Fault
from headrace_testing.simulation.research import WEB

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

ACT_WITHIN_SECONDS = 4.0
"""As the router's setting: together with the time to produce a record it fits into the session timeout."""
SITE_REPORT_SECONDS, SITE_TICK_SECONDS = 1.5, 2.0
"""Short enough where there are sites, that attempts are taken back before they time out."""
_STOP_SECONDS = 30.0
_START_SECONDS = LONGEST_IN_FLIGHT_SECONDS
"""The shortest time until a restart: everything the previous run sent has arrived by then."""


class HandlerFault(Exception):
    """A defect of a handler, injected."""


class Body(Protocol):
    """The code that runs in a process."""

    async def run(self) -> None:
        """Runs until drained or failed."""
        ...

    async def drain(self) -> None:
        """Finish what is in flight."""
        ...


class SimulatedProcess:
    """A slot in which one service runs, one run after another."""

    def __init__(
        self,
        world: SimulatedWorld,
        name: str,
        make: Callable[[SimulatedProcess, MemoryLog], Body],
        delivery_seconds: float,
    ) -> None:
        self.name = name
        self.lives = 0
        self.skew_ms = 0
        self.suspect = False
        """Whether this run was frozen: it may act on outdated state."""
        self.started_at = 0.0
        """When this run was started, in seconds since the start."""
        self.thawed_at: list[float] = []
        """When it went on after having been frozen, in seconds since the start."""
        self.away_until = 0.0
        """Until when it is not restarted, in seconds since the start."""
        self.fate = Fate(name)
        self.network = world.network(self)
        self._world = world
        self._make = make
        self._delivery = delivery_seconds
        self._body: Body | None = None
        self._starting: asyncio.TimerHandle | None = None
        self._stopping = False
        self._ids = 0

    @property
    def running(self) -> bool:
        return self.fate.alive and self._body is not None

    @property
    def body(self) -> Body | None:
        """What runs in it now; None if nothing does."""
        return self._body if self.fate.alive else None

    def clock(self) -> int:
        """Milliseconds since the epoch on this host's clock."""
        return self._world.now_ms() + self.skew_ms

    def new_id(self) -> str:
        """Unique and the same in every replay."""
        self._ids += 1
        return f"{self.name}.{self.lives}.{self._ids}"

    def start(self) -> None:
        """Start a new run, unless it stays away."""
        self._starting = None
        if self._world.loop.time() < self.away_until:
            self.start_later(0.0)
            return
        self.lives += 1
        self.started_at = self._world.loop.time()
        self._ids = 0
        self._stopping = False
        self.suspect = False
        self.fate = Fate(f"{self.name}.{self.lives}")
        self.network = self._world.network(self)
        self._world.trace.note(f"{self.name} starts, life {self.lives}")
        self._world.loop.as_process(self.fate, self._begin)

    def stay_away(self, seconds: float) -> None:
        """As kill -9, and no restart for some seconds."""
        self.away_until = self._world.loop.time() + seconds
        self.crash()

    def crash(self) -> None:
        """As kill -9."""
        if not self.fate.alive:
            return
        self._world.trace.note(f"{self.name} is dead")
        self.fate.alive = False
        self._body = None
        self.start_later(self._world.rng.choice((_START_SECONDS, 4.0, 8.0, 15.0)))

    def freeze(self, seconds: float) -> None:
        """As SIGSTOP, and SIGCONT after some seconds."""
        fate = self.fate
        if fate.alive and not fate.frozen:
            self._world.trace.note(f"{self.name} is frozen for {seconds:.1f} s")
            self.suspect = fate.frozen = True
            self._world.loop.outside(seconds, self.thaw, fate)

    def thaw(self, fate: Fate | None = None) -> None:
        fate = fate or self.fate
        if fate.frozen:
            self._world.trace.note(f"{self.name} continues")
            self.thawed_at.append(self._world.loop.time())
            self._world.loop.thaw(fate)

    def expel(self) -> None:
        """Be removed from its groups without knowing it."""
        if not self._world.calm:
            self._world.cluster.expel_client(self.name)

    def stop(self) -> None:
        """As SIGTERM, and kill -9 when that takes too long."""
        body, fate = self._body, self.fate
        if body is None or self._stopping or fate.frozen:
            return
        self._stopping = True
        self._world.trace.note(f"{self.name} is asked to stop")
        self._world.loop.as_process(fate, lambda: asyncio.create_task(self._drain(body)))
        self._world.loop.outside(_STOP_SECONDS, self._kill_if, fate)

    def _kill_if(self, fate: Fate) -> None:
        if fate is self.fate and self._stopping:
            self.crash()

    async def _drain(self, body: Body) -> None:
        try:
            await body.drain()
        except (StreamsError, RegistryUnavailable) as error:
            self._world.trace.note(f"{self.name} stops with {type(error).__name__}")

    def _begin(self) -> None:
        world = self._world
        log = SimulatedLog(
            world.cluster, self.clock, client=self.name, network=self.network, delivery_seconds=self._delivery
        )
        self._body = self._make(self, log)
        asyncio.create_task(self._live(self._body))  # noqa: RUF006 - the loop keeps its tasks

    async def _live(self, body: Body) -> None:
        how = "ends"
        try:
            await body.run()
        except (StreamsError, RegistryUnavailable) as error:
            # The service exits, and its supervisor restarts it.
            how = f"ends with {type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - any other end is a defect
            how = f"ends with {type(error).__name__}: {error}"
            self._world.defect(f"{self.name} {how}", error)
        self._world.trace.note(f"{self.name} {how}")
        self.fate.alive = False
        self._body = None
        self.start_later(_START_SECONDS)

    def start_later(self, seconds: float) -> None:
        """Start a run after some seconds, unless one is to be started already."""
        if self._starting is None:
            away = self.away_until - self._world.loop.time()
            self._starting = self._world.loop.outside(max(seconds, away), self.start)


def site_of(world: SimulatedWorld, process: SimulatedProcess) -> str:
    """The site of a process; empty for none."""
    kind, _, number = process.name.partition("-")
    return world.plan.sites[int(number) - 1] if kind == "local" and world.plan.sites else ""


def _off(switches: Table[SwitchedOff], now_ms: int) -> Collection[SwitchedOff]:
    return [each for each in switches.items().values() if each.until is None or now_ms < each.until]


def names(off: SwitchedOff, provider: str, model: str, place: Place) -> bool:
    """Whether a switch rules a model of a provider out; told without the code under test."""
    match off.kind:
        case SwitchKind.PROVIDER:
            return off.name == provider
        case SwitchKind.MODEL:
            return off.name in (model, f"{provider}/{model}")
        case SwitchKind.FEATURE:
            return off.name == "cloud" and place is Place.CLOUD
        case _:
            return False


class RouterBody:
    """A router with its tables."""

    def __init__(
        self, world: SimulatedWorld, process: SimulatedProcess, log: MemoryLog, metrics: RouterMetrics
    ) -> None:
        quota = quota_of(world.plan.seed)
        window = window_of(world.plan.seed)
        sites = [site for site in world.plan.sites if site]
        self._view = RoutingView(world.kit.policy, world.kit.prices, process.clock, quota, window=window, sites=sites)
        self._fleet: Table[NodeStatus] = Table(log, world.kit.codec, topics.FLEET_STATUS, self._view.node_changed)
        self._preferences: Table[Preferences] = Table(
            log, world.kit.codec, topics.PREFERENCES, self._view.preferences_changed
        )
        self._policies: Table[PolicyPublished] = Table(log, world.kit.codec, topics.POLICIES, self._view.policy_changed)
        self._switches: Table[SwitchedOff] = Table(log, world.kit.codec, topics.SWITCHES, self._view.switch_changed)
        self._tables = (self._fleet, self._preferences, self._policies, self._switches)
        # Routers ask for limits in the seeds that have one to find.
        names = [PREFIX + name for name in topics.topics_with(SITES)] if world.trouble.limits_are_known else []
        self._limits = TopicLimits(log.admin(), names)
        self._asks = bool(names)
        self.service = router_service(
            process.name,
            log,
            world.kit.codec,
            self._view,
            metrics=metrics,
            monotonic=world.loop.time,
            publish_within=ACT_WITHIN_SECONDS,
            settle_seconds=ACT_WITHIN_SECONDS + PATIENCE_SECONDS,
            in_flight=world.plan.max_in_flight * 4,
            static=world.plan.static_members,
            limits=RouterLimits(tick_seconds=SITE_TICK_SECONDS) if sites else RouterLimits(),
            topic_limits=self._limits,
            producers=verification(keys()),
            live_bytes=live_bytes_of(world.plan.seed),
        )

    def reports(self) -> Sequence[NodeStatus]:
        """The newest reports of nodes that it has read."""
        return list(self._fleet.items().values())

    def off(self, now_ms: int) -> Collection[SwitchedOff]:
        """What is switched off, as far as it has read."""
        return _off(self._switches, now_ms)

    async def run(self) -> None:
        for table in self._tables:
            await table.start()
        failures = [table.failure for table in self._tables]
        if not self._asks:
            await _first_end(self.service.run(), *failures)
            return
        await self._limits.start()
        await _first_end(self.service.run(), *failures, self._limits.run())

    async def drain(self) -> None:
        await self.service.drain()


class WorkerBody:
    """A local or cloud worker."""

    def __init__(self, world: SimulatedWorld, process: SimulatedProcess, log: MemoryLog, *, cloud: bool) -> None:
        self._world = world
        self._process = process
        codec, plan = world.kit.codec, world.plan
        publisher = Publisher(log.producer(), codec, f"headrace/worker/{process.name}")
        self.site = site = site_of(world, process)
        offers = [(name, name, listing) for name, listing in CLOUD_LISTINGS.items()] if cloud else [
            ("ollama", node, listing_at(site)) for node in nodes_at(site)
        ]  # fmt: skip
        if plan.research:
            source = "tavily" if cloud else WEB
            offers.append((source, source if cloud else f"{site or 'node'}-search", SEARCH_LISTINGS[source]))
        run = f"{process.name}.{process.lives}"
        self._group = PREFIX + (CLOUD_WORKER if cloud else local_worker_of(site)).name
        places = [
            Endpoint(
                SimulatedProvider(
                    world.models,
                    run,
                    provider,
                    node,
                    listing,
                    self._is_unaware,
                    life_began=process.started_at,
                    is_off=self._is_off,
                ),
                2,
                adapts=not cloud,
            )
            for provider, node, listing in offers
        ]
        self.pool = pool = Pool(places, choose_provider if cloud else choose_node)
        self._cancellations = Cancellations(
            log,
            codec,
            topics.cancelled_topic(Place.CLOUD if cloud else Place.LOCAL),
            history_seconds=600.0,
            clock_ms=process.clock,
            on_cancelled=self._stop_tasks,
        )
        paid = PaidCalls(log, codec, publisher, worker=process.name, clock_ms=process.clock) if cloud else None
        self._place = Place.CLOUD if cloud else Place.LOCAL
        self._switches = KillSwitches(log, codec, self._place, process.clock, lambda: self._runner.look_at_switches())
        self._runner = AttemptRunner(
            codec=codec,
            publisher=publisher,
            pool=pool,
            options=RunnerOptions(worker=process.name, call_seconds=30.0),
            outcomes_to=topics.outcome_topic(Place.CLOUD if cloud else Place.LOCAL),
            clock_ms=process.clock,
            new_id=self._new_execution,
            forbid=forbid if cloud else forbid_at_nodes,
            switched_off=self._switches.against,
            is_cancelled=self._cancellations.has,
            paid=paid,
        )
        work = [topics.work_topic(self._place, lane, site) for lane in (Lane.INTERACTIVE, Lane.BATCH)]
        self._engine = ParallelConsumer(
            log,
            self._group,
            [TopicLane(PREFIX + work[0].name, weight=4), TopicLane(PREFIX + work[1].name)],
            self._handle,
            skip=self._skip,
            dead_letters=DeadLetters(publisher, self._group, PREFIX, process.clock),
            sharing=sharing_of(codec, pool),
            options=EngineOptions(
                max_in_flight=plan.max_in_flight,
                max_buffered=plan.max_buffered,
                max_held_bytes=plan.max_held_bytes,
                metadata_limit=plan.metadata_limit,
                drain_seconds=plan.drain_seconds,
                lag_interval_seconds=60.0,
                watch_interval_seconds=60.0,
            ),
            on_foreign_position=ignore_assignment if paid is None else paid.doubt,
            on_assigned=ignore_assignment if paid is None else paid.doubt,
            instance_id=process.name if plan.static_members else None,
        )
        self._reporter = FleetReporter(
            pool,
            publisher,
            FleetOptions(
                worker=process.name,
                where=Place.CLOUD if cloud else Place.LOCAL,
                site=site,
                look_seconds=10.0,
                report_seconds=SITE_REPORT_SECONDS if plan.sites else 6.0,
            ),
            process.clock,
        )

    def state(self) -> EngineSnapshot:
        """What the engine holds now."""
        return self._engine.state()

    def _is_unaware(self) -> bool:
        return self._process.suspect or self._process.name in self._world.cluster.expelled_from(self._group)

    def _is_off(self, provider: str, model: str) -> bool:
        now = self._process.clock()
        return any(names(off, provider, model, self._place) for off in _off(self._switches.table, now))

    def _new_execution(self) -> str:
        execution = self._process.new_id()
        EXECUTION.set(execution)
        return execution

    def _stop_tasks(self, cancelled: CancelledTasks) -> None:
        self._engine.cancel(partial(is_cancelled, cancelled))
        self._runner.interrupt(cancelled)

    async def _skip(self, record: Record) -> None:
        await self._runner.skip(record)
        self._world.judge.ends(self._process, record, ())

    async def _handle(self, record: Record) -> None:
        world, process = self._world, self._process
        world.judge.begins(process, self._group, record)
        about = f"{process.name} {record.topic_partition}@{record.offset}"
        if world.happens(Fault.HANDLER_PARKS, about):
            raise RetryRecord("later (simulated)", world.rng.choice((0.3, 3.0)))
        if world.happens(Fault.HANDLER_FAILS, about):
            raise HandlerFault("a defect (simulated)")
        asked: list[Call] = []
        ASKED.set(asked)
        await self._runner.handle(record)
        world.judge.ends(process, record, asked)

    async def run(self) -> None:
        await self._switches.table.start()
        await self._reporter.start()
        await self._cancellations.start()
        beside = [asyncio.create_task(self._reporter.run()), asyncio.create_task(self._cancellations.run())]
        try:
            await self._engine.run()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def drain(self) -> None:
        await self._reporter.leave()
        await self._engine.stop()


class AccountantBody:
    """The ledger of a cost accountant."""

    def __init__(self, world: SimulatedWorld, process: SimulatedProcess, log: MemoryLog) -> None:
        publisher = Publisher(log.producer(), world.kit.codec, f"headrace/cost-accountant/{process.name}")
        dead_letters = DeadLetters(publisher, "cost-accountant", PREFIX, process.clock)
        about = f"{process.name} database"
        ledger = SimulatedLedger(
            world.database,
            process.network,
            world.kit.prices,
            dead_letters.keep,
            lambda: world.happens(Fault.DATABASE_LOST_ANSWER, about),
        )
        self._projection = Projection(
            log,
            PREFIX + "cost-accountant.ledger",
            [topics.USAGE_RECORDED],
            world.kit.codec,
            ledger,
            dead_letters,
            max_batch=4,
        )

    async def run(self) -> None:
        await self._projection.run()

    async def drain(self) -> None:
        await self._projection.close()


async def _first_end(*work: Awaitable[None]) -> None:
    """Runs until one of these ends; raises its error."""
    futures = [asyncio.ensure_future(each) for each in work]
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for future in futures:
        if future in done:
            future.result()
