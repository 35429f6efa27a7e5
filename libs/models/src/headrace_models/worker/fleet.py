"""Probes the endpoints and publishes their status: at once when something changes, else periodically."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts import events
from headrace_contracts.sites import NO_SITE
from headrace_contracts.topics import FLEET_STATUS
from headrace_streams.errors import StreamsError
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata

from headrace_models.ports import ModelInfo, ProviderStatus
from headrace_models.worker.endpoint import NOT_LOOKED_AT, Endpoint
from headrace_models.worker.pool import Pool

_log = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS: Final = 5.0
_SOON_SECONDS: Final = 2.0


ModelsOf = Callable[[tuple[ModelInfo, ...]], tuple[ModelInfo, ...]]


def all_models(models: tuple[ModelInfo, ...]) -> tuple[ModelInfo, ...]:
    """Reports an endpoint's models as it lists them."""
    return models


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """How often to probe and to report.

    Attributes:
        worker: Name of this process in its reports.
        where: Whether the endpoints are ours.
        site: Site of this process; empty for none.
        look_seconds: Interval between probes of an endpoint.
        report_seconds: Longest interval between reports; a report is valid for three times as long.
        models_of: Which of the models that an endpoint lists to report.
    """

    worker: str
    where: events.Place
    site: str = NO_SITE
    look_seconds: float
    report_seconds: float = 5.0
    models_of: ModelsOf = all_models


def node_status(
    endpoint: Endpoint, options: FleetOptions, *, objection: str | None, now: float, reported_at: int
) -> events.NodeStatus:
    """The status event of an endpoint; `now` in seconds of the monotonic clock, `reported_at` in milliseconds since the
    epoch."""
    status = endpoint.status
    return events.NodeStatus(
        node=endpoint.name,
        place=options.where,
        provider=endpoint.provider.provider,
        worker=options.worker,
        site=options.site,
        healthy=objection is None,
        reason=objection or "",
        simulated=status.simulated,
        models=tuple(
            events.ModelStatus(
                name=model.name,
                size_bytes=model.size_bytes,
                context_tokens=model.context_tokens,
                loaded=model.loaded,
                capabilities=None if model.capabilities is None else tuple(sorted(model.capabilities)),
                details=dict(model.details),
                observed=endpoint.observed[model.name].summary(now) if model.name in endpoint.observed else None,
            )
            for model in status.models
        ),
        slots=endpoint.slots,
        busy=endpoint.busy,
        tokens_per_second=endpoint.tokens_per_second,
        latency_ms=status.latency_ms,
        hardware={**endpoint.hardware, **({"version": status.version} if status.version else {})},
        placements=endpoint.placements,
        valid_for_ms=round(options.report_seconds * 3000),
        reported_at=reported_at,
    )


def tells_more(before: events.NodeStatus | None, after: events.NodeStatus) -> bool:
    """Whether a status must be published at once: something that affects routing has changed."""
    if before is None:
        return True
    alike = replace(
        after,
        busy=before.busy,
        tokens_per_second=before.tokens_per_second,
        latency_ms=before.latency_ms,
        reported_at=before.reported_at,
        models=_unobserved(after),
    )
    return alike != replace(before, models=_unobserved(before))


def _unobserved(status: events.NodeStatus) -> tuple[events.ModelStatus, ...]:
    return tuple(replace(model, observed=None) for model in status.models)


class FleetReporter:
    """Keeps the endpoints' status up to date in the pool and in the fleet topic.

    `start` returns after the first probe of every endpoint; `run` goes on until it is cancelled; `leave` announces that
    this worker's endpoints accept no more work.
    """

    def __init__(self, pool: Pool, publisher: Publisher, options: FleetOptions, clock_ms: Callable[[], int]) -> None:
        self._pool = pool
        self._publisher = publisher
        self._options = options
        self._clock_ms = clock_ms
        self._reported: dict[str, events.NodeStatus] = {}
        self._leaving = False
        self._membership = asyncio.Event()
        pool.follow(self)

    @property
    def reported(self) -> Mapping[str, events.NodeStatus]:
        """The latest report of each endpoint."""
        return self._reported

    async def start(self) -> None:
        """Probe every endpoint once, and report it."""
        looks = [asyncio.create_task(self._look(endpoint)) for endpoint in self._pool.endpoints.values()]
        if looks:
            await asyncio.wait(looks, timeout=_FIRST_LOOK_SECONDS)
        self._report(everything=True)

    async def run(self) -> None:
        """Probe and report until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report_changes())
            tasks.create_task(self._report_regularly())
            await self._look_at_all(tasks)

    def joined(self, endpoint: Endpoint) -> None:
        self._membership.set()

    def left(self, endpoint: Endpoint) -> None:
        self._membership.set()
        if self._reported.pop(endpoint.name, None) is not None:
            self._queue(endpoint.name, lambda: self._publisher.send_tombstone(FLEET_STATUS, self._key(endpoint.name)))

    async def _look_at_all(self, tasks: asyncio.TaskGroup) -> None:
        looking: dict[Endpoint, asyncio.Task[None]] = {}
        while True:
            self._membership.clear()
            here = set(self._pool.endpoints.values())
            for gone in looking.keys() - here:
                looking.pop(gone).cancel()
            for new in here - looking.keys():
                looking[new] = tasks.create_task(self._keep_looking(new))
            await self._membership.wait()

    async def leave(self) -> None:
        """Announce that these endpoints accept no more work from here; returns when that is durable."""
        self._leaving = True
        self._report(everything=True)
        try:
            await self._publisher.flush()
        except StreamsError as error:
            _log.warning("could not report that this worker is leaving: %s", error)

    async def _keep_looking(self, endpoint: Endpoint) -> None:
        failures = 0
        while True:
            failures = 0 if endpoint.status.healthy else failures + 1
            # An endpoint that is down is probed soon, then less and less often: some limit how often they may be asked.
            wait = self._options.look_seconds
            if failures:
                wait = min(wait, _SOON_SECONDS * 2.0 ** min(failures - 1, 20))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await endpoint.doubted.wait()
            endpoint.doubted.clear()
            await self._look(endpoint)

    async def _look(self, endpoint: Endpoint) -> None:
        status = await endpoint.provider.status()
        if self._pool.endpoints.get(endpoint.name) is not endpoint:
            return  # it has left meanwhile
        models = self._options.models_of(status.models)
        if status.healthy != endpoint.status.healthy or endpoint.status is NOT_LOOKED_AT:
            _log.log(
                logging.INFO if status.healthy else logging.WARNING,
                "%s is %s", endpoint.name, "healthy" if status.healthy else f"not healthy: {status.reason}",
            )  # fmt: skip
        self._pool.update(endpoint.name, _steady(replace(status, models=models), endpoint.status))

    async def _report_changes(self) -> None:
        while True:
            await self._pool.changed.wait()
            self._pool.changed.clear()
            self._report(everything=False)

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._options.report_seconds)
            self._report(everything=True)

    def _report(self, *, everything: bool) -> None:
        now = asyncio.get_running_loop().time()
        for endpoint in self._pool.endpoints.values():
            objection = "its worker is leaving" if self._leaving else endpoint.objection(now)
            status = node_status(endpoint, self._options, objection=objection, now=now, reported_at=self._clock_ms())
            if everything or tells_more(self._reported.get(endpoint.name), status):
                self._reported[endpoint.name] = status
                self._send(status)

    def _send(self, status: events.NodeStatus) -> None:
        publication = Publication(
            spec=FLEET_STATUS,
            event=status,
            event_id=f"{status.node}/{status.worker}/{status.reported_at}",
            key=self._key(status.node),
            tenant="",
            time_ms=status.reported_at,
            subject=status.node,
        )
        self._queue(status.node, lambda: self._publisher.send(publication))

    def _key(self, node: str) -> bytes:
        # Several workers may see one node differently, so each reports under a key of its own.
        return f"{node}/{self._options.worker}".encode()

    def _queue(self, node: str, send: Callable[[], asyncio.Future[RecordMetadata]]) -> None:
        try:
            send().add_done_callback(_sent)
        except StreamsError as error:
            _log.warning("the status of %s could not be reported: %s", node, error)


def _steady(status: ProviderStatus, before: ProviderStatus) -> ProviderStatus:
    """An unreachable endpoint keeps its models and whether it is simulated, so that a report says what is missing."""
    if status.healthy:
        return status
    return replace(status, models=before.models, simulated=before.simulated, version=before.version)


def _sent(future: asyncio.Future[RecordMetadata]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        _log.warning("a status could not be reported: %s", error)
