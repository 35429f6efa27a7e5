"""Search in live skills: SQLite's full-text index, in memory, on a thread of its own.

The thread keeps searches off the event loop, so that pushing to agents never waits for them; SQLite lets go of the
interpreter's lock while it works.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from headrace_skill_broadcaster.decide.search import Found, Question

_TABLES = """
CREATE TABLE skills (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (tenant, name));
CREATE TABLE domains (
    tenant TEXT NOT NULL, interest TEXT NOT NULL, name TEXT NOT NULL, id INTEGER NOT NULL,
    PRIMARY KEY (tenant, interest, name)
) WITHOUT ROWID;
CREATE INDEX domains_of_skill ON domains (id);
CREATE VIRTUAL TABLE words USING fts5 (
    scope, name, title, summary, interests, tokenize = 'porter unicode61 remove_diacritics 2'
);
"""
_BY_RANK = """
SELECT skills.name FROM words JOIN skills ON skills.id = words.rowid
WHERE words MATCH ? ORDER BY bm25(words, 0, 8, 4, 1, 2), skills.name LIMIT ? OFFSET ?
"""


class SearchUnsupported(Exception):
    """Use another build of Python: the SQLite in this one lacks full-text search (FTS5)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is indexed of a live skill."""

    tenant: str
    name: str
    title: str
    summary: str
    interests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """A skill that is not live any more."""

    tenant: str
    name: str


class SearchIndex:
    """All live skills of all tenants. Changes and searches happen in the order of the calls.

    Raises SearchUnsupported.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="skill-search")
        self._database = self._thread.submit(_open).result()

    async def apply(self, changes: Sequence[Entry | Removal]) -> None:
        """Make the index follow these changes."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._apply, changes)

    async def search(self, question: Question) -> Found:
        """Skills, best first, or by name where no words are asked for."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._search, question)

    async def close(self) -> None:
        """Let go of the thread and the memory."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._database.close)
        self._thread.shutdown()

    def _apply(self, changes: Sequence[Entry | Removal]) -> None:
        with self._database as database:
            for change in changes:
                _remove(database, change.tenant, change.name)
                if isinstance(change, Entry):
                    _add(database, change)

    def _search(self, question: Question) -> Found:
        if not question.words:
            return Found(self._list(question))
        if not question.widened:
            names = self._ranked(question, " AND ")
            if names or question.widened is False or len(question.words) == 1:
                return Found(names)
        return Found(self._ranked(question, " OR "), widened=True)

    def _list(self, question: Question) -> tuple[str, ...]:
        if question.interests:
            marks = ", ".join("?" * len(question.interests))
            statement = (
                f"SELECT DISTINCT name FROM domains WHERE tenant = ? AND interest IN ({marks}) AND name > ? "
                "ORDER BY name LIMIT ?"
            )
        else:
            statement = "SELECT name FROM skills WHERE tenant = ? AND name > ? ORDER BY name LIMIT ?"
        values = (question.tenant, *question.interests, question.after, question.limit + 1)
        return tuple(name for (name,) in self._database.execute(statement, values))

    def _ranked(self, question: Question, joined_by: str) -> tuple[str, ...]:
        *whole, last = question.words
        # The last word may be one that is still being typed.
        wanted = joined_by.join((*(f'"{word}"' for word in whole), f'"{last}" *'))
        scopes = [_scope(question.tenant, interest) for interest in question.interests] or [_scope(question.tenant)]
        expression = f"scope : ({' OR '.join(scopes)}) AND {{name title summary interests}} : ({wanted})"
        rows = self._database.execute(_BY_RANK, (expression, question.limit + 1, question.skip))
        return tuple(name for (name,) in rows)


def _open() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(_TABLES)
    except sqlite3.OperationalError as error:
        raise SearchUnsupported(
            f"SQLite {sqlite3.sqlite_version} of this Python has no full-text search ({error}): "
            "use a Python whose sqlite3 module is built with FTS5"
        ) from error
    return database


def _scope(tenant: str, interest: str | None = None) -> str:
    # A single word whatever the tenant is called; the q keeps the stemmer from cutting it.
    digest = hashlib.sha256(repr((tenant, interest)).encode()).hexdigest()
    return f"x{digest[:20]}q"


def _remove(database: sqlite3.Connection, tenant: str, name: str) -> None:
    row = database.execute("SELECT id FROM skills WHERE tenant = ? AND name = ?", (tenant, name)).fetchone()
    if row is not None:
        for statement in (
            "DELETE FROM words WHERE rowid = ?",
            "DELETE FROM domains WHERE id = ?",
            "DELETE FROM skills WHERE id = ?",
        ):
            database.execute(statement, row)


def _add(database: sqlite3.Connection, entry: Entry) -> None:
    row = database.execute("INSERT INTO skills (tenant, name) VALUES (?, ?)", (entry.tenant, entry.name)).lastrowid
    database.executemany(
        "INSERT INTO domains (tenant, interest, name, id) VALUES (?, ?, ?, ?)",
        [(entry.tenant, interest, entry.name, row) for interest in entry.interests],
    )
    scope = " ".join((_scope(entry.tenant), *(_scope(entry.tenant, interest) for interest in entry.interests)))
    database.execute(
        "INSERT INTO words (rowid, scope, name, title, summary, interests) VALUES (?, ?, ?, ?, ?, ?)",
        (row, scope, entry.name, entry.title, entry.summary, " ".join(entry.interests)),
    )
