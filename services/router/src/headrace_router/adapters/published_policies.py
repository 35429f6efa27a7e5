"""What the published policies mean in this process.

A revision that cannot be used here, because it is invalid or of a newer release, is passed over for the newest one
below it that can: the router says so, and does not stop for it.
"""

from __future__ import annotations

from headrace_contracts.events import PolicyPublished
from headrace_contracts.ids import digest

from headrace_router.adapters.policy_file import PolicyInvalid, parse_policy, read_tenant_policy
from headrace_router.decide.policy import Policy
from headrace_router.decide.revisions import INSTALLATION, Revisions, tenant_of
from headrace_router.decide.tenant_policy import TenantPolicy, narrowed


class PublishedPolicies:
    """Folds the topic `policies` over the policy of the router's own file.

    Attributes:
        policy: The installation's.
        revision: Its published revision; 0 for the file's.
        in_use: Names the policies of all scopes: equal ones have equal names.

    Args:
        base: The policy while none is published.
    """

    def __init__(self, base: Policy) -> None:
        self.policy = base
        self.revision = 0
        self.in_use = base.version
        self._base = base
        self._revisions = Revisions()
        self._narrowing: dict[str, TenantPolicy] = {}
        self._tenants: dict[str, Policy] = {}
        # Why a revision is passed over, and what of a tenant's does not count, by scope.
        self._passed_over: dict[str, str] = {}
        self._beyond: dict[str, str] = {}

    def of(self, tenant: str) -> Policy:
        """The policy that a tenant's tasks are routed by."""
        return self._tenants.get(tenant, self.policy)

    def apply(self, key: str, published: PolicyPublished | None) -> bool:
        """Take a record of the topic; returns whether any policy is another one now."""
        scope = self._revisions.apply(key, published)
        if scope is None:
            return False
        before = self.in_use
        self._passed_over.pop(scope, None)
        tenant = tenant_of(scope)
        if tenant is None:
            self._use_installation()
            for each in self._narrowing:
                self._narrow(each)
        else:
            self._use_tenant(scope, tenant)
            self._narrow(tenant)
        self.in_use = self.policy.version
        if self._tenants:
            names = [f"{name}={policy.version}" for name, policy in sorted(self._tenants.items())]
            self.in_use += "+" + digest(names)[:12]
        return self.in_use != before

    def _narrow(self, tenant: str) -> None:
        self._beyond.pop(tenant, None)
        said = self._narrowing.get(tenant)
        if said is None:
            self._tenants.pop(tenant, None)
            return
        self._tenants[tenant], beyond = narrowed(self.policy, said)
        if beyond:
            self._beyond[tenant] = f"tenant {tenant}: {'; '.join(beyond)}"

    def problem(self) -> str | None:
        """Which published policies do not count as they are, and why; None if all do."""
        return "; ".join([*self._passed_over.values(), *self._beyond.values()]) or None

    def _use_installation(self) -> None:
        self.policy, self.revision = self._base, 0
        for published in self._revisions.newest_first(INSTALLATION):
            if not published.text:
                self.revision = published.revision
                return
            try:
                self.policy = parse_policy(published.text, f"policy revision {published.revision}")
            except PolicyInvalid as error:
                self._passed_over.setdefault(INSTALLATION, f"passed over: {error}")
            else:
                self.revision = published.revision
                return

    def _use_tenant(self, scope: str, tenant: str) -> None:
        self._narrowing.pop(tenant, None)
        for published in self._revisions.newest_first(scope):
            if not published.text:
                return
            try:
                self._narrowing[tenant] = read_tenant_policy(
                    published.text, f"policy revision {published.revision} of {tenant}"
                )
            except PolicyInvalid as error:
                self._passed_over.setdefault(scope, f"passed over: {error}")
            else:
                return
