"""Searches in the simulation: which tasks have some, and what simulated sources find.

All of it is drawn from generators of their own, so that the seeds without searches keep their schedules.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from typing import Final

from headrace_contracts.content import plain
from headrace_contracts.events import Message, Options, Privacy, TaskSubmitted

ROLE: Final = "research"
WEB: Final = "searxng"
SOURCES: Final = {WEB: "web", "tavily": "tavily-search"}
"""Providers of searches, each with its one model."""
RESEARCH_SHARE: Final = 0.25
"""Share of seeds in which some tasks search."""
_TASKS_SHARE: Final = 0.7
_PUBLIC_SHARE: Final = 0.8


def searches(seed: int) -> bool:
    """Whether tasks of this seed search."""
    return random.Random(f"{seed} research").random() < RESEARCH_SHARE


class Questions:
    """Makes some tasks of a seed search."""

    def __init__(self, seed: int, *, some: bool) -> None:
        self._rng = random.Random(f"{seed} queries")
        self._some = some

    def dressed(self, task: TaskSubmitted) -> TaskSubmitted:
        """The task itself, or one that searches first."""
        rng = self._rng
        if not self._some or task.model is not None or task.role == "security_reviewer" or rng.random() > _TASKS_SHARE:
            return task
        said = task.messages[-1].content.data.decode()
        if task.privacy is not Privacy.SENSITIVE and rng.random() < _PUBLIC_SHARE:
            # Nobody consents to a search: without such tasks hardly any would be made.
            said = said[said.index("What of ") :]
            task = replace(task, privacy=Privacy.PUBLIC, messages=(Message(role="user", content=plain(said)),))
        queries = [f"{said} ({number})" for number in range(rng.choice((0, 0, 2, 3)))]
        options = Options(queries=tuple(plain(query) for query in queries)) if queries else None
        return replace(task, role=ROLE, options=options)


def address_of(provider: str, query: str) -> str:
    """The page that a source finds for a query, always the same."""
    return f"https://{provider}.example/{hashlib.sha256(query.encode()).hexdigest()[:12]}"


def answer_of(provider: str, query: str) -> str:
    """What a source answers. Every query finds one page that the others find too."""
    found = [(address_of(provider, query), "its own"), (f"https://{provider}.example/shared", "shared")]
    return json.dumps(
        {"answer": None, "results": [{"title": title, "url": url, "text": "An excerpt."} for url, title in found]}
    )


def is_search(provider: str) -> bool:
    """Whether a provider runs no models, but searches."""
    return provider in SOURCES
