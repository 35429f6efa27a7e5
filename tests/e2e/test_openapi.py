"""The OpenAPI documents, and whatever they allow: no service fails, and each answers as it says."""

from __future__ import annotations

import asyncio
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from headrace import Client
from headrace_testing.up import RunningStack
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.stack

CASES_OF_AN_OPERATION = int(os.environ.get("HEADRACE_CASES_OF_AN_OPERATION", "5"))
SERVICES = ("intake_url", "skills_url", "costs_url")
CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
async def everything(admin: Client, tenant: str) -> str:
    """A key that may do everything."""
    return (await admin.keys.create(tenant=tenant, name="schemathesis", scopes=("admin",))).key


def _get(url: str) -> tuple[str, str]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def _operations(schema: BaseSchema) -> Iterator[APIOperation[Any, Any, Any, Any]]:
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        yield found.ok()


@pytest.mark.parametrize("service", SERVICES)
async def test_whatever_the_document_allows_gets_an_answer_that_it_describes(
    platform: RunningStack, service: str, everything: str
) -> None:
    url = getattr(platform, service)
    content_type, text = await asyncio.to_thread(_get, f"{url}/openapi.json")
    assert content_type.startswith("application/json")
    schema = schemathesis.openapi.from_file(text)
    called = 0

    def call(case: Case[Any]) -> None:
        nonlocal called
        called += 1
        response = case.call(base_url=url, headers={"Authorization": f"Bearer {everything}"}, timeout=30)
        case.validate_response(response, checks=CHECKED)

    def fuzz() -> None:
        for operation in _operations(schema):
            settings(
                max_examples=CASES_OF_AN_OPERATION,
                phases=(Phase.generate,),
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )(given(case=operation.as_strategy())(call))()

    await asyncio.to_thread(fuzz)
    assert called >= CASES_OF_AN_OPERATION


@pytest.mark.parametrize("service", SERVICES)
async def test_the_page_shows_every_operation_and_loads_nothing(platform: RunningStack, service: str) -> None:
    url = getattr(platform, service)
    content_type, page = await asyncio.to_thread(_get, f"{url}/docs")
    assert content_type == "text/html; charset=utf-8"
    schema = schemathesis.openapi.from_file((await asyncio.to_thread(_get, f"{url}/openapi.json"))[1])
    paths = [operation.path for operation in _operations(schema)]
    assert paths
    assert all(f"<code>{path}</code>" in page for path in paths)
    assert "<script" not in page
    assert "src=" not in page
