"""The fields common to tasks and chat completions, as callers write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Annotated, Any, Final

from headrace_contracts.cargo import LONGEST_QUERY, MOST_QUERIES
from headrace_contracts.events import Lane, Mode, Privacy
from headrace_contracts.limits import (
    HIGHEST_TEMPERATURE,
    LONGEST_DEADLINE_SECONDS,
    LONGEST_NAME,
    LONGEST_STOP,
    LONGEST_TEXT,
    MOST_BUDGET_DOLLARS,
    MOST_LABELS,
    MOST_OUTPUT_TOKENS,
    MOST_STOPS,
    NAME_PATTERN,
    NANODOLLARS_IN_A_DOLLAR,
    OPTIONAL_NAME_PATTERN,
    TEXT_PATTERN,
)
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema

from headrace_intake.decide.narrowing import ProviderChoice
from headrace_intake.decide.on_disconnect import parse_on_disconnect
from headrace_intake.decide.refusals import Refusal, bad_request

HEADER_PREFIX: Final = "X-Headrace-"
HEADER_FIELDS: Final = (
    "privacy", "priority", "budget", "deadline", "session", "subject", "role", "kind", "user", "mode",
    "preferred_provider", "allow_cached",
)  # fmt: skip
"""Fields that may also come as headers: X-Headrace-Preferred-Provider for preferred_provider."""
_ABOUT_THE_REQUEST: Final = frozenset({"on_disconnect"})
"""Headers that say nothing about the task, and so are no fields of the body."""
_OTHER_FIELDS: Final = frozenset({"model", "messages", "prompt", "json", "labels", "metadata", "max_completion_tokens"})
"""Fields of the bodies besides those of SubmitOptions."""
_ALSO_IN_LABELS: Final = ("privacy", "mode", "preferred_provider")
_UNREADABLE: Final = object()

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

_QUERY: Final = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"

Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]
"""A name chosen by callers; it appears in keys, indexes and logs, so it is short and printable."""


Query = Annotated[str, StringConstraints(max_length=LONGEST_QUERY, pattern=_QUERY)]
"""A search for a role with research: one line that says something."""

StopText = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_STOP)]


@dataclass(frozen=True, slots=True)
class InSeconds:
    """A deadline relative to the time of acceptance."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AtTime:
    """An absolute deadline, in milliseconds since the epoch."""

    ms: int


Deadline = InSeconds | AtTime


_DEADLINE_SCHEMA: Final = {
    "description": "A time, or seconds from now.",
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_DEADLINE_SECONDS},
        {"type": "null"},
    ],
}


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: it holds no lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def parse_time(value: object) -> int:
    """Milliseconds since the epoch from RFC 3339 text.

    Raises ValueError, worded for the caller, for anything else.
    """
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a time such as 2027-01-01T12:00:00Z")
    # RFC 3339 allows a space or lower case for "T"; Python 3.11 reads both, and Z as an offset.
    return int(datetime.fromisoformat(value.upper()).timestamp() * 1000)


def _parse_deadline(value: object) -> object:
    if value is None or isinstance(value, InSeconds | AtTime):
        return value
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            return AtTime(parse_time(value))
    if seconds is None or not 0 < seconds <= LONGEST_DEADLINE_SECONDS:
        raise ValueError(f"must be a time, or seconds from now: more than 0, at most {LONGEST_DEADLINE_SECONDS}")
    return InSeconds(seconds)


class SubmitOptions(BaseModel):
    """Headrace's own fields, and sampling. Unknown fields are refused: a misspelt limit must not be lost."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
    )

    privacy: Privacy | None = None
    priority: Lane | None = None
    budget: Annotated[Decimal, Field(ge=0, le=MOST_BUDGET_DOLLARS)] | None = None
    deadline: Annotated[
        InSeconds | AtTime | None, BeforeValidator(_parse_deadline), WithJsonSchema(_DEADLINE_SCHEMA)
    ] = None
    session: Name | None = None
    subject: Name | None = None
    role: Name | None = None
    kind: Name | None = None
    user: Annotated[str, StringConstraints(max_length=LONGEST_NAME, pattern=OPTIONAL_NAME_PATTERN)] | None = None
    mode: Mode | None = None
    preferred_provider: Name | None = None
    allow_cached: bool | None = None
    provider: ProviderChoice | None = None
    queries: Annotated[list[Query], Field(min_length=1, max_length=MOST_QUERIES)] | None = None

    max_tokens: Annotated[int, Field(ge=1, le=MOST_OUTPUT_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=HIGHEST_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool = False


Labels = Annotated[
    dict[Name, Annotated[str, StringConstraints(max_length=LONGEST_TEXT, pattern=TEXT_PATTERN)]],
    Field(max_length=MOST_LABELS),
]


def with_headers(
    document: Mapping[str, Any], headers: Mapping[str, str], query: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The body, with missing fields filled in from X-Headrace-* headers.

    Raises Refusal for an X-Headrace-* header that is not one of HEADER_FIELDS, is there twice, or is not UTF-8; for a
    field of the body that is in the query only, where nobody would read it; and for a header, a parameter of the query,
    or a label that says otherwise than the body.
    """
    parse_on_disconnect(headers)
    merged = dict(document)
    seen: dict[str, str] = {}
    values: dict[str, str] = {}
    prefix = HEADER_PREFIX.lower()
    for header, value in headers.items():
        name = header.lower()
        if not name.startswith(prefix):
            continue
        field = name.removeprefix(prefix).replace("-", "_")
        if field in _ABOUT_THE_REQUEST:
            continue
        if field not in HEADER_FIELDS:
            known = ", ".join((*HEADER_FIELDS, *sorted(_ABOUT_THE_REQUEST)))
            raise bad_request(
                f"There is no header {header}; the headers are those for {known}.",
                header,
                "unsupported-parameter",
            )
        if field in seen:
            also = "" if seen[field].lower() == name else f", as {seen[field]} too"
            raise bad_request(f"The header {header} was sent twice{also}: send it once.", header)
        seen[field], values[field] = header, value
        if not is_unicode(value):  # aiohttp keeps bytes that are not UTF-8 as lone surrogates
            raise bad_request(f"The header {header} is not UTF-8 text.", header)
    for field, value in values.items():
        if merged.get(field) is None:
            merged[field] = value
        elif not _same(field, merged[field], value):
            raise contradicting(f"the header {seen[field]}", f"`{field}` in the body", seen[field])
    _expect_agreeing_query(merged, query or {}, seen)
    _expect_agreeing_labels(merged, seen)
    return merged


def contradicting(one: str, other: str, param: str) -> Refusal:
    """400 for two places of a request that do not say the same."""
    return bad_request(
        f"{one[0].upper()}{one[1:]} contradicts {other}: send one, or the same in both.", param, "contradiction"
    )


def _expect_agreeing_query(merged: Mapping[str, Any], query: Mapping[str, str], headers: Mapping[str, str]) -> None:
    for parameter, value in query.items():
        field = parameter.lower().replace("-", "_").removeprefix(HEADER_PREFIX.lower().replace("-", "_"))
        if field not in SubmitOptions.model_fields and field not in _OTHER_FIELDS:
            continue
        if merged.get(field) is None:
            raise bad_request(
                f"{field} is not read from the query: send it in the body.", parameter, "unsupported-parameter"
            )
        if not _same(field, merged[field], value):
            raise contradicting(f"`{parameter}` in the query", _place(field, headers), parameter)


def _expect_agreeing_labels(merged: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    for name in ("labels", "metadata"):
        labels = merged.get(name)
        for label, value in labels.items() if isinstance(labels, Mapping) else ():
            field = str(label).lower().replace("-", "_").removeprefix(HEADER_PREFIX.lower().replace("-", "_"))
            # Labels are free: only one that reads as a level can contradict it.
            if field not in _ALSO_IN_LABELS or merged.get(field) is None or _read(field, value) is _UNREADABLE:
                continue
            if not _same(field, merged[field], value):
                raise contradicting(f"`{name}.{label}`", _place(field, headers), f"{name}.{label}")


def _place(field: str, headers: Mapping[str, str]) -> str:
    return f"the header {headers[field]}" if field in headers else f"`{field}` in the body"


def _same(field: str, said: object, said_elsewhere: object) -> bool:
    """Whether two values of a field mean the same. One in the body that means nothing is left to its validation."""
    value = _read(field, said)
    return value is _UNREADABLE or value == _read(field, said_elsewhere)


def _read(field: str, value: object) -> object:
    if field not in SubmitOptions.model_fields:
        return value
    try:
        return getattr(SubmitOptions.model_validate({field: value}), field)
    except ValidationError:
        return _UNREADABLE


def nanodollars(budget: Decimal) -> int:
    """Dollars as whole nano-dollars, rounded down."""
    return int((budget * NANODOLLARS_IN_A_DOLLAR).to_integral_value(rounding=ROUND_FLOOR))


def deadline_at(deadline: Deadline | None, now_ms: int) -> int | None:
    """When the task expires; None leaves it to the routing policy.

    Raises Refusal for a deadline that is past or too far away.
    """
    match deadline:
        case None:
            return None
        case InSeconds(seconds):
            return now_ms + max(1, int(seconds * 1000))
        case AtTime(ms) if ms <= now_ms:
            raise bad_request("The deadline is past.", "deadline")
        case AtTime(ms) if ms > now_ms + LONGEST_DEADLINE_SECONDS * 1000:
            raise bad_request(f"The deadline is more than {LONGEST_DEADLINE_SECONDS} s away.", "deadline")
        case AtTime(ms):
            return ms
