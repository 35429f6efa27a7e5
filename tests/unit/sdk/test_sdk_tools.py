"""Functions as tools: what a model is told of them, and how its calls reach them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from headrace import Tool
from headrace.tools import tools_of
from pydantic import BaseModel, Field


class Spot(BaseModel):
    """A place in a file."""

    file: str
    line: int = Field(1, ge=1)


@dataclass
class Pair:
    """Two numbers."""

    left: int
    right: int


def read_file(path: str, lines: int = 100, *, json: Literal["yes", "no"] = "no", copy: Spot | None = None) -> str:
    """Read the beginning of a file.

    Not of folders.

    Args:
        path: Path below the root,
            with slashes.
        lines (int): Most lines: at least 1.

    Returns:
        path: not a parameter's meaning.
    """
    return f"{path} {lines} {json} {copy}"


def add(pair: Pair, more: list[float], unit: Annotated[str, Field(description="Of both.")] = "m") -> float:
    """Add.

    :param pair: What to add.
    :param list more: And more.
    :returns: The sum.
    """
    return pair.left + pair.right + sum(more)


class Shelf:
    """With a method, and callable itself."""

    async def search(self, query: str) -> list[str]:
        """Search the store."""
        return [query]

    def __call__(self, anything) -> str:  # type: ignore[no-untyped-def]
        """Called itself."""
        return str(anything)


def test_a_function_is_told_by_signature_and_docstring() -> None:
    tool = Tool.of(read_file)
    assert (tool.name, tool.description) == ("read_file", "Read the beginning of a file.\n\nNot of folders.")
    said: Any = tool.document()["function"]["parameters"]
    assert said["required"] == ["path"]
    assert said["additionalProperties"] is False
    properties = said["properties"]
    assert properties["path"]["description"] == "Path below the root, with slashes."
    assert properties["lines"] == {"default": 100, "description": "Most lines: at least 1.", "title": "lines",
                                   "type": "integer"}  # fmt: skip
    assert properties["json"]["enum"] == ["yes", "no"]
    assert said["$defs"]["Spot"]["properties"]["line"]["minimum"] == 1


def test_other_docstrings_and_annotations_are_understood() -> None:
    properties = Tool.of(add).document()["function"]["parameters"]["properties"]
    assert Tool.of(add).description == "Add."
    assert properties["more"]["description"] == "And more."
    assert properties["unit"]["description"] == "Of both."
    assert Tool.of(Shelf().search).name == "search"
    assert Tool.of(Shelf(), name="store").description == "Called itself."
    half = Tool.of(functools.partial(read_file, lines=5), name="half")
    assert half.bound({"path": "a"}) == {"path": "a"}


@pytest.mark.parametrize(
    ("function", "arguments", "bound"),
    [
        (read_file, {"path": "a", "copy": {"file": "b"}}, {"path": "a", "copy": Spot(file="b", line=1)}),
        (read_file, {"path": "a", "lines": "7"}, {"path": "a", "lines": 7}),
        (add, {"pair": {"left": 1, "right": 2}, "more": [1, "2.5"]}, {"pair": Pair(1, 2), "more": [1.0, 2.5]}),
    ],
)
def test_arguments_come_as_the_function_declares_them(function: Any, arguments: Any, bound: Any) -> None:
    assert Tool.of(function).bound(arguments) == bound
    function(**bound)


@pytest.mark.parametrize(
    ("function", "arguments", "complaint"),
    [
        (read_file, {}, "path: Field required"),
        (read_file, {"path": "a", "n": 1}, "n: Extra"),
        (read_file, {"path": "a", "json": "maybe"}, "json: .*'yes' or 'no'"),
        (add, {"pair": {"left": 1}, "more": []}, "pair.right: Field required"),
    ],
)
def test_arguments_that_do_not_fit_are_told_by_name(function: Any, arguments: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Tool.of(function).bound(arguments)


def varying(*names: str) -> str:
    return "".join(names)


def positional(name: str, /) -> str:
    return name


def odd(what: Shelf) -> str:
    return str(what)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (varying, "named arguments"), (positional, "named arguments"), (odd, "no JSON Schema"),
        (lambda: "x", "name the tool"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_call_is_refused_at_once(function: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        tools_of([function])


def test_tools_have_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="two tools are named read_file"):
        tools_of([read_file, Tool("read_file")])
    assert [tool.name for tool in tools_of([read_file, Tool.of(read_file, name="again")])] == ["read_file", "again"]
    with pytest.raises(ValueError, match="letters"):
        Tool("read file")
