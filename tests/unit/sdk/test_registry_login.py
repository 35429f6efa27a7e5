"""The SDK and `headrace doctor` log in to the registry with the variables that services use."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from headrace.addresses import Addresses, locate
from headrace.cli.checkups.connections import check_registry
from headrace.cli.running import NOT_ALLOWED, run
from headrace.connecting import Cluster, registry_at
from headrace.errors import Misconfigured
from headrace_contracts.errors import RegistryAccessRefused
from typer import Exit

EXPECTED = {"Basic " + base64.b64encode(b"reader:s3cr3t").decode(), "Bearer t0k3n"}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") not in EXPECTED:
            return web.json_response({"message": "no"}, status=401)
        return web.json_response(["a-value"])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def addresses(url: str, **variables: str) -> Addresses:
    environ = {f"HEADRACE_REGISTRY_{name}": value for name, value in variables.items()}
    return locate(environ={"HEADRACE_BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_REGISTRY_URL": url, **environ})


@pytest.mark.parametrize("variables", [{"USERNAME": "reader", "PASSWORD": "s3cr3t"}, {"TOKEN": "t0k3n"}])
async def test_it_logs_in(url: str, variables: dict[str, str]) -> None:
    where = addresses(url, **variables)
    async with registry_at(where) as registry:
        assert await registry.subjects() == ["a-value"]
    for secret in ("s3cr3t", "t0k3n"):
        assert secret not in repr(where)


@pytest.mark.parametrize("variables", [{}, {"USERNAME": "reader", "PASSWORD": "wr0ng"}, {"TOKEN": "wr0ng"}])
async def test_a_refused_login_is_a_finding_that_says_what_to_set(url: str, variables: dict[str, str]) -> None:
    [finding] = await check_registry(addresses(url, **variables))
    assert not finding.well
    assert "401" in finding.detail
    assert "HEADRACE_REGISTRY_" in finding.detail
    assert "wr0ng" not in str(finding)


def test_a_refused_login_is_no_outage(capsys: pytest.CaptureFixture[str]) -> None:
    async def refused() -> None:
        raise RegistryAccessRefused("401: set HEADRACE_REGISTRY_TOKEN")

    with pytest.raises(Exit) as ended:
        run(refused())
    assert ended.value.exit_code == NOT_ALLOWED
    assert "set HEADRACE_REGISTRY_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PASSWORD": "s3cr3t"}, "HEADRACE_REGISTRY_USERNAME"),
        ({"TOKEN": "s3cr3t\n"}, "HEADRACE_REGISTRY_TOKEN"),
        ({"CLIENT_KEY_FILE": "/nowhere"}, "HEADRACE_REGISTRY_CLIENT_CERTIFICATE_FILE"),
    ],
)
async def test_a_login_that_cannot_work_is_refused_by_name(variables: dict[str, str], said: str) -> None:
    where = addresses("https://127.0.0.1:1", **variables)
    with pytest.raises(Misconfigured, match=said) as refused:
        Cluster.at(where)
    assert "s3cr3t" not in str(refused.value)
    assert said in (await check_registry(where))[0].detail


def test_files_are_paths() -> None:
    access = addresses("https://r", CA_FILE="/ca.pem", CLIENT_CERTIFICATE_FILE="/c.pem", CLIENT_KEY_FILE="/k.pem")
    assert access.registry_access.ca_file == Path("/ca.pem")
    assert access.registry_access.client_certificate_file == Path("/c.pem")
    assert access.registry_access.client_key_file == Path("/k.pem")
