"""What the cost accountant's HTTP API offers, for its OpenAPI document."""

from __future__ import annotations

from typing import Final

from headrace_runtime.openapi import ApiOperation, Parameter

from headrace_cost_accountant.decide.demand import FORECASTS_BY
from headrace_cost_accountant.decide.forecast import LONGEST_AHEAD
from headrace_cost_accountant.decide.questions import GROUPS, MOST_GROUPS

ABOUT: Final = "What tasks cost: reports, and the present minute, hour and day."

_TENANT: Final = Parameter("tenant", "Another tenant, or `*` for all together; for keys with the scope admin.")

OPERATIONS: Final = (
    ApiOperation(
        "GET",
        "/v1/costs",
        "The costs of a period",
        parameters=(
            Parameter("since", "From this time on (RFC 3339, or milliseconds since the epoch)."),
            Parameter("until", "Before this time."),
            Parameter("group_by", f"Up to {MOST_GROUPS} of {', '.join(GROUPS)}, with commas between, or repeated."),
            _TENANT,
        ),
        content=("application/json", "text/csv"),
        scope="costs",
    ),
    ApiOperation(
        "GET",
        "/v1/costs/live",
        "The costs of the present minute, hour and day",
        parameters=(_TENANT,),
        scope="costs",
    ),
    ApiOperation(
        "GET",
        "/v1/costs/forecast",
        "The model calls that are expected to run at once, hour by hour, of all tenants together",
        parameters=(
            Parameter("by", f"One of {', '.join(FORECASTS_BY)}; model by default."),
            Parameter("hours", f"For how many hours from the present one on, 1 to {LONGEST_AHEAD}; 24 by default."),
        ),
        scope="admin",
    ),
)
