"""Search in live skills: SQLite's full-text index, in memory, on a thread of its own.

The thread keeps searches off the event loop, so that they never delay pushing to agents; SQLite releases the GIL while
it works.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from headrace_skill_broadcaster.decide.search import DEEPEST, SearchQuery, SearchResult

_TABLES = """
CREATE TABLE skills (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (tenant, name));
CREATE TABLE domains (
    tenant TEXT NOT NULL, interest TEXT NOT NULL, name TEXT NOT NULL, id INTEGER NOT NULL,
    PRIMARY KEY (tenant, interest, name)
) WITHOUT ROWID;
CREATE INDEX domains_of_skill ON domains (id);
"""
_WORDS = """
CREATE VIRTUAL TABLE {table} USING fts5 (
    domains, name, title, summary, interests, tokenize = 'porter unicode61 remove_diacritics 2'
)
"""
_BY_RANK = f"""
SELECT skills.name FROM (
    SELECT rowid AS id, bm25({{table}}, 0, 8, 4, 1, 2) AS score FROM {{table}}
    WHERE {{table}} MATCH ? ORDER BY rowid DESC LIMIT {DEEPEST}
) AS matching JOIN skills USING (id)
ORDER BY score, id DESC LIMIT ? OFFSET ?
"""


class SearchUnsupported(Exception):
    """This Python's SQLite lacks full-text search (FTS5): use another build of Python."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The indexed fields of a live skill."""

    tenant: str
    name: str
    title: str
    summary: str
    interests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """A skill that is no longer live."""

    tenant: str
    name: str


class SearchIndex:
    """All live skills of all tenants. Changes and searches run in the order of the calls.

    Raises SearchUnsupported.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="skill-search")
        self._database = self._thread.submit(_open).result()
        # One table per tenant: word frequencies of other tenants must not affect the ranking, and cost time to compute.
        self._words: dict[str, str] = {}

    async def apply(self, changes: Sequence[IndexEntry | Removal]) -> None:
        """Apply changes to the index."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._apply, changes)

    async def search(self, question: SearchQuery) -> SearchResult:
        """Matching skills: by rank, or by name if the question has no words."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._search, question)

    async def close(self) -> None:
        """Stop the thread and free the memory."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._database.close)
        self._thread.shutdown()

    def _apply(self, changes: Sequence[IndexEntry | Removal]) -> None:
        with self._database:
            for change in changes:
                self._remove(change.tenant, change.name)
                if isinstance(change, IndexEntry):
                    self._add(change)

    def _remove(self, tenant: str, name: str) -> None:
        row = self._database.execute("SELECT id FROM skills WHERE tenant = ? AND name = ?", (tenant, name)).fetchone()
        if row is not None:
            for table, key in ((self._words[tenant], "rowid"), ("domains", "id"), ("skills", "id")):
                self._database.execute(f"DELETE FROM {table} WHERE {key} = ?", row)

    def _add(self, entry: IndexEntry) -> None:
        execute = self._database.execute
        if entry.tenant not in self._words:
            table = f"words_{len(self._words)}"
            execute(_WORDS.format(table=table))
            self._words[entry.tenant] = table
        row = execute("INSERT INTO skills (tenant, name) VALUES (?, ?)", (entry.tenant, entry.name)).lastrowid
        self._database.executemany(
            "INSERT INTO domains (tenant, interest, name, id) VALUES (?, ?, ?, ?)",
            [(entry.tenant, interest, entry.name, row) for interest in entry.interests],
        )
        domains = " ".join(map(_one_word, entry.interests))
        execute(
            f"INSERT INTO {self._words[entry.tenant]} (rowid, domains, name, title, summary, interests) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (row, domains, entry.name, entry.title, entry.summary, " ".join(entry.interests)),
        )

    def _search(self, question: SearchQuery) -> SearchResult:
        if not question.words:
            return SearchResult(self._list(question))
        if not question.widened:
            names = self._ranked(question, " AND ")
            if names or question.widened is False or len(question.words) == 1:
                return SearchResult(names)
        return SearchResult(self._ranked(question, " OR "), widened=True)

    def _list(self, question: SearchQuery) -> tuple[str, ...]:
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

    def _ranked(self, question: SearchQuery, joined_by: str) -> tuple[str, ...]:
        table = self._words.get(question.tenant)
        if table is None:
            return ()
        *whole, last = question.words
        # The last word may still be incomplete.
        wanted = joined_by.join((*(f'"{word}"' for word in whole), f'"{last}" *'))
        expression = f"{{name title summary interests}} : ({wanted})"
        if question.interests:
            expression = f"domains : ({' OR '.join(map(_one_word, question.interests))}) AND {expression}"
        rows = self._database.execute(_BY_RANK.format(table=table), (expression, question.limit + 1, question.skip))
        return tuple(name for (name,) in rows)


def _open() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(_TABLES + _WORDS.format(table="supported") + "; DROP TABLE supported;")
    except sqlite3.OperationalError as error:
        raise SearchUnsupported(
            f"SQLite {sqlite3.sqlite_version} of this Python has no full-text search ({error}): "
            "use a Python whose sqlite3 module is built with FTS5"
        ) from error
    return database


def _one_word(interest: str) -> str:
    # The tokenizer would split it at its hyphens; the q protects it from the stemmer.
    return f"x{hashlib.sha256(interest.encode()).hexdigest()[:20]}q"
