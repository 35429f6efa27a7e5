"""What callers of the files and batches APIs ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from headrace_contracts.events import Lane
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from headrace_intake.decide.batches.endpoints import ENDPOINTS
from headrace_intake.decide.batches.life import WINDOW
from headrace_intake.decide.batches.records import INPUT
from headrace_intake.decide.options import HEADER_PREFIX, SubmitOptions, with_headers
from headrace_intake.decide.refusals import bad_request

SHORTEST_SECONDS: Final = 3_600
LONGEST_SECONDS: Final = 2_592_000
"""How long a caller may have a file kept, as with OpenAI."""
_LONGEST_FILENAME: Final = 255
MOST_BATCHES_LISTED: Final = 100
MOST_FILES_LISTED: Final = 10_000


class ExpiresAfter(BaseModel):
    """OpenAI's `expires_after` and `output_expires_after`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=SHORTEST_SECONDS, le=LONGEST_SECONDS)]


class BatchRequest(BaseModel):
    """The body of POST /v1/batches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    endpoint: str
    completion_window: str
    metadata: (
        Annotated[
            dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


def expect_possible(request: BatchRequest) -> None:
    """Raises Refusal for an endpoint or a window that there is not."""
    if request.endpoint not in ENDPOINTS:
        there_are = ", ".join(ENDPOINTS)
        raise bad_request(f"There are no batches of this endpoint; the endpoints are {there_are}.", "endpoint")
    if request.completion_window != WINDOW:
        raise bad_request(f"The completion window is {WINDOW}.", "completion_window")


def headers_of_batch(headers: Mapping[str, str]) -> dict[str, str]:
    """The X-Headrace-* headers of a request to create a batch. Raises Refusal for those that no line could have."""
    merged = with_headers({}, headers)
    if merged.get("priority") not in (None, Lane.BATCH):
        raise bad_request("The requests of a batch run in the batch lane: leave the priority out.", "priority")
    try:
        SubmitOptions.model_validate(merged)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        raise bad_request(f"The header for {field} has no possible value.", field) from None
    return {name: value for name, value in headers.items() if name.lower().startswith(HEADER_PREFIX.lower())}


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page of files or batches.

    Attributes:
        after: Id of the last one of the page before.
        purpose: Of files: only those.
    """

    limit: int
    after: str | None
    ascending: bool = False
    purpose: str | None = None


def page_of_batches(query: Mapping[str, str]) -> PageRequest:
    """The page that a query asks for. Raises Refusal."""
    return PageRequest(_limit(query, 20, MOST_BATCHES_LISTED), _after(query))


def page_of_files(query: Mapping[str, str]) -> PageRequest:
    """The page that a query asks for. Raises Refusal."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise bad_request("order is asc or desc.", "order")
    limit = _limit(query, MOST_FILES_LISTED, MOST_FILES_LISTED)
    return PageRequest(limit, _after(query), order == "asc", query.get("purpose"))


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise bad_request(f"limit is a number from 1 to {most}.", "limit")
    return int(text)


def _after(query: Mapping[str, str]) -> str | None:
    after = query.get("after")
    if after is not None and not is_id(after):
        raise unknown_after()
    return after or None


def unknown_after() -> Exception:
    """The refusal of a place in a list that there is not."""
    return bad_request("after: there is nothing with this id; use the last id of the page before.", "after")


def is_id(text: str) -> bool:
    """Whether the text can be the id of a file or a batch, and be asked for in the database."""
    return len(text) <= 200 and text.isascii() and text.isprintable()


@dataclass(frozen=True, slots=True)
class UploadFields:
    """The fields of an upload beside its file."""

    keep_seconds: int | None


def upload_fields(fields: Mapping[str, str]) -> UploadFields:
    """The fields of a multipart form. Raises Refusal."""
    expires: dict[str, Any] = {}
    for name, value in fields.items():
        match name:
            case "purpose":
                if value != INPUT:
                    raise bad_request(f"Files are for batches here: purpose is {INPUT!r}.", "purpose")
            case "expires_after[anchor]" | "expires_after[seconds]":
                expires[name.removeprefix("expires_after[").removesuffix("]")] = value
            case _:
                shown = name if name.isidentifier() and len(name) < 60 else None
                raise bad_request("There is no such field of an upload.", shown or "(form)", "unsupported-parameter")
    if "purpose" not in fields:
        raise bad_request(f"purpose is missing; it is {INPUT!r}.", "purpose")
    if not expires:
        return UploadFields(None)
    try:
        return UploadFields(ExpiresAfter.model_validate(expires).seconds)
    except ValidationError:
        why = f"expires_after: anchor is created_at, and seconds from {SHORTEST_SECONDS} to {LONGEST_SECONDS}."
        raise bad_request(why, "expires_after") from None


def filename_of(given: str | None) -> str:
    """The name under which a file is shown."""
    kept = "".join(char for char in given or "" if char.isprintable() and not "\ud800" <= char <= "\udfff")
    return kept[:_LONGEST_FILENAME] or "upload.jsonl"
