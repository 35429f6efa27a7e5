"""The form that an answer must have: a pydantic model, another type that pydantic validates, or a JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar, cast

from headrace.errors import AnswerInvalid, Declined, no_answer
from headrace.results import Task

T = TypeVar("T")

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")
_MOST_TOLD: Final = 5


class AnswerForm(Generic[T]):
    """What to ask for, and how to read what comes.

    Args:
        wanted: A type, whose instances `parse` returns, or a JSON Schema, for which it returns plain JSON values.

    Raises ValueError for a type without a JSON Schema of an object.
    """

    def __init__(self, wanted: type[T] | Mapping[str, Any]) -> None:
        self._adapter: Any = None
        self._schema: dict[str, Any]
        if isinstance(wanted, Mapping):
            self._schema, name = dict(wanted), str(wanted.get("title") or "answer")
        else:
            self._adapter, self._schema = _adapted(wanted)
            name = getattr(wanted, "__name__", "answer")
        self._name = _NOT_IN_NAMES.sub("_", name)[:64] or "answer"

    def response_format(self) -> dict[str, Any]:
        """The value of the option `response_format`. Strict: an answer that does not fit is a failure of the task."""
        described = {"name": self._name, "schema": self._schema, "strict": True}
        return {"type": "json_schema", "json_schema": described}

    def parse(self, task: Task) -> T:
        """The answer of an ended task. Raises NoAnswer and its subclasses AnswerInvalid and Declined."""
        if not task.answered:
            raise no_answer(task)
        refusal = task.message.refusal if task.message is not None else None
        if task.status == "refused" or refusal is not None:
            raise Declined(task)
        try:
            document = json.loads(task.answer or "")
        except ValueError as error:
            cut_off = "it was cut off at the output limit: raise max_tokens"
            raise AnswerInvalid(
                task, cut_off if task.finish_reason == "length" else f"it is not JSON ({error})"
            ) from None
        return cast("T", self._checked(task, document))

    def _checked(self, task: Task, document: Any) -> Any:
        if self._adapter is None:
            from jsonschema import Draft202012Validator
            from jsonschema.exceptions import best_match

            wrong = best_match(Draft202012Validator(self._schema).iter_errors(document))
            if wrong is not None:
                raise AnswerInvalid(task, f"{wrong.json_path}: {wrong.validator} does not hold")
            return document
        from pydantic import ValidationError

        try:
            # As JSON, so that strict models take dates and the like from texts.
            return self._adapter.validate_json(task.answer or "")
        except ValidationError as error:
            told = [
                f"{'.'.join(map(str, one['loc'])) or 'the answer'}: {one['msg']}"
                for one in error.errors(include_url=False, include_input=False)[:_MOST_TOLD]
            ]
            raise AnswerInvalid(task, "; ".join(told)) from error


def _adapted(wanted: Any) -> tuple[Any, dict[str, Any]]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        adapter = TypeAdapter(wanted)
        schema = adapter.json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ValueError(f"schema: {str(error).partition(chr(10))[0]}") from None
    root = _target(schema, schema)
    if root.get("type") != "object":
        raise ValueError("schema: models answer with JSON objects: put the value into a field of a model")
    return adapter, _strict(schema, schema)


def _target(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """What a node refers to, with what it says itself."""
    reference = node.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
        return node
    found = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    return {**found, **{name: value for name, value in node.items() if name != "$ref"}}


def _strict(node: Any, root: dict[str, Any]) -> Any:
    """The schema as providers with strict schemas want it: every property required, and no others.

    A field with a default is asked for as well, which does no harm: the model fills it in.
    """
    if isinstance(node, list):
        return [_strict(one, root) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node and len(node) > 1:
        # Beside a reference, they take nothing.
        node = _target(node, root)
    made = {
        name: {key: _strict(one, root) for key, one in value.items()}
        if name in ("properties", "$defs") and isinstance(value, dict)
        else _strict(value, root)
        for name, value in node.items()
        if name != "default"
    }
    if isinstance(made.get("properties"), dict):
        made["required"] = list(made["properties"])
        made.setdefault("additionalProperties", False)
    return made
