"""The registry client logs in as it is told, to the address it is told, and its secrets appear nowhere."""

from __future__ import annotations

import base64
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from headrace_contracts.errors import (
    RegistryAccessInvalid,
    RegistryAccessRefused,
    RegistryUnavailable,
    SchemaIncompatible,
)
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.registry_access import RegistryAccess
from headrace_testing.certificates import Authority

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PASSWORD = "pässwört: with a colon"
TOKEN = "eyJhbGciOi.J9.x-y_z~+/="
BASIC = base64.b64encode(f"reader:{PASSWORD}".encode()).decode()


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of a server that lets this function answer everything."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"http{'s' if context else ''}://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


class Guarded:
    """A registry that lets in whoever shows the expected header, and remembers what it was shown."""

    def __init__(self, expected: str | None, has: str | None = None) -> None:
        self.expected = expected
        self.has = has
        self.shown: list[str | None] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.shown.append(request.headers.get("Authorization"))
        if self.expected is not None and self.shown[-1] != self.expected:
            return web.json_response({"error_code": 40101, "message": f"who is {self.shown[-1]}?"}, status=401)
        if request.method == "POST":
            return web.json_response(
                {"message": f"refused what {self.shown[-1]} wants, who has {self.has}"}, status=409
            )
        return web.json_response(["a-value"])


BY_NAME = RegistryAccess(username="reader", password=PASSWORD)
BY_TOKEN = RegistryAccess(token=TOKEN)
LOGINS = {"name and password": (BY_NAME, f"Basic {BASIC}"), "token": (BY_TOKEN, f"Bearer {TOKEN}")}


@pytest.mark.parametrize("kind", LOGINS)
async def test_it_logs_in(kind: str) -> None:
    access, header = LOGINS[kind]
    guarded = Guarded(header, access.password)
    async with serving(guarded) as url, SchemaRegistry(url, access=access) as registry:
        assert await registry.subjects() == ["a-value"]
        with pytest.raises(SchemaIncompatible) as refused:
            await registry.register("a-value", "{}")
    assert set(guarded.shown) == {header}
    for secret in (PASSWORD, TOKEN, BASIC):
        assert secret not in str(refused.value)


async def test_nothing_is_shown_to_a_registry_without_login() -> None:
    guarded = Guarded(None)
    async with serving(guarded) as url, SchemaRegistry(url) as registry:
        await registry.subjects()
    assert guarded.shown == [None]


@pytest.mark.parametrize(
    ("access", "remedy"),
    [
        (RegistryAccess(username="reader", password="wrong"), "correct them"),
        (RegistryAccess(token="expired"), "HEADRACE_REGISTRY_TOKEN, or the token has expired"),
        (RegistryAccess(), "set HEADRACE_REGISTRY_USERNAME and HEADRACE_REGISTRY_PASSWORD"),
    ],
)
async def test_a_refused_login_says_what_to_do(access: RegistryAccess, remedy: str) -> None:
    async with serving(Guarded("Basic right")) as url, SchemaRegistry(url, access=access) as registry:
        for call in (registry.subjects(), registry.schema(7), registry.register("a-value", "{}")):
            with pytest.raises(RegistryAccessRefused, match=remedy) as refused:
                await call
            assert "wrong" not in str(refused.value)
            assert "Basic" not in str(refused.value)


async def test_a_right_that_is_missing_is_named() -> None:
    async def forbid(_request: web.Request) -> web.Response:
        return web.Response(status=403, text="<html>no</html>")

    async with serving(forbid) as url, SchemaRegistry(url, access=BY_TOKEN) as registry:
        with pytest.raises(RegistryAccessRefused, match="no right to do this"):
            await registry.register("a-value", "{}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", LOGINS)
async def test_a_login_does_not_follow_a_redirect(kind: str, status: int) -> None:
    elsewhere = Guarded(None)
    async with serving(elsewhere) as other:

        async def redirect(request: web.Request) -> web.Response:
            shown = request.headers["Authorization"]
            return web.Response(status=status, headers={"Location": f"{other}/{shown}?token={TOKEN}"})

        async with serving(redirect) as url, SchemaRegistry(url, access=LOGINS[kind][0]) as registry:
            for call in (registry.subjects(), registry.schema(7), registry.register("a-value", "{}")):
                with pytest.raises(RegistryUnavailable, match="redirects") as refused:
                    await call
                assert TOKEN not in str(refused.value)
                assert BASIC not in str(refused.value)
    assert elsewhere.shown == []


@pytest.mark.parametrize("compressed", [False, True])
async def test_an_answer_without_end_is_not_kept(compressed: bool) -> None:
    body = b"[" + b" " * 40_000_000

    async def flood(_request: web.Request) -> web.Response:
        headers = {"Content-Encoding": "gzip"} if compressed else {}
        return web.Response(body=gzip.compress(body) if compressed else body, headers=headers)

    async with serving(flood) as url, SchemaRegistry(url) as registry:
        with pytest.raises(RegistryUnavailable):
            await registry.subjects()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_context(authority: Authority, clients: Authority | None = None) -> ssl.SSLContext:
    """TLS of the server; with `clients`, it requires a certificate of that authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.certificate("server"))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)
    return context


async def test_a_named_authority_is_trusted(authority: Authority) -> None:
    access = RegistryAccess(ca_file=authority.file)
    async with serving(Guarded(None), server_context(authority)) as url, SchemaRegistry(url, access=access) as registry:
        assert await registry.subjects() == ["a-value"]


async def test_without_it_the_registry_is_a_stranger(authority: Authority) -> None:
    async with serving(Guarded(None), server_context(authority)) as url, SchemaRegistry(url) as registry:
        with pytest.raises(RegistryUnavailable, match="set HEADRACE_REGISTRY_CA_FILE"):
            await registry.subjects()


async def test_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    one = authority.certificate("client")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_text(one.read_text().partition("-----BEGIN PRIVATE KEY")[0])
    key.write_text("-----BEGIN PRIVATE KEY" + one.read_text().partition("-----BEGIN PRIVATE KEY")[2])
    async with serving(Guarded(f"Bearer {TOKEN}"), server_context(authority, authority)) as url:
        for files in ((one, None), (certificate, key)):
            access = RegistryAccess(
                token=TOKEN, ca_file=authority.file, client_certificate_file=files[0], client_key_file=files[1]
            )
            async with SchemaRegistry(url, access=access) as registry:
                assert await registry.subjects() == ["a-value"]


async def test_no_client_certificate_and_a_stranger_s_say_what_to_set(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    stranger = Authority(tmp_path / "others", "stranger").certificate("client")
    async with serving(Guarded(None), server_context(authority, authority)) as url:
        for file in (None, stranger):
            access = RegistryAccess(ca_file=authority.file, client_certificate_file=file)
            async with SchemaRegistry(url, access=access) as registry:
                with pytest.raises(RegistryUnavailable, match="HEADRACE_REGISTRY_CLIENT_CERTIFICATE_FILE"):
                    await registry.subjects()


@pytest.mark.parametrize(
    ("access", "url", "names"),
    [
        (RegistryAccess(username="reader"), "http://r", "HEADRACE_REGISTRY_USERNAME: needs HEADRACE_REGISTRY_PASSWORD"),
        (RegistryAccess(password="p"), "http://r", "HEADRACE_REGISTRY_PASSWORD: needs HEADRACE_REGISTRY_USERNAME"),
        (RegistryAccess(username="a:b", password="secret1"), "http://r", "HEADRACE_REGISTRY_USERNAME: .*colon"),
        (RegistryAccess(username="a\r\nX", password="secret1"), "http://r", "HEADRACE_REGISTRY_USERNAME: .*control"),
        (RegistryAccess(username="a", password="secret1\n"), "http://r", "HEADRACE_REGISTRY_PASSWORD: .*line break"),
        (RegistryAccess(token="secret1\n"), "http://r", "HEADRACE_REGISTRY_TOKEN: contains"),
        (RegistryAccess(token="sécret1"), "http://r", "HEADRACE_REGISTRY_TOKEN: contains"),
        (RegistryAccess(token="secret1", username="a", password="secret1"), "http://r", "keep one of them"),
        (RegistryAccess(), "http://a:secret1@r", "HEADRACE_REGISTRY_URL: contains a login"),
        (RegistryAccess(client_key_file=Path("k")), "https://r", "needs HEADRACE_REGISTRY_CLIENT_CERTIFICATE_FILE"),
        (RegistryAccess(client_certificate_file=Path("c")), "http://r", "https"),
        (RegistryAccess(client_certificate_file=Path("absent")), "https://r", "CLIENT_CERTIFICATE_FILE: absent"),
        (RegistryAccess(ca_file=Path("absent")), "https://r", "HEADRACE_REGISTRY_CA_FILE: absent: No such file"),
    ],
)
def test_what_cannot_work_is_refused_by_name(access: RegistryAccess, url: str, names: str) -> None:
    with pytest.raises(RegistryAccessInvalid, match=names) as refused:
        SchemaRegistry(url, access=access)
    assert "secret1" not in str(refused.value)


def test_files_that_are_no_certificates_are_refused(authority: Authority, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("not PEM")
    sealed = authority.certificate("sealed", password=b"passphrase")
    for access in (
        RegistryAccess(ca_file=rubbish),
        RegistryAccess(client_certificate_file=rubbish),
        RegistryAccess(client_certificate_file=authority.file),
        RegistryAccess(client_certificate_file=authority.certificate("client"), client_key_file=sealed),
        RegistryAccess(client_certificate_file=sealed),
    ):
        with pytest.raises(RegistryAccessInvalid, match="HEADRACE_REGISTRY_"):
            SchemaRegistry("https://127.0.0.1:1", access=access)


def test_it_shows_no_secret() -> None:
    for access in (BY_NAME, BY_TOKEN):
        assert PASSWORD not in repr(access)
        assert TOKEN not in repr(access)
