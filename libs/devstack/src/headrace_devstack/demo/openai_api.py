"""OpenAI's chat API as a way to have tasks done: what any OpenAI client sends and reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp
from headrace import AnswerChoice, Failure, NotUnderstood, Prompt, RequestError, Task, TaskOptions, Unavailable
from headrace.asking import Asking
from headrace.message_documents import message_of
from headrace.pieces import OnPiece
from headrace.requests import task_body


class OpenAIApi(Asking):
    """POST /v1/chat/completions of one tenant."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {api_key}"}

    async def ended(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None = None,
        idempotency_key: str | None = None, on_piece: OnPiece | None = None,
    ) -> Task:  # fmt: skip
        """Raises RequestError for a refusal that names no task, Unavailable, NotUnderstood."""
        if idempotency_key is not None or on_piece is not None:
            raise ValueError("the demo uses no idempotency keys and no pieces")
        body = task_body(prompt, options, stream=False)
        if "role" in body:
            body["model"] = f"role:{body.pop('role')}"
        try:
            async with self._session.post(
                self._url, json=body, headers=self._headers, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as response:
                task_id = response.headers.get("X-Headrace-Task-Id")
                document: Any = await response.json(content_type=None)
        except TimeoutError:
            raise Unavailable(f"there was no answer within {timeout or 0.0:g} s") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        if not isinstance(document, Mapping):
            raise NotUnderstood(f"{response.status}: the answer is not a JSON object")
        if response.status != 200:
            return _failed(response.status, task_id, document)
        return _answered(document)


def _answered(document: Mapping[str, Any]) -> Task:
    try:
        choice = document["choices"][0]
        message = message_of(choice["message"])
        task_id = str(document["headrace"]["task_id"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotUnderstood(f"the answer is not a chat completion: {type(error).__name__}: {error}") from error
    declined = message.refusal is not None or choice.get("finish_reason") == "content_filter"
    return Task(
        id=task_id,
        status="refused" if declined else "succeeded",
        answer=message.text or message.refusal,
        finish_reason=choice.get("finish_reason"),
        choices=(AnswerChoice(message=message, finish_reason=choice.get("finish_reason")),),
    )


def _failed(status: int, task_id: str | None, document: Mapping[str, Any]) -> Task:
    """The task that ended without an answer. Raises RequestError if there is none."""
    error = document.get("error")
    said = error if isinstance(error, Mapping) else document
    message, code = str(said.get("message") or document), str(said.get("code") or status)
    if task_id is None:
        raise RequestError(f"{status}: {message}", status=status, kind=code)
    return Task(id=task_id, status="failed", failure=Failure(code=code, message=message))
