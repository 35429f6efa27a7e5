"""The inputs of a decision besides the task itself: policy, prices, fleet and preferences, as currently known."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from headrace_contracts.events import (
    NodeStatus,
    PolicyPublished,
    Preferences,
    SensitiveSession,
    SwitchedOff,
)
from headrace_contracts.sites import NO_SITE
from headrace_contracts.switches import Switches
from headrace_models.prices import PriceBook
from headrace_runtime.tenants import NO_TENANTS, TenantLimits, Tenants

from headrace_router.adapters.published_policies import PublishedPolicies
from headrace_router.decide.attempt_windows import DEFAULT_WINDOW, AttemptWindow
from headrace_router.decide.fleet import Fleet, expires_at, gained
from headrace_router.decide.model import DecisionContext, Peers
from headrace_router.decide.policy import Policy
from headrace_router.decide.sensitive_sessions import NO_SESSIONS, KnownSessions, SensitiveSessions
from headrace_router.decide.tenant_quota import DEFAULT_QUOTA, TenantQuota

_MOST_SESSIONS: Final = 100_000
_SESSION_FILTER_BYTES: Final = 1024 * 1024


class RoutingView:
    """Follows the tables and gives each decision a consistent view.

    Args:
        policy: Counts while no other one is published.
        clock: Milliseconds since the epoch.
        quota: What a tenant may have in flight in one partition, where `tenants` says nothing else.
        tenants: Limits of single tenants.
        window: What a tenant may have out in one topic of attempts, of one partition.
        sites: Sites of local workers whose topics exist. What reports from others offer cannot be used.
    """

    def __init__(
        self,
        policy: Policy,
        prices: PriceBook,
        clock: Callable[[], int],
        quota: TenantQuota = DEFAULT_QUOTA,
        tenants: Tenants = NO_TENANTS,
        window: AttemptWindow = DEFAULT_WINDOW,
        sites: Iterable[str] = (),
    ) -> None:
        self._published = PublishedPolicies(policy)
        self._switches = Switches()
        # When the next switch is on again by itself, in milliseconds since the epoch.
        self._switch_ends: int | None = None
        self.clock = clock
        self._prices = prices
        self.window = window
        self._quota = _within(tenants.default, quota)
        self._quotas = {name: _within(tenants.of(name), quota) for name in tenants.tenants}
        # Reports that have not expired, by key, and when to look at each whether it has; a key is there once.
        self._nodes: dict[str, NodeStatus] = {}
        self._expiring: list[tuple[int, str]] = []
        self._looked_after: set[str] = set()
        # The others, by provider and key: all that they tell is that the provider is known.
        self._expired: defaultdict[str, dict[str, NodeStatus]] = defaultdict(dict)
        self._provider_of: dict[str, str] = {}
        self._fleet: Fleet | None = None
        self._former_fleet: Fleet | None = None
        self._preferences: dict[str, Preferences] = {}
        self.sensitive_sessions = SensitiveSessions(_MOST_SESSIONS, _SESSION_FILTER_BYTES)
        """Those of all partitions, as their routers have told."""
        self.sites = frozenset({NO_SITE, *sites})
        # Reports from sites that are not among them: site and expiry by key.
        self._undeclared: dict[str, tuple[str, int]] = {}
        self.gains = 0
        """How often the fleet, a policy or a switch has made something possible that may not have been before."""
        self._on_gain: list[Callable[[], None]] = []

    def on_gain(self, call: Callable[[], None]) -> None:
        """Register a callback for when `gains` rises."""
        self._on_gain.append(call)

    @property
    def policy(self) -> Policy:
        """The installation's."""
        return self._published.policy

    def policy_of(self, tenant: str) -> Policy:
        """The policy of a tenant's tasks."""
        return self._published.of(tenant)

    @property
    def policy_in_use(self) -> str:
        """Names all policies that decisions are made by: the installation's version, and a digest of the tenants'."""
        return self._published.in_use

    @property
    def policy_revision(self) -> int:
        """The published revision of the installation's policy; 0 for that of the router's own file."""
        return self._published.revision

    def policy_changed(self, key: str, published: PolicyPublished | None) -> None:
        """Apply a revision of a policy."""
        if self._published.apply(key, published):
            self._gained()

    def policy_problem(self) -> str | None:
        """Which published policies do not count here as they are, and why; None if all do."""
        return self._published.problem()

    def switch_changed(self, key: str, off: SwitchedOff | None) -> None:
        """Apply a kill switch; None when it is on again."""
        changed = self._switches.with_record(key, off)
        if changed is self._switches:
            return
        self._switches = changed
        self._switch_ends = self._switches.next_end(self.clock())
        self._gained()

    def look_at_switches(self) -> None:
        """Notice those that are on again by now."""
        if self._switch_ends is not None and self.clock() >= self._switch_ends:
            self._switch_ends = self._switches.next_end(self.clock())
            self._gained()

    def _gained(self) -> None:
        self.gains += 1
        for call in self._on_gain:
            call()

    def node_changed(self, key: str, status: NodeStatus | None) -> None:
        """Apply a node's newest status; None when the node has been removed."""
        before = self._nodes.pop(key, None)
        self._forget_expired(key)
        self._undeclared.pop(key, None)
        self._fleet = None
        if status is None:
            return
        if status.site not in self.sites:
            self._undeclared[key] = status.site, expires_at(status)
            return
        self._nodes[key] = status
        self._look_after(key, status)
        if gained(before, status, self.clock()):
            self._gained()

    def preferences_changed(self, key: str, preferences: Preferences | None) -> None:
        """Apply the newest preferences of `tenant/user`."""
        if preferences is None:
            self._preferences.pop(key, None)
        else:
            self._preferences[key] = preferences

    def session_changed(self, key: str, session: SensitiveSession | None) -> None:
        """A session is sensitive. That it is so no more follows from its age alone."""
        if session is not None and session.mark.hex() == key:
            self.sensitive_sessions.note(session.mark, session.marked_at)

    def undeclared_sites(self) -> str | None:
        """What is wrong if workers report from sites whose topics are not known here; None if none do."""
        now = self.clock()
        found = sorted({site for site, expiry in self._undeclared.values() if now < expiry})
        if not found:
            return None
        return (
            f"workers report from {', '.join(found)}, which HEADRACE_SITES does not name: their nodes get no work. "
            "Name all sites there, in the router and in what creates topics"
        )

    def silent_sites(self) -> frozenset[str]:
        """The sites of which no worker reports any more, while another site has usable nodes; see `Fleet.hears`."""
        fleet, now = self._newest_fleet(), self.clock()
        if not any(fleet.usable_at(site, now) for site in fleet.sites()):
            return frozenset()
        return frozenset(site for site in self.sites if not fleet.hears(site, now))

    def last_reports(self) -> Iterator[NodeStatus]:
        """The last report of each node at the sites that are known here, also of nodes that are gone."""
        yield from self._nodes.values()
        for reports in self._expired.values():
            yield from reports.values()

    def _newest_fleet(self) -> Fleet:
        if self._fleet is None:
            self._fleet = self._former_fleet = Fleet(self._known(), self._former_fleet)
        return self._fleet

    def context(self, peers: Peers, tenant: str, user: str, sessions: KnownSessions = NO_SESSIONS) -> DecisionContext:
        """What is currently known for a task of this tenant and user, in a partition that knows of `sessions`."""
        return DecisionContext(
            now=self.clock(),
            policy=self._published.of(tenant),
            switches=self._switches,
            prices=self._prices,
            fleet=self._newest_fleet(),
            peers=peers,
            user_preferences=self._preferences.get(f"{tenant}/{user}") if user else None,
            tenant_preferences=self._preferences.get(f"{tenant}/"),
            quota=self._quotas.get(tenant, self._quota),
            window=self.window,
            sessions=sessions,
        )

    def _known(self) -> Iterator[NodeStatus]:
        """The reports that have not expired, and of each provider one that has: of workers that came and went there may
        be thousands."""
        now = self.clock()
        while self._expiring and self._expiring[0][0] <= now:
            _, key = heapq.heappop(self._expiring)
            self._looked_after.discard(key)
            status = self._nodes.get(key)
            if status is None:
                continue
            if expires_at(status) > now:
                self._look_after(key, status)
                continue
            del self._nodes[key]
            self._expired[status.provider][key] = status
            self._provider_of[key] = status.provider
        yield from self._nodes.values()
        for reports in self._expired.values():
            yield next(iter(reports.values()))

    def _look_after(self, key: str, status: NodeStatus) -> None:
        if key not in self._looked_after:
            self._looked_after.add(key)
            heapq.heappush(self._expiring, (expires_at(status), key))

    def _forget_expired(self, key: str) -> None:
        provider = self._provider_of.pop(key, None)
        if provider is not None:
            reports = self._expired[provider]
            del reports[key]
            if not reports:
                del self._expired[provider]


def _within(limits: TenantLimits, quota: TenantQuota) -> TenantQuota:
    """The quota, but for what the limits say."""
    tasks = quota.tasks if limits.live_tasks is None else limits.live_tasks
    return TenantQuota(tasks, quota.bytes if limits.live_bytes is None else limits.live_bytes)
