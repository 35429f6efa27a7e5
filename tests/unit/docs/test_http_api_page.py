"""docs/http-api.md has what the APIs for skills and costs serve."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from aiohttp import web
from headrace_contracts.tools.schemas import repository
from headrace_cost_accountant.adapters.costs_api import CostsApi
from headrace_cost_accountant.decide.questions import GROUPS
from headrace_skill_broadcaster.adapters.skills_api import PublishRequest, SkillsApi

PAGE = (repository() / "docs" / "http-api.md").read_text("utf-8")
NOTHING: Any = cast("Any", None)


def served() -> list[str]:
    app = web.Application()

    class Feed:
        async def open(self, _request: web.Request) -> web.StreamResponse:
            raise NotImplementedError

    SkillsApi(NOTHING, cast("Any", Feed())).add_to(app)
    CostsApi(NOTHING, NOTHING, NOTHING).add_to(app)
    routes = (route for route in app.router.routes() if route.method != "HEAD" and route.resource is not None)
    return [f"{route.method} {route.resource.canonical}" for route in routes if route.resource is not None]


@pytest.mark.parametrize("route", served())
def test_every_route_has_a_section(route: str) -> None:
    method, path = route.split()
    headings = [line for line in PAGE.splitlines() if line.startswith("### ")]
    assert any(line.startswith(f"### {method} ") and path in re.split(r"[ ,]+", line) for line in headings), route


def test_fields_and_groups_are_named() -> None:
    skills, costs = PAGE.split("\n## Skills\n")[1].split("\n## Costs\n")
    for field in PublishRequest.model_fields:
        assert f'"{field}"' in skills or f"`{field}`" in skills, field
    for group in GROUPS:
        assert f"`{group}`" in costs, group
