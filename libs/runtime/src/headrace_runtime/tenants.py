"""What each tenant may use: the shares and limits of all services, in one file.

```yaml
default: {weight: 1, requests_per_minute: 6000}   # of a tenant that is not named below
tenants:
  acme: {weight: 4, requests_per_minute: 60000}   # what is not said here is as in `default`
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import yaml
from headrace_contracts.headers import MOST_WEIGHT
from headrace_contracts.limits import TENANT_PATTERN
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, field_validator

from headrace_runtime.bodies import WHOLE
from headrace_runtime.invalid_fields import invalid_fields
from headrace_runtime.rate_limit import RequestRates
from headrace_runtime.settings import ApiSettings, Settings, setting


class TenantsInvalid(Exception):
    """The file of tenants is invalid: each line of the message names a key and what is wrong with it."""


class _OfTenants(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TenantLimits(_OfTenants):
    """What one tenant may use; None leaves it to the setting of the service.

    Attributes:
        weight: Its share of what is short, relative to other tenants that want it at the same time: a slot of a model,
            a place in a queue.
        requests_per_minute: Rate of all its keys together.
        live_tasks: Most tasks that have not ended, in each partition of the tasks.
        live_bytes: Most bytes of them, in each partition of the tasks.
    """

    weight: int = Field(default=1, ge=1, le=MOST_WEIGHT)
    requests_per_minute: int | None = Field(default=None, ge=1)
    live_tasks: int | None = Field(default=None, ge=1)
    live_bytes: int | None = Field(default=None, ge=1_048_576)


class Tenants(_OfTenants):
    """The limits of all tenants.

    Attributes:
        default: Of tenants that are not named, and of named ones what they do not say.
        tenants: By name.
    """

    default: TenantLimits = TenantLimits()
    tenants: Mapping[Annotated[str, StringConstraints(pattern=TENANT_PATTERN)], TenantLimits] = {}
    _whole: Mapping[str, TenantLimits] = PrivateAttr(default={})

    def model_post_init(self, _context: object, /) -> None:
        # Once, since services ask for every request.
        self._whole = {
            name: self.default.model_copy(update={field: getattr(own, field) for field in own.model_fields_set})
            for name, own in self.tenants.items()
        }

    @field_validator("default", "tenants", mode="before")
    @classmethod
    def _nothing_below(cls, value: object) -> object:
        # A key of YAML with all below it commented out.
        return {} if value is None else value

    def of(self, tenant: str) -> TenantLimits:
        """The limits of one tenant."""
        return self._whole.get(tenant, self.default)


NO_TENANTS: Final = Tenants()
"""All tenants are equal, and limited by the settings alone."""


def parse_tenants(text: str, source: str) -> Tenants:
    """Parse the limits from YAML text; `source` names it in errors. Raises TenantsInvalid."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TenantsInvalid(f"{source}: not YAML: {error}") from None
    if data is None:
        return NO_TENANTS
    try:
        return Tenants.model_validate(data)
    except ValidationError as error:
        wrong = invalid_fields(error, data)
        raise TenantsInvalid(
            "\n".join(
                f"{source}: {one.message}" if one.field == WHOLE else f"{source}: {one.field}: {one.message}"
                for one in wrong
            )
        ) from None


def load_tenants(path: Path | None) -> Tenants:
    """Load the limits from a file; without one all tenants are equal. Raises TenantsInvalid."""
    if path is None:
        return NO_TENANTS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise TenantsInvalid(f"{path}: {why}: check HEADRACE_TENANTS_FILE") from None
    return parse_tenants(text, str(path))


class TenantsSettings(Settings):
    """For a service that limits tenants, or shares something among them."""

    tenants_file: Path | None = setting(
        None,
        unit="path",
        reason="Weights and limits of tenants in YAML. Without it all are equal, and limited by the settings alone.",
    )

    @field_validator("tenants_file")
    @classmethod
    def _usable_tenants(cls, path: Path | None) -> Path | None:
        try:
            load_tenants(path)
        except TenantsInvalid as error:
            raise ValueError(str(error)) from None
        return path


def request_rates(settings: ApiSettings, tenants: Tenants) -> RequestRates:
    """The rates of keys and tenants that an API enforces."""
    otherwise = settings.tenant_requests_per_minute
    return RequestRates(
        settings.requests_per_minute, lambda tenant: tenants.of(tenant).requests_per_minute or otherwise
    )
