"""What is wrong with a document, in its author's words."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from aiohttp.test_utils import make_mocked_request
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import CALLER, require
from headrace_runtime.http import parse_model
from headrace_runtime.problems import ErrorShape, Problem, respond
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator


class Colour(StrEnum):
    """Members of an enumeration have names that callers do not know."""

    RED = "red"
    BLUE = "blue"


class Circle(BaseModel):
    """One form of a shape."""

    kind: Literal["circle"]
    radius: Annotated[float, Field(gt=0, le=10)]


class Square(BaseModel):
    """Another form of a shape."""

    kind: Literal["square"]
    side: Annotated[int, Field(ge=1)]


class Picture(BaseModel):
    """Everything that makes pydantic speak of itself."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(min_length=1, max_length=5)]
    colours: list[Literal[Colour.RED, Colour.BLUE]] = []
    ground: Colour | None = None
    shape: Annotated[Circle | Square, Field(discriminator="kind")] | None = None
    tags: Annotated[str, StringConstraints(min_length=2)] | list[Annotated[str, StringConstraints(min_length=2)]] = []
    sizes: dict[Annotated[str, StringConstraints(pattern=r"^\d+$")], int | list[int]] = {}
    odd: int = 1

    @field_validator("odd")
    @classmethod
    def _expect_odd(cls, number: int) -> int:
        if number % 2 == 0:
            raise ValueError("must be odd")
        return number


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "title: is missing"),
        ({"title": ""}, "title: must not be empty"),
        ({"title": "a long one"}, "title: must have at most 5 characters"),
        ({"title": "a", "titel": "b"}, "titel: is not a field here: check its spelling"),
        ({"title": "a", "colours": ["green"]}, "colours.0: must be 'red' or 'blue'"),
        ({"title": "a", "colours": ["red", 7]}, "colours.1: must be 'red' or 'blue'"),
        ({"title": "a", "colours": "red"}, "colours: must be a list"),
        ({"title": "a", "ground": "Colour.RED"}, "ground: must be 'red' or 'blue'"),
        ({"title": "a", "shape": {}}, "shape.kind: is missing"),
        ({"title": "a", "shape": {"kind": "line"}}, "shape.kind: must be one of 'circle', 'square'"),
        ({"title": "a", "shape": {"kind": "circle"}}, "shape.radius: is missing"),
        ({"title": "a", "shape": {"kind": "circle", "radius": 0}}, "shape.radius: must be more than 0"),
        ({"title": "a", "shape": {"kind": "square", "side": 1.5}}, "shape.side: must be a whole number"),
        ({"title": "a", "shape": [1]}, "shape: must be an object"),
        ({"title": "a", "tags": 5}, "tags: must be a text or a list"),
        ({"title": "a", "tags": "x"}, "tags: must have at least 2 characters"),
        ({"title": "a", "tags": ["ab", "x"]}, "tags.1: must have at least 2 characters"),
        ({"title": "a", "tags": [{}]}, "tags.0: must be a text"),
        ({"title": "a", "sizes": {"x": 1}}, r"sizes: its key x must match the regular expression ^\d+$"),
        ({"title": "a", "sizes": {"1": "y"}}, "sizes.1: must be a whole number or a list"),
        ({"title": "a", "sizes": {"1": [2, "y"]}}, "sizes.1.1: must be a whole number"),
        ({"title": "a", "odd": 2}, "odd: must be odd"),
        ([], "(body): must be an object"),
        ("text", "(body): must be an object"),
    ],
)
def test_what_is_wrong_is_told_as_its_author_wrote_it(document: Any, told: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_model(document, Picture)
    assert refused.value.detail == told
    assert refused.value.param == told.partition(": ")[0]


def test_all_clients_see_what_is_wrong_and_none_is_sent_to_a_list_that_it_does_not_get() -> None:
    with pytest.raises(Problem) as refused:
        parse_model({"odd": 2, "a": 1, "b": 2, "c": 3, "d": 4}, Picture)
    problem = refused.value
    assert problem.detail.startswith("title: is missing; odd: must be odd; a: is not a field here")
    assert problem.detail.endswith("; and 3 more")
    assert len(problem.extra["errors"]) == 6
    for shape in ErrorShape:
        text = respond(problem, shape=shape, request_id="r").text
        assert text is not None
        assert "must be odd" in text


@pytest.mark.parametrize("scope", [Scope.COSTS, Scope.SKILLS, Scope.PREFERENCES, Scope.ADMIN])
def test_a_missing_scope_is_named_as_keys_have_it(scope: Scope) -> None:
    request = make_mocked_request("GET", "/v1/costs")
    request[CALLER] = Caller("acme", "k", frozenset({"tasks"}))
    with pytest.raises(Problem) as refused:
        require(request, scope)
    assert refused.value.detail == f"This key lacks the scope {scope.value}; ask an admin for one that has it."
