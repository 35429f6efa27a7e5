"""What a search finds, as its client answers it and as the router reads it: JSON, within bounds on both sides.

Pages of the web are written by anybody. What is taken from them is text for people: nothing invisible, no address but
those of web pages, and no more than fits beside the question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from headrace_contracts.cargo import LONGEST_QUERY

from headrace_models.upstream.values import Unreadable, document, items, mapping, text

MOST_SOURCES: Final = 10
"""Taken from one search, the best first."""
LONGEST_URL: Final = 2_000
LONGEST_TITLE: Final = 300
LONGEST_EXCERPT: Final = 4_000
"""Characters of what is quoted of one source."""
LARGEST_ANSWER: Final = 262_144
"""Bytes of a search's answer that are read: more than MOST_SOURCES of the longest have in any common script."""

_URL: Final = re.compile(r"https?://[!-~\u00a1-\U000e0000]+", re.IGNORECASE)
_MARKS_OF_WORDS: Final = frozenset("\u200c\u200d")
"""Invisible, and part of the spelling of several languages and of some emojis."""


@dataclass(frozen=True, slots=True)
class FoundSource:
    """A page that a search has found; `excerpt` is what it says about the query."""

    url: str = field(repr=False)
    title: str = field(repr=False)
    excerpt: str = field(repr=False)

    @property
    def page(self) -> str:
        """What two addresses of one page have in common: spelling of the host, a fragment and a last slash make no
        other page."""
        parts = urlsplit(self.url)
        query = f"?{parts.query}" if parts.query else ""
        return f"{(parts.hostname or '').lower()}:{parts.port or ''}{parts.path.rstrip('/')}{query}"


def search_query(texts: Iterable[str]) -> str:
    """The first of these texts that says anything, as a query: on one line, and cut at the longest that is taken."""
    return next((cleaned for one in texts if (cleaned := _plain_line(one, LONGEST_QUERY))), "")


def findings(results: Iterable[object], *, excerpt: str, answer: str = "") -> str:
    """The answer of a search client: JSON with `answer` and `results`, each with `title`, `url` and `text`.

    Args:
        results: As the search engine has sent them.
        excerpt: The name of the field with the quoted text.
    """
    found = _sources((one.get("url"), one.get("title"), one.get(excerpt)) for one in map(mapping, results))
    told = [{"title": one.title, "url": one.url, "text": one.excerpt} for one in found]
    return json.dumps({"answer": _plain_line(answer, LONGEST_EXCERPT) or None, "results": told}, ensure_ascii=False)


def sources_in(answer: str) -> list[FoundSource]:
    """The sources in the answer of a search client, whoever has written it. Raises Unreadable."""
    if len(answer) > LARGEST_ANSWER:
        raise Unreadable("it is longer than any search's answer")
    results = mapping(document(answer)).get("results")
    if not isinstance(results, list):
        raise Unreadable("there are no results in it")
    return _sources((one.get("url"), one.get("title"), one.get("text")) for one in map(mapping, items(results)))


def web_address(value: object) -> str:
    """The address of a page of the web; empty unless it is one: a link that opens a page and does nothing else."""
    if not isinstance(value, str) or len(value) > LONGEST_URL or not _URL.fullmatch(value := value.strip()):
        return ""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises ValueError where it is no port
    except ValueError:
        return ""
    # A name and a password before the host make one address look like another.
    fits = bool(parts.hostname) and parts.username is None and "\\" not in value and value.isprintable()
    return value if fits else ""


def _sources(results: Iterable[tuple[object, object, object]]) -> list[FoundSource]:
    found: dict[str, FoundSource] = {}
    for url, title, excerpt in results:
        if not (address := web_address(url)):
            continue
        source = FoundSource(
            address, _plain_line(text(title), LONGEST_TITLE), _plain_line(text(excerpt), LONGEST_EXCERPT)
        )
        if source.title or source.excerpt:
            found.setdefault(source.page, source)
        if len(found) == MOST_SOURCES:
            break
    return list(found.values())


def _plain_line(value: str, longest: int) -> str:
    """A text as one line without what nobody sees: control characters, halves of pairs, marks that turn the direction
    of writing or hide words."""
    seen = "".join(char if char.isprintable() or char in _MARKS_OF_WORDS else " " for char in value[: 4 * longest])
    return " ".join(seen.split())[:longest].rstrip()
