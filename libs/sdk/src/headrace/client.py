"""Headrace over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self, Unpack

from headrace_contracts.ids import new_id

from headrace.addresses import Addresses, locate
from headrace.asking import Asking
from headrace.costs import Costs
from headrace.errors import NotFound, NotUnderstood, NotYet
from headrace.keys import Keys
from headrace.messages import Prompt
from headrace.parsing import Reader, preferences_of, task_of, task_page_of
from headrace.pieces import OnPiece, Piece, told
from headrace.requests import TaskOptions, task_body
from headrace.results import Preferences, Task, TaskPage
from headrace.skills import Skills
from headrace.sse import ParsedEvent
from headrace.transport import Transport

_LONGEST_WAIT_SECONDS: Final = 60.0

OnWaiting = Callable[[str], None]
"""Gets the reason why a task cannot begin yet."""


class Client(Asking):
    """The HTTP client for agents and applications. Use it as an async context manager, in one event loop.

        async with headrace.Client() as client:
            answer = await client.ask("Review: def f(x): return x+1", role="code_reviewer", privacy="sensitive")
            print(answer.answer, answer.provider, answer.model, answer.cost_usd)

    `ask` with a schema returns an instance of it; `run_tools` lets the model call functions.

    Addresses and key come from the arguments, else from HEADRACE_URL, HEADRACE_SKILLS_URL, HEADRACE_COSTS_URL and
    HEADRACE_API_KEY, else from the `.headrace/stack.json` of a stack running in this folder or a parent folder.

    Requests that may succeed later (no connection, 429, 503) are retried for `patience_seconds`. A submission carries
    a generated Idempotency-Key, so that retries never create a second task.

    Attributes:
        skills: Publish, find and follow skills.
        costs: Cost reports.
        keys: API keys; needs a key with the scope admin.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        skills_url: str | None = None,
        costs_url: str | None = None,
        addresses: Addresses | None = None,
        patience_seconds: float = 20.0,
    ) -> None:
        """Raises Misconfigured for a malformed address; a missing one is reported when it is first needed."""
        self.addresses = addresses or locate(url=url, api_key=api_key, skills_url=skills_url, costs_url=costs_url)
        self._transport = Transport(self.addresses.api_key, patience_seconds=patience_seconds)
        self.skills = Skills(self._transport, lambda: self.addresses.require("skills_url"))
        self.costs = Costs(self._transport, lambda: self.addresses.require("costs_url"))
        self.keys = Keys(self._transport, lambda: self.addresses.require("url"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; open streams end."""
        await self._transport.close()

    async def submit(
        self, prompt: Prompt, *, idempotency_key: str | None = None, stream: bool = False,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle:  # fmt: skip
        """Submit a task; returns once it is durably accepted.

        Args:
            idempotency_key: Your own name for this submission, so that a later run of the program creates no second
                task either; by default a new one.
            stream: Whether its answer can be followed in pieces.
            options: See `TaskOptions`.

        Raises ValueError, Conflict for an idempotency_key used with other content, and what every call raises:
        NotAllowed, RequestInvalid, RetryLater, Unavailable.
        """
        return TaskHandle(self, await self._post(prompt, options, idempotency_key, stream=stream, wait_seconds=None))

    async def ended(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None = None,
        idempotency_key: str | None = None, on_piece: OnPiece | None = None,
    ) -> Task:  # fmt: skip
        """Submit a task and wait until it has ended, in whatever way. Raises NotYet after `timeout` seconds, and what
        `submit` raises."""
        began = time.monotonic()
        if on_piece is not None:
            return await self._streamed(prompt, options, idempotency_key, on_piece, timeout)
        wait = _LONGEST_WAIT_SECONDS if timeout is None else min(timeout, _LONGEST_WAIT_SECONDS)
        task = await self._post(prompt, options, idempotency_key, stream=False, wait_seconds=wait)
        if not task.ended:
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            try:
                task = await self.wait(task.id, left)
            except NotYet:
                raise NotYet(task.id, timeout or 0.0) from None
        return task

    async def _streamed(
        self, prompt: Prompt, options: TaskOptions, idempotency_key: str | None, on_piece: OnPiece,
        timeout: float | None,
    ) -> Task:  # fmt: skip
        task = await self._post(prompt, options, idempotency_key, stream=True, wait_seconds=None)
        stream = self.follow(task.id)
        try:
            async with asyncio.timeout(timeout):
                async for piece in stream:
                    await told(on_piece(piece))
                return await stream.result()
        except TimeoutError:
            raise NotYet(task.id, timeout or 0.0) from None
        finally:
            await stream.close()

    def stream(
        self, prompt: Prompt, *, idempotency_key: str | None = None, on_waiting: OnWaiting | None = None,
        **options: Unpack[TaskOptions],
    ) -> AnswerStream:  # fmt: skip
        """Submit a task (when the iteration starts) and receive its answer in pieces; `on_waiting` as for `follow`."""

        async def submit() -> str:
            return (await self._post(prompt, options, idempotency_key, stream=True, wait_seconds=None)).id

        return AnswerStream(self, submit, on_waiting)

    def follow(self, task_id: str, *, on_waiting: OnWaiting | None = None) -> AnswerStream:
        """The pieces of a task's answer, from its beginning; only the end if submitted without `stream=True`.

        Args:
            on_waiting: Called with the reason whenever the task cannot begin yet.
        """

        async def known() -> str:
            return task_id

        return AnswerStream(self, known, on_waiting)

    async def wait(self, task_id: str, timeout: float | None = None, *, on_waiting: OnWaiting | None = None) -> Task:
        """Wait until the task has ended, in whatever way; `on_waiting` as for `follow`. Raises NotYet after `timeout`
        seconds, NotFound."""
        try:
            async with asyncio.timeout(timeout):
                return await self.follow(task_id, on_waiting=on_waiting).result()
        except TimeoutError:
            raise NotYet(task_id, timeout or 0.0) from None

    async def get(self, task_id: str) -> Task:
        """The task's current state. Raises NotFound."""
        return task_of((await self._transport.call("GET", self._url(f"/v1/tasks/{task_id}"))).document)

    async def list(
        self, *, status: str | None = None, role: str | None = None, kind: str | None = None,
        session: str | None = None, user: str | None = None, since: datetime | None = None,
        until: datetime | None = None, limit: int = 50, cursor: str | None = None,
    ) -> TaskPage:  # fmt: skip
        """One page of the tenant's tasks, newest first, without answers and trails. At most 200 per page."""
        params = {
            "status": status, "role": role, "kind": kind, "session": session, "user": user, "since": _stamp(since),
            "until": _stamp(until), "limit": str(limit), "cursor": cursor,
        }  # fmt: skip
        return task_page_of((await self._transport.call("GET", self._url("/v1/tasks"), params=_given(params))).document)

    async def list_all(self, **filters: Any) -> AsyncIterator[Task]:
        """All tasks that `list` would find, page by page."""
        cursor: str | None = None
        while True:
            page = await self.list(**filters, cursor=cursor)
            for task in page.tasks:
                yield task
            if page.next is None:
                return
            cursor = page.next

    async def cancel(self, task_id: str, reason: str = "") -> Task | None:
        """Ask to cancel a task. Returns the task if it had already ended, None if the request was accepted. Raises
        NotFound."""
        params = {"reason": reason} if reason else None
        reply = await self._transport.call("DELETE", self._url(f"/v1/tasks/{task_id}"), params=params)
        return task_of(reply.document) if reply.status == 200 else None

    async def preferences(self, user: str = "") -> Preferences:
        """The effective preferences of the tenant, or of one of its users."""
        reply = await self._transport.call("GET", self._url("/v1/preferences"), params=_given({"user": user or None}))
        return preferences_of(reply.document)

    async def set_preferences(self, preferences: Preferences) -> Preferences:
        """Replace the record of the tenant, or of `preferences.user`; returns the effective preferences.

        Needs the scope preferences, or tasks to raise a user's. Raises NotAllowed.
        """
        body = {
            "ai_mode": preferences.ai_mode,
            "privacy_level": preferences.privacy_level,
            "preferred_provider": preferences.preferred_provider,
            "allowed_providers": list(preferences.allowed_providers),
        }
        params = _given({"user": preferences.user or None})
        reply = await self._transport.call("PUT", self._url("/v1/preferences"), body=body, params=params)
        return preferences_of(reply.document)

    async def remove_preferences(self, user: str = "") -> None:
        """Remove the record of the tenant, or of one of its users. Needs the scope preferences. Raises NotAllowed."""
        await self._transport.call("DELETE", self._url("/v1/preferences"), params=_given({"user": user or None}))

    def _url(self, path: str) -> str:
        return self.addresses.require("url").rstrip("/") + path

    async def _post(
        self, prompt: Prompt, options: TaskOptions, idempotency_key: str | None, *, stream: bool,
        wait_seconds: float | None,
    ) -> Task:  # fmt: skip
        headers = {"Idempotency-Key": idempotency_key or new_id()}
        if wait_seconds is not None:
            headers["Prefer"] = f"wait={max(1, int(wait_seconds))}"
        reply = await self._transport.call(
            "POST",
            self._url("/v1/tasks"),
            body=task_body(prompt, options, stream=stream),
            headers=headers,
            timeout_seconds=30.0 + (wait_seconds or 0.0),
        )
        return task_of(reply.document)

    async def _events(self, task_id: str) -> AsyncGenerator[ParsedEvent, None]:
        """The task's events to its end, across broken connections. Adds `restarted` where pieces are missing."""
        url = self._url(f"/v1/tasks/{task_id}/events")
        last_id = ""
        while True:
            try:
                async for event in self._transport.events(url, last_event_id=last_id):
                    last_id = event.last_id
                    yield event
                    if event.event == "finished":
                        break
                return
            except NotFound as gone:
                if gone.status != 410 or not last_id:
                    raise
                last_id = ""
                yield ParsedEvent("restarted", "{}", "")


class TaskHandle:
    """An accepted task."""

    def __init__(self, client: Client, task: Task) -> None:
        self._client = client
        self.accepted = task

    @property
    def id(self) -> str:
        return self.accepted.id

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r})"

    async def wait(self, timeout: float | None = None) -> Task:
        """See `Client.wait`."""
        return await self._client.wait(self.id, timeout)

    async def get(self) -> Task:
        """See `Client.get`."""
        return await self._client.get(self.id)

    async def cancel(self, reason: str = "") -> Task | None:
        """See `Client.cancel`."""
        return await self._client.cancel(self.id, reason)

    def pieces(self) -> AnswerStream:
        """See `Client.follow`."""
        return self._client.follow(self.id)


class AnswerStream:
    """An answer in pieces; iterate over it once. A broken connection is resumed where it broke.

    stream = client.stream("Why do rivers meander?")
    async for piece in stream:
        print(piece.text, end="")
    task = await stream.result()
    """

    def __init__(self, client: Client, submit: Callable[[], Any], on_waiting: OnWaiting | None = None) -> None:
        self._client = client
        self._submit = submit
        self._on_waiting = on_waiting
        self._iterator: AsyncGenerator[Piece, None] | None = None
        self._task: Task | None = None
        self.task_id: str | None = None

    def __aiter__(self) -> AsyncIterator[Piece]:
        if self._iterator is None:
            self._iterator = self._pieces()
        return self._iterator

    async def result(self) -> Task:
        """The ended task, in whatever way it ended, with its complete answer; remaining pieces are skipped."""
        if self._task is None:
            async for _ in self:
                pass
        assert self._task is not None
        return self._task

    async def close(self) -> None:
        """Stop listening; the task continues."""
        if self._iterator is not None:
            await self._iterator.aclose()

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        self.task_id = task_id = str(await self._submit())
        anew = False
        events = self._client._events(task_id)
        try:
            async for event in events:
                document = _document(event)
                if event.event == "delta":
                    for piece in _pieces_in(document):
                        yield replace(piece, begins_anew=True) if anew else piece
                        anew = False
                elif event.event == "restarted":
                    anew = True
                elif event.event == "waiting":
                    if self._on_waiting is not None:
                        self._on_waiting(str(document.get("reason") or ""))
                elif event.event == "finished":
                    self._task = task_of(document)
        finally:
            await events.aclose()
        if self._task is None:
            self._task = await self._client.get(task_id)


def _pieces_in(delta: Mapping[str, Any]) -> Iterator[Piece]:
    text = str(delta.get("text") or "")
    if text:
        yield Piece(text, content=text)
    for read in Reader(delta, "a piece of an answer").objects("pieces"):
        kind, choice, content = read.text("kind"), read.integer("choice"), read.optional_text("text") or ""
        yield Piece(
            content if kind == "text" and choice == 0 else "", kind=kind, choice=choice, part=read.integer("part"),
            content=content, call_id=read.optional_text("call_id"), name=read.optional_text("name"),
        )  # fmt: skip


def _document(event: ParsedEvent) -> Mapping[str, Any]:
    try:
        document = json.loads(event.data)
    except ValueError:
        document = None
    if not isinstance(document, Mapping):
        raise NotUnderstood(f"the data of an event {event.event!r} is not a JSON object")
    return document


def _stamp(time_: datetime | None) -> str | None:
    return None if time_ is None else time_.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _given(params: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
