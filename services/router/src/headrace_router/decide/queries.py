"""What a task searches for: the queries of its request, or the last words of its user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from headrace_contracts.content import PLAIN, plain, text_of
from headrace_contracts.events import (
    Content,
    Failure,
    Message,
    ModelOperation,
    Options,
    PartKind,
    ResearchState,
    SearchState,
    TaskSubmitted,
)
from headrace_models.found_sources import search_query

from headrace_router.decide.policy import RolePolicy

NO_QUERY: Final = "no_query"
NO_RESEARCH: Final = "no_research"
TOO_MANY_QUERIES: Final = "too_many_queries"
"""Codes of tasks whose searches cannot be."""


def begun(task: TaskSubmitted, role: RolePolicy | None) -> ResearchState | Failure | None:
    """The searches of a new task; None if its role has none, a failure if it cannot have those it asks for."""
    asked = () if task.options is None else task.options.queries
    policy = None if role is None or task.operation is not ModelOperation.CHAT else role.research
    if policy is None:
        why = "queries are for a role with research, and this task has none: name such a role, or leave them out"
        return Failure(code=NO_RESEARCH, message=why) if asked else None
    queries = _apart(asked) if asked else _derived(task.messages)
    if not queries:
        return Failure(code=NO_QUERY, message="there is no text of the user to search for: give options.queries")
    if len(queries) > policy.most_queries:
        why = f"there are {len(queries)} queries, and the role {task.role!r} may have {policy.most_queries}"
        return Failure(code=TOO_MANY_QUERIES, message=why)
    return ResearchState(searches=tuple(SearchState(query=query) for query in queries))


def search_messages(search: SearchState) -> tuple[Message, ...]:
    """The conversation that asks a source."""
    return (Message(role="user", content=search.query),)


def _apart(queries: Iterable[Content]) -> list[Content]:
    """The queries that differ in more than case and spaces."""
    kept: dict[str, Content] = {}
    for query in queries:
        same = " ".join(text_of(query).split()).casefold() if query.cipher == PLAIN else repr(query)
        kept.setdefault(same, query)
    return list(kept.values())


def _derived(messages: Iterable[Message]) -> list[Content]:
    """The last words of the user as a query."""
    asked = (_text_of(message) for message in reversed(tuple(messages)) if message.role == "user")
    query = search_query(asked)
    return [plain(query)] if query else []


def _text_of(message: Message) -> str:
    contents = [message.content, *(part.content for part in message.parts if part.kind is PartKind.TEXT)]
    return " ".join(text_of(one) for one in contents if one is not None and one.cipher == PLAIN)


def without_queries(options: Options | None) -> Options | None:
    """What is asked of the model, which is not to search."""
    return options if options is None or not options.queries else replace(options, queries=())
