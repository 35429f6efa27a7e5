"""What tenants and users demand: at first, and as it changes while everything runs.

All of it is drawn from a generator of its own, so that the seeds without changes keep their schedules.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from headrace_contracts import topics
from headrace_contracts.events import Mode, Preferences, PrivacyLevel
from headrace_streams.publishing import Publication

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

CONSENTED: Final = {"acme": ("groq",), "bolt": ()}
"""The most that each tenant consents to."""
USER: Final = "ann"
VARIED_SHARE: Final = 0.4
"""Share of seeds in which tenants and users demand more than nothing."""
_MOST_CHANGES: Final = 4
_EVERYBODY: Final = ("groq", "anthropic")


class SettingsWriter:
    """Writes preferences, whoever may have the right to: also those of users that say less than their tenant's.

    Attributes:
        varied: Whether anybody demands anything in this seed.
    """

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._rng = random.Random(f"{world.plan.seed} demands")
        self.varied = self._rng.random() < VARIED_SHARE
        self._count = 0

    def begin(self) -> None:
        """Write the preferences of all tenants, and later changes of them."""
        for tenant, providers in CONSENTED.items():
            self._write(self._of_tenant(tenant) if self.varied else self._record(tenant, allowed_providers=providers))
        if not self.varied:
            return
        rng = self._rng
        for tenant in CONSENTED:
            if rng.random() < 0.6:
                self._write(self._of_user(tenant))
        for _ in range(rng.randint(0, _MOST_CHANGES)):
            self._world.loop.outside(rng.uniform(0.0, self._world.plan.fault_seconds), self._change)

    def _change(self) -> None:
        tenant = self._rng.choice(tuple(CONSENTED))
        changed = self._of_user(tenant) if self._rng.random() < 0.5 else self._of_tenant(tenant)
        self._world.trace.note(f"{tenant}/{changed.user} demands {changed.privacy_level}, {changed.ai_mode}")
        self._world.cluster.client = "clients"
        self._write(changed)

    def _of_tenant(self, tenant: str) -> Preferences:
        rng = self._rng
        return self._record(
            tenant,
            privacy_level=rng.choice(
                (None, None, None, PrivacyLevel.STANDARD, PrivacyLevel.STANDARD, PrivacyLevel.HIGH)
            ),
            ai_mode=rng.choice((None, None, None, Mode.HYBRID, Mode.LOCAL, Mode.CLOUD)),
            allowed_providers=rng.choice((CONSENTED[tenant], CONSENTED[tenant], ())),
        )

    def _of_user(self, tenant: str) -> Preferences:
        rng = self._rng
        return self._record(
            tenant,
            user=USER,
            privacy_level=rng.choice((None, PrivacyLevel.LOW, PrivacyLevel.LOW, *PrivacyLevel)),
            ai_mode=rng.choice((None, Mode.CLOUD, Mode.CLOUD, *Mode)),
            allowed_providers=rng.choice(((), _EVERYBODY, _EVERYBODY, ("anthropic",), ("groq",))),
        )

    def _record(
        self,
        tenant: str,
        *,
        user: str = "",
        privacy_level: PrivacyLevel | None = None,
        ai_mode: Mode | None = None,
        allowed_providers: tuple[str, ...] = (),
    ) -> Preferences:
        return Preferences(
            tenant=tenant, user=user, privacy_level=privacy_level, ai_mode=ai_mode, allowed_providers=allowed_providers,
            updated_at=self._world.now_ms(),
        )  # fmt: skip

    def _write(self, preferences: Preferences) -> None:
        tenant, self._count = preferences.tenant, self._count + 1
        event_id = f"{tenant}/preferences/{self._count}" if self.varied else f"{tenant}/preferences"
        self._world.clients.write(
            Publication(
                spec=topics.PREFERENCES, event=preferences, event_id=event_id,
                key=f"{tenant}/{preferences.user}".encode(), tenant=tenant, time_ms=preferences.updated_at,
            )
        )  # fmt: skip
