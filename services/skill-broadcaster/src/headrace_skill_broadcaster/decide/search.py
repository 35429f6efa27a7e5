"""Search queries: which are valid, and where a page ends."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
_CURSOR = re.compile(r"(after|all|any):(.+)")

MOST_WORDS = 16
DEEPEST = 1_000
"""How many of the matching skills are ranked, the last changed ones: ranking all that share a common word is slow."""


class SearchQueryInvalid(Exception):
    """The query is invalid; `parameter` names the one to correct and the message says how."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A search in one tenant's live skills.

    Attributes:
        words: Words to search for, in any order; empty to list by name.
        interests: Domains, of which a skill must have one; empty for all.
        after: By name: the name after which to continue.
        skip: By rank: how many results to skip.
        widened: By rank: whether a skill needs only one of the words; None requires all words first, and widens the
            search if no skill has them all.
    """

    tenant: str
    words: tuple[str, ...] = ()
    interests: tuple[str, ...] = ()
    limit: int = 20
    after: str = ""
    skip: int = 0
    widened: bool | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Names in order, with one more than the query's limit if there are more."""

    names: tuple[str, ...]
    widened: bool = False


_CURSOR_UNCLEAR = "cursor must be next_cursor of the previous page, with the same q"


def words_of(text: str) -> tuple[str, ...]:
    """The words of a search text, at most MOST_WORDS."""
    return tuple(_WORD.findall(text)[:MOST_WORDS])


def ask(tenant: str, text: str, interests: tuple[str, ...], limit: int, most: int, cursor: str | None) -> SearchQuery:
    """The query for a request's parameters.

    Raises SearchQueryInvalid for a limit outside 1 to `most`, and for a cursor that was not issued for such a query.
    """
    if not 1 <= limit <= most:
        raise SearchQueryInvalid("limit", f"limit is a number from 1 to {most}")
    words = words_of(text)
    if text.strip() and not words:
        raise SearchQueryInvalid("q", "q contains no word to search for")
    if cursor is None:
        return SearchQuery(tenant, words, interests, limit)
    match = _CURSOR.fullmatch(cursor)
    if match is None or (match[1] == "after") == bool(words):
        raise SearchQueryInvalid("cursor", _CURSOR_UNCLEAR)
    if match[1] == "after":
        return SearchQuery(tenant, words, interests, limit, after=match[2])
    if not match[2].isdecimal() or not 0 < int(match[2]) < DEEPEST:
        raise SearchQueryInvalid("cursor", _CURSOR_UNCLEAR)
    return SearchQuery(tenant, words, interests, limit, skip=int(match[2]), widened=match[1] == "any")


def next_cursor(question: SearchQuery, found: SearchResult) -> str | None:
    """The cursor of the next page; None if this one is the last."""
    if len(found.names) <= question.limit:
        return None
    if not question.words:
        return f"after:{found.names[question.limit - 1]}"
    skip = question.skip + question.limit
    return f"{'any' if found.widened else 'all'}:{skip}" if skip < DEEPEST else None
