"""What is wrong with a document, in words for whoever wrote it: pydantic's errors without pydantic.

Pydantic speaks of its own classes, types and Python values, and its paths contain the names of union branches. Callers
of an HTTP API know only their own document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.cargo import TOOL_NAME_PATTERN
from headrace_contracts.limits import NAME_PATTERN, OPTIONAL_NAME_PATTERN, TENANT_PATTERN, TEXT_PATTERN
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from headrace_runtime.bodies import place_of

_KEY: Final = "[key]"
"""Pydantic's last step to a key that is wrong itself."""
_MOST_LOOKED_AT: Final = 200
"""A body can have tens of thousands of errors, and the event loop waits."""
_ENUM_MEMBER: Final = re.compile(r"<\w+(?:\.\w+)*: (.+?)>")
_TEXT, _LIST, _OBJECT, _NUMBER = "must be a text", "must be a list", "must be an object", "must be a number"
_OF_ANOTHER_TYPE: Final[Mapping[str, str]] = {
    "string_type": _TEXT, "bytes_type": _TEXT,
    "int_type": "must be a whole number", "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number", "int_parsing_size": "must be a whole number of fewer digits",
    "float_type": _NUMBER, "float_parsing": _NUMBER, "decimal_type": _NUMBER, "decimal_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false", "bool_parsing": "must be true or false",
    "list_type": _LIST, "tuple_type": _LIST, "set_type": _LIST, "frozen_set_type": _LIST, "iterable_type": _LIST,
    "dict_type": _OBJECT, "model_type": _OBJECT, "model_attributes_type": _OBJECT, "mapping_type": _OBJECT,
    "dataclass_type": _OBJECT, "none_required": "must be null",
}  # fmt: skip
_OF_WHAT_IS_MISSING: Final = frozenset({"missing", "value_error", "assertion_error"})
"""A field that is not there, or whose default is not valid together with the others."""
_OUT_OF_RANGE: Final[Mapping[str, str]] = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
}
_PATTERNS: Final[Mapping[str, str]] = {
    NAME_PATTERN: "must not be empty, and have no control characters",
    OPTIONAL_NAME_PATTERN: "must have no control characters",
    TEXT_PATTERN: "must not contain the character U+0000",
    TOOL_NAME_PATTERN: "must have 1 to 128 letters, digits, dots, colons, hyphens and underscores",
    TENANT_PATTERN: "must have 1 to 64 letters, digits, dots, hyphens and underscores, the first a letter or digit",
}


@dataclass(frozen=True, slots=True)
class InvalidField:
    """What is wrong with a field: its path in the document, as the caller wrote it, and what it must be."""

    field: str
    message: str


def invalid_fields(error: ValidationError, document: Any) -> tuple[InvalidField, ...]:
    """What is wrong with `document`, each field once, as far as it is among the first 200 errors.

    Where a field may have several forms, it is told what is wrong with the one that was meant: that whose type fits.
    """
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False, include_input=False)[:_MOST_LOOKED_AT]:
        found.setdefault(_path(detail, document), []).append(detail)
    # What another form of a field would have to be, while one form was gone into, is beside the point.
    gone_into = {path[:length] for path in found for length in range(len(path))}
    return tuple(
        InvalidField(place_of(path), _joined(details)) for path, details in found.items() if path not in gone_into
    )


def _path(detail: ErrorDetails, document: Any) -> tuple[str, ...]:
    """The place in the document: steps that exist in it, and what is missing there. Others name a form of a field."""
    steps = detail["loc"]
    if steps[-1:] == (_KEY,):
        steps = steps[:-2]
    path, _ = _resolved(document, steps, missing=detail["type"] in _OF_WHAT_IS_MISSING)
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found") and (tag := _tag(detail)):
        path = (*path, tag)
    return path


def _resolved(here: Any, steps: tuple[int | str, ...], *, missing: bool) -> tuple[tuple[str, ...], bool]:
    """The steps that lead into `here`, and whether the last one is among them.

    The name of a form may be the name of a field of it too (`text`): the last step, which is always a field unless the
    whole value is of no form, decides.
    """
    if not steps:
        return (), True
    step, rest = steps[0], steps[1:]
    inside: tuple[str, ...] = ()
    if isinstance(here, Mapping) and isinstance(step, str) and (step in here or (missing and not rest)):
        path, whole = _resolved(here.get(step), rest, missing=missing)
        inside = (str(step), *path)
    elif isinstance(here, list) and isinstance(step, int) and step < len(here):
        path, whole = _resolved(here[step], rest, missing=missing)
        inside = (str(step), *path)
    else:
        whole = False
    if whole or not rest:
        return inside, whole
    skipped, whole = _resolved(here, rest, missing=missing)
    return (skipped, whole) if whole or len(skipped) > len(inside) else (inside, False)


def _tag(detail: ErrorDetails) -> str:
    """The field that tells the forms of a union apart; "" if a function does."""
    name = str(detail.get("ctx", {}).get("discriminator", ""))
    return name.strip("'") if name.startswith("'") else ""


def _joined(details: list[ErrorDetails]) -> str:
    meant = [detail for detail in details if detail["type"] not in _OF_ANOTHER_TYPE] or details
    messages = list(dict.fromkeys(message_of(detail) for detail in meant))
    if all(message.startswith("must be ") for message in messages):
        return "must be " + " or ".join(message.removeprefix("must be ") for message in messages)
    return "; or ".join(messages)


def message_of(detail: ErrorDetails) -> str:
    """What a value must be, without the field's name."""
    said = _message_of(detail)
    if detail["loc"][-1:] != (_KEY,):
        return said
    key = str(detail["loc"][-2])
    return f"its key {place_of((key,))} {said}" if key else f"a key of it {said}"


def _message_of(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _OF_ANOTHER_TYPE:
        return _OF_ANOTHER_TYPE[kind]
    if kind in ("too_short", "string_too_short") and context.get("min_length") == 1:
        return "must not be empty"
    if kind in _OUT_OF_RANGE:
        limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}
        return _OUT_OF_RANGE[kind].format(**limits)
    match kind:
        case "missing" | "union_tag_not_found":
            return "is missing"
        case "extra_forbidden":
            return "is not a field here: check its spelling"
        case "literal_error" | "enum":
            return f"must be {_plain_values(str(context.get('expected', '')))}"
        case "union_tag_invalid":
            return f"must be one of {_plain_values(str(context.get('expected_tags', '')))}"
        case "string_pattern_mismatch":
            pattern = str(context.get("pattern", ""))
            return _PATTERNS.get(pattern, f"must match the regular expression {pattern}")
        case "value_error" | "assertion_error":
            return str(context.get("error", "is not valid")) or "is not valid"
        case _:
            return _plain_values(detail["msg"]).replace("Input should be", "must be")


def _plain_values(text: str) -> str:
    """Members of enumerations as callers write them."""
    return _ENUM_MEMBER.sub(r"\1", text)
