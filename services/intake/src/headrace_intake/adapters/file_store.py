"""Files in Postgres, in chunks of one size, so that nobody has to hold a whole one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from headrace_contracts.content import PLAIN, ContentSealed
from headrace_runtime.database import Connection, Database

from headrace_intake.decide.batches.records import CHUNK_BYTES, StoredBatch, StoredFile
from headrace_intake.decide.batches.requests import PageRequest, unknown_after
from headrace_intake.decide.refusals import Refusal

_COLUMNS: Final = "file_id, tenant, purpose, filename, bytes, created_at, expires_at"
_LOCK: Final = 0x6669_6C65
"""First number of the advisory locks that make uploads of a tenant count one after another ("file")."""
_CACHED_CHUNKS: Final = 2


class FileInUse(Exception):
    """A batch that has not ended reads the file."""


class FileStore:
    """Files of one tenant at a time. All methods raise DatabaseAway.

    Args:
        most_bytes, most_files: What a tenant may have stored when it begins to upload another file.
    """

    def __init__(self, database: Database, *, most_bytes: int, most_files: int) -> None:
        self._database = database
        self._most_bytes = most_bytes
        self._most_files = most_files

    async def begin(self, file: StoredFile) -> None:
        """Reserve room for a file that is being uploaded; `file.bytes` is what it may become.

        Raises Refusal if the tenant has no room.
        """
        async with self._database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, file.tenant)
            row = await connection.fetchrow(
                "SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM intake.files WHERE tenant = $1", file.tenant
            )
            assert row is not None
            files, held = row
            if files >= self._most_files:
                raise _no_room(f"{files} files, and may have {self._most_files}")
            if held + file.bytes > self._most_bytes:
                raise _no_room(f"files of {held} bytes, and may have {self._most_bytes} with this one")
            await insert_file(connection, file)

    async def append(self, file_id: str, number: int, data: bytes) -> None:
        """Store the next chunk."""
        async with self._database.connection() as connection:
            await insert_chunk(connection, file_id, number, data)

    async def complete(self, file: StoredFile) -> None:
        """Show the file, as it is now, to its callers."""
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE intake.files SET complete = true, bytes = $2, filename = $3, expires_at = $4 "
                "WHERE file_id = $1",
                file.file_id, file.bytes, file.filename, file.expires_at,
            )  # fmt: skip

    async def discard(self, file_id: str) -> None:
        """Remove a file that is not complete."""
        async with self._database.connection() as connection:
            await connection.execute("DELETE FROM intake.files WHERE file_id = $1 AND NOT complete", file_id)

    async def get(self, tenant: str, file_id: str, now_ms: int) -> StoredFile | None:
        """A file that has not expired."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM intake.files "
                "WHERE file_id = $1 AND tenant = $2 AND complete AND expires_at > $3",
                file_id, tenant, now_ms,
            )  # fmt: skip
        return None if row is None else StoredFile(**row)

    async def input_of(self, batch: StoredBatch) -> StoredFile | None:
        """The input file of a batch, expired or not."""
        return await self.get(batch.tenant, batch.input_file_id, 0)

    async def page(self, tenant: str, wanted: PageRequest, now_ms: int) -> tuple[Sequence[StoredFile], bool]:
        """A page, and whether another one follows. Raises Refusal for an `after` that there is not."""
        conditions = "tenant = $1 AND complete AND expires_at > $2 AND ($3::text IS NULL OR purpose = $3)"
        arguments: list[Any] = [tenant, now_ms, wanted.purpose]
        direction, beyond = ("ASC", ">") if wanted.ascending else ("DESC", "<")
        async with self._database.connection() as connection:
            if wanted.after is not None:
                created_at = await connection.fetchval(
                    "SELECT created_at FROM intake.files WHERE file_id = $1 AND tenant = $2", wanted.after, tenant
                )
                if created_at is None:
                    raise unknown_after()
                conditions += f" AND (created_at, file_id) {beyond} ($4, $5)"
                arguments += [created_at, wanted.after]
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM intake.files WHERE {conditions} "
                f"ORDER BY created_at {direction}, file_id {direction} LIMIT {wanted.limit + 1}",
                *arguments,
            )
        return [StoredFile(**row) for row in rows[: wanted.limit]], len(rows) > wanted.limit

    async def delete(self, tenant: str, file_id: str) -> bool:
        """Erase a file; False if there is none. Raises FileInUse."""
        async with self._database.transaction() as connection:
            found = await connection.fetchval(
                "SELECT true FROM intake.files WHERE file_id = $1 AND tenant = $2 AND complete FOR UPDATE",
                file_id, tenant,
            )  # fmt: skip
            if not found:
                return False
            if await connection.fetchval(
                "SELECT EXISTS (SELECT FROM intake.batches WHERE tenant = $2 AND input_file_id = $1 "
                "AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))",
                file_id, tenant,
            ):  # fmt: skip
                raise FileInUse(file_id)
            await connection.execute("DELETE FROM intake.files WHERE file_id = $1", file_id)
            return True

    async def chunk(self, file_id: str, number: int) -> bytes:
        """One chunk. Raises ContentSealed, FileGone."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "SELECT cipher, data FROM intake.file_chunks WHERE file_id = $1 AND number = $2", file_id, number
            )
        if row is None:
            raise FileGone(file_id)
        if row["cipher"] != PLAIN:
            raise ContentSealed(f"content is sealed with data key {row['cipher']!r}")
        data: bytes = row["data"]
        return data


class FileGone(Exception):
    """The file was deleted while it was read."""


class FileRanges:
    """Parts of one file, mostly each behind the other. Raises as `FileStore.chunk`."""

    def __init__(self, store: FileStore, file_id: str) -> None:
        self._store = store
        self._file_id = file_id
        self._chunks: dict[int, bytes] = {}

    async def read(self, start: int, size: int) -> bytes:
        """The bytes from an offset on."""
        parts: list[bytes] = []
        while size > 0:
            number, within = divmod(start, CHUNK_BYTES)
            part = (await self._chunk(number))[within : within + size]
            if not part:
                raise FileGone(self._file_id)
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)

    async def _chunk(self, number: int) -> bytes:
        if number not in self._chunks:
            while len(self._chunks) >= _CACHED_CHUNKS:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[number] = await self._store.chunk(self._file_id, number)
        return self._chunks[number]


async def insert_file(connection: Connection, file: StoredFile) -> None:
    """A file that is not complete."""
    await connection.execute(
        f"INSERT INTO intake.files ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        file.file_id, file.tenant, file.purpose, file.filename, file.bytes, file.created_at, file.expires_at,
    )  # fmt: skip


async def insert_chunk(connection: Connection, file_id: str, number: int, data: bytes) -> None:
    """The content of callers' files is stored as other content is: with the name of its cipher."""
    await connection.execute(
        "INSERT INTO intake.file_chunks (file_id, number, cipher, data) VALUES ($1, $2, $3, $4)",
        file_id, number, PLAIN, data,
    )  # fmt: skip


def chunks_of(size: int) -> int:
    """How many chunks a file of this size has."""
    return -(-size // CHUNK_BYTES)


def _no_room(held: str) -> Refusal:
    return Refusal(403, "quota-exceeded", f"The tenant has {held}: delete some.", "file")
