"""Files of callers: as the `openai` package sends them, and as nobody should."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import openai
import pytest
from headrace_intake.adapters.retention import Retention
from headrace_intake.migrations import MIGRATIONS
from headrace_testing.databases import prepared
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running, silence
from headrace_testing.openai_batches import CHAT, answers, client_of, ended, jsonl, request_line, started
from headrace_testing.waiting import eventually
from openai import AsyncOpenAI

pytestmark = pytest.mark.stack

CHUNK = 262_144


@pytest.fixture
async def running(bed: Bed, postgres_dsn: str) -> Running:
    return await bed.intake(
        database_url=postgres_dsn, file_limit_bytes=3_000_000, file_bytes_per_tenant=8_000_000, files_per_tenant=12
    )


@pytest.fixture
async def client(running: Running) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(running) as made:
        await eventually(lambda: answers(made), 20)
        yield made


async def upload(client: AsyncOpenAI, content: bytes, name: str = "x.jsonl", **options: Any) -> Any:
    return await client.files.create(file=(name, content), purpose="batch", **options)


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3_000_000])
async def test_a_file_comes_back_as_it_was(client: AsyncOpenAI, size: int) -> None:
    content = os.urandom(size)
    file = await upload(client, content, "Anfragen für heute.jsonl")
    assert (file.bytes, file.purpose, file.status) == (size, "batch", "processed")
    assert file.filename == "Anfragen für heute.jsonl"
    assert file.expires_at == file.created_at + 30 * 86_400
    assert (await client.files.content(file.id)).content == content
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.delete(file.id)).deleted
    for gone in (client.files.retrieve(file.id), client.files.content(file.id), client.files.delete(file.id)):
        with pytest.raises(openai.NotFoundError):
            await gone


async def test_what_was_deleted_is_erased(client: AsyncOpenAI, postgres_dsn: str) -> None:
    batch = await ended(client, await started(client, jsonl(request_line(f"id-{n}", "a secret") for n in range(9))))
    connection = await asyncpg.connect(postgres_dsn, ssl=False)
    assert await connection.fetchval("SELECT count(*) FROM intake.batch_lines") == 0
    assert await connection.fetchval("SELECT count(*) FROM intake.file_chunks") == 2
    assert batch.output_file_id is not None
    for file_id in (batch.input_file_id, batch.output_file_id):
        await client.files.delete(file_id)
    assert await connection.fetchval("SELECT count(*) FROM intake.file_chunks") == 0
    assert await connection.fetchval("SELECT count(*) FROM intake.files") == 0
    await connection.close()
    assert (await client.batches.retrieve(batch.id)).status == "completed"


async def test_files_of_one_tenant_are_nobody_elses(client: AsyncOpenAI, running: Running) -> None:
    _, made, _ = await running.call("POST", "/v1/keys", {"tenant": "other"})
    batch = await ended(client, await started(client, jsonl([request_line("a")])))
    assert batch.output_file_id is not None
    async with client_of(running, made["key"]) as other:
        assert [file.id async for file in other.files.list()] == []
        assert [found.id async for found in other.batches.list()] == []
        for call in (
            other.files.retrieve(batch.input_file_id), other.files.content(batch.output_file_id),
            other.files.delete(batch.output_file_id), other.batches.retrieve(batch.id), other.batches.cancel(batch.id),
            other.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                await call
        for page in (other.files.list(after=batch.input_file_id), other.batches.list(after=batch.id)):
            with pytest.raises(openai.BadRequestError):
                await page


async def test_lists_have_pages(client: AsyncOpenAI) -> None:
    files = [(await upload(client, b"x", f"{number}")).id for number in range(5)]
    newest_first = [file.id async for file in client.files.list(limit=2)]
    assert newest_first == files[::-1]
    assert [file.id async for file in client.files.list(limit=2, order="asc")] == files
    page = await client.files.list(limit=2, after=files[3])
    assert ([file.id for file in page.data], page.has_more) == ([files[2], files[1]], True)
    assert [file.id async for file in client.files.list(purpose="batch_output")] == []
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-nothing"}):
        with pytest.raises(openai.BadRequestError):
            await client.files.list(**wrong)
    batches = [
        await client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h") for file in files
    ]
    assert [found.id async for found in client.batches.list(limit=2)] == [batch.id for batch in batches][::-1]
    for limit in (0, 101):
        with pytest.raises(openai.BadRequestError):
            await client.batches.list(limit=limit)


async def test_a_tenant_has_so_much_room(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as large:
        await upload(client, b"x" * 3_000_001)
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")
    files = [await upload(client, b"x" * 2_600_000) for _ in range(3)]
    for content in (b"y" * 2_600_000, b"y" * 300_000):
        with pytest.raises(openai.PermissionDeniedError):
            await upload(client, content)
    for file in files:
        await client.files.delete(file.id)
    for _ in range(12):
        await upload(client, b"x")
    with pytest.raises(openai.PermissionDeniedError):
        await upload(client, b"x")


async def test_a_file_expires(client: AsyncOpenAI, bed: Bed, postgres_dsn: str) -> None:
    bed.router.answer = silence
    short = await upload(client, b"x", expires_after={"anchor": "created_at", "seconds": 3_600})
    assert short.expires_at == short.created_at + 3_600
    used = await started(
        client, jsonl([request_line("a")]), output_expires_after={"anchor": "created_at", "seconds": 3_600}
    )
    kept = await upload(client, b"z")
    for wrong in ({"seconds": 3_599}, {"seconds": 2_592_001}, {"anchor": "used_at"}, {"seconds": "soon"}):
        with pytest.raises(openai.BadRequestError):
            await upload(client, b"x", expires_after={"anchor": "created_at", "seconds": 3_600, **wrong})
    await eventually(lambda: _submitted(bed, 1), 20)
    connection = await asyncpg.connect(postgres_dsn, ssl=False)

    async def in_the_history() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM intake.tasks"))

    await eventually(in_the_history, 20)
    await connection.execute("UPDATE intake.files SET expires_at = created_at WHERE file_id <> $1", kept.id)
    await connection.execute("UPDATE intake.tasks SET submitted_at = 0")
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(short.id)
    assert [file.id async for file in client.files.list()] == [kept.id]
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        now = await connection.fetchval("SELECT max(created_at) + 10000 FROM intake.files")
        deleted = await Retention(database, lambda: now, task_ms=1_000, key_ms=1_000).sweep()
        assert (deleted["files"], deleted["tasks"], deleted["batches"]) == (1, 0, 0), "what a live batch needs is kept"
        await connection.execute("UPDATE intake.batches SET status = 'completed'")
        await connection.execute("DELETE FROM intake.batch_lines")
        deleted = await Retention(database, lambda: now + 7_200_000, task_ms=1_000, key_ms=1_000).sweep()
        assert (deleted["files"], deleted["tasks"], deleted["batches"]) == (1, 1, 1)
    await connection.close()
    assert used.id


async def _submitted(bed: Bed, count: int) -> bool:
    return len(bed.router.tasks) == count


FORM = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
TYPE = {"Content-Type": "multipart/form-data; boundary=b"}
END = b"\r\n--b--\r\n"
BAD_FORMS: dict[str, tuple[dict[str, str], bytes, int]] = {
    "JSON": ({"Content-Type": "application/json"}, b"{}", 415),
    "no boundary": ({"Content-Type": "multipart/form-data"}, FORM, 400),
    "another boundary": ({"Content-Type": "multipart/form-data; boundary=c"}, FORM + FILE + b"x" + END, 400),
    "nothing": (TYPE, b"", 400),
    "no file": (TYPE, FORM[:-2] + END, 400),
    "an empty file": (TYPE, FORM + FILE + END, 400),
    "no purpose": (TYPE, FILE + b"x" + END, 400),
    "another purpose": (TYPE, FORM.replace(b"\r\nbatch", b"\r\nfine-tune") + FILE + b"x" + END, 400),
    "purpose twice": (TYPE, FORM + FORM + FILE + b"x" + END, 400),
    "file twice": (TYPE, FORM + FILE + b"x\r\n" + FILE + b"y" + END, 400),
    "a field that there is not": (TYPE, FORM.replace(b'"purpose"', b'"propose"') + FORM + FILE + b"x" + END, 400),
    "a field that is not text": (TYPE, FORM.replace(b"\r\nbatch", b"\r\n\xff") + FILE + b"x" + END, 400),
    "a field that is too long": (TYPE, FORM.replace(b"\r\nbatch", b"\r\n" + b"x" * 5_000) + FILE + b"x" + END, 400),
    "cut off in the file": (TYPE, FORM + FILE + b"x" * 300_000, 400),
    "cut off in a head": (TYPE, FORM + FILE[:-12], 400),
    "a head that is none": (TYPE, b"--b\r\n\x00\xff\xfe: \r\n: x\r\n\r\nx" + END, 400),
    "a form in the form": (TYPE, b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--" + END, 400),
    "a transfer encoding": (
        TYPE, FORM + FILE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + b"eA==" + END, 400,
    ),
    "packed": ({**TYPE, "Content-Encoding": "gzip"}, FORM + FILE + b"x" + END, 415),
    "many parts": (TYPE, b"".join(FORM.replace(b"purpose", b"p%d" % n) for n in range(20)) + END, 400),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FORMS)
async def test_a_form_that_is_none_is_refused_and_leaves_nothing(
    client: AsyncOpenAI, running: Running, postgres_dsn: str, kind: str
) -> None:
    headers, body, expected = BAD_FORMS[kind]
    auth = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    async with running.http.post(running.url + "/v1/files", data=body, headers={**headers, **auth}) as response:
        assert response.status == expected, await response.text()
        assert (await response.json())["error"]["message"]
    connection = await asyncpg.connect(postgres_dsn, ssl=False)
    assert await connection.fetchval("SELECT count(*) FROM intake.files") == 0
    await connection.close()


async def test_the_file_may_come_first_and_without_a_length(client: AsyncOpenAI, running: Running) -> None:
    async def pieces(content: bytes) -> AsyncIterator[bytes]:
        for place in range(0, len(content), 10_000):
            yield content[place : place + 10_000]

    auth = {"Authorization": f"Bearer {BOOTSTRAP_KEY}", **TYPE}
    for size, expected in ((1_000_000, 200), (3_000_000, 200), (3_000_001, 413)):
        content = os.urandom(size)
        body = pieces(FILE + content + b"\r\n" + FORM + b"--b--\r\n")
        try:
            async with running.http.post(running.url + "/v1/files", data=body, headers=auth) as response:
                assert response.status == expected
                found = await response.json()
        except aiohttp.ClientConnectionError:
            assert expected == 413  # the connection may end before the body was sent
            continue
        if expected == 200:
            assert (await client.files.content(found["id"])).content == content


async def test_who_hangs_up_leaves_nothing(client: AsyncOpenAI, running: Running, postgres_dsn: str) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BOOTSTRAP_KEY}\r\nContent-Length: 900000\r\n"
    writer.write(
        head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + FORM + FILE + b"x" * 600_000
    )
    await writer.drain()
    connection = await asyncpg.connect(postgres_dsn, ssl=False)

    async def files(count: int) -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM intake.files") == count)

    await eventually(lambda: files(1), 30)
    assert [file.id async for file in client.files.list()] == []
    writer.close()
    await eventually(lambda: files(0), 30)
    await connection.close()


async def test_a_batch_is_created_once_for_a_key(client: AsyncOpenAI, bed: Bed, postgres_dsn: str) -> None:
    file = await client.files.create(file=io.BytesIO(jsonl([request_line("a")])), purpose="batch")
    key = {"Idempotency-Key": "k1"}
    made = [
        await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", extra_headers=key)
        for _ in range(3)
    ]
    assert len({batch.id for batch in made}) == 1
    with pytest.raises(openai.ConflictError):
        await client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", extra_headers=key, metadata={"other": "1"}
        )
    wrong: list[dict[str, Any]] = [
        {"endpoint": "/v1/nothing"}, {"completion_window": "48h"}, {"metadata": {"k": "x" * 513}},
        {"metadata": {str(number): "" for number in range(17)}}, {"input_file_id": ""}, {"extra_body": {"speed": 1}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
        {"metadata": {"k": 7}}, {"endpoint": None},
    ]  # fmt: skip
    for fields in wrong:
        with pytest.raises(openai.BadRequestError):
            await client.batches.create(
                **{"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **fields}
            )
    for file_id in ("file-nothing", "x" * 200, "ü", "a\nb"):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
            await client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    batch = await ended(client, made[0])
    assert batch.output_file_id is not None
    with pytest.raises(openai.BadRequestError):
        await client.batches.create(input_file_id=batch.output_file_id, endpoint=CHAT, completion_window="24h")


async def test_a_tenant_has_so_many_batches(bed: Bed, postgres_dsn: str) -> None:
    bed.router.answer = silence
    running = await bed.intake(database_url=postgres_dsn, batches_per_tenant=2)
    async with client_of(running) as client:
        await eventually(lambda: answers(client), 20)
        for _ in range(2):
            batch = await started(client, jsonl([request_line("a")]))
        with pytest.raises(openai.RateLimitError):
            await started(client, jsonl([request_line("a")]))
        assert batch.status == "validating"
