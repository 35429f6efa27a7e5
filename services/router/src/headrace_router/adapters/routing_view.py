"""The inputs of a decision besides the task itself: policy, prices, fleet and preferences, as currently known."""

from __future__ import annotations

from collections.abc import Callable

from headrace_contracts.events import NodeStatus, Preferences
from headrace_models.prices import PriceBook

from headrace_router.decide.fleet import Fleet, gained
from headrace_router.decide.model import DecisionContext, Peers
from headrace_router.decide.policy import Policy
from headrace_router.decide.tenant_quota import DEFAULT_QUOTA, TenantQuota


class RoutingView:
    """Follows the tables and gives each decision a consistent view.

    Args:
        clock: Milliseconds since the epoch.
        quota: What a tenant may have in flight in one partition.
    """

    def __init__(
        self, policy: Policy, prices: PriceBook, clock: Callable[[], int], quota: TenantQuota = DEFAULT_QUOTA
    ) -> None:
        self.policy = policy
        self.clock = clock
        self._prices = prices
        self._quota = quota
        self._nodes: dict[str, NodeStatus] = {}
        self._fleet: Fleet | None = None
        self._preferences: dict[str, Preferences] = {}
        self._on_gain: list[Callable[[], None]] = []

    def on_gain(self, call: Callable[[], None]) -> None:
        """Register a callback for when the fleet offers something that it did not offer before."""
        self._on_gain.append(call)

    def node_changed(self, key: str, status: NodeStatus | None) -> None:
        """Apply a node's newest status; None when the node has been removed."""
        before = self._nodes.pop(key, None)
        self._fleet = None
        if status is None:
            return
        self._nodes[key] = status
        if gained(before, status, self.clock()):
            for call in self._on_gain:
                call()

    def preferences_changed(self, key: str, preferences: Preferences | None) -> None:
        """Apply the newest preferences of `tenant/user`."""
        if preferences is None:
            self._preferences.pop(key, None)
        else:
            self._preferences[key] = preferences

    def context(self, peers: Peers, tenant: str, user: str) -> DecisionContext:
        """What is currently known for a task of this tenant and user."""
        if self._fleet is None:
            self._fleet = Fleet(self._nodes.values())
        return DecisionContext(
            now=self.clock(),
            policy=self.policy,
            prices=self._prices,
            fleet=self._fleet,
            peers=peers,
            user_preferences=self._preferences.get(f"{tenant}/{user}") if user else None,
            tenant_preferences=self._preferences.get(f"{tenant}/"),
            quota=self._quota,
        )
