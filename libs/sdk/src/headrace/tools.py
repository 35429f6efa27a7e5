"""Functions as tools of a model: their schemas, from signature and docstring, and their calls.

async def read_file(path: str, lines: int = 100) -> str:
    \"\"\"Read the beginning of a file.

    Args:
        path: Path below the repository's root.
        lines: Most lines.
    \"\"\"

result = await client.run_tools("What does app.py do?", tools=[read_file])
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, get_type_hints

_NAME: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
_SECTION: Final = re.compile(
    r"^\s*(Args|Arguments|Parameters|Returns|Return|Raises|Yields|Examples?|Attributes|Note):\s*$"
)
_ARGUMENT: Final = re.compile(r"^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_PARAM: Final = re.compile(r"^\s*:param (?:[^:]*\s)?(\w+):\s*(.*)$")
_FIELD_LIST: Final = re.compile(r"^\s*:\w+[^:]*:")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model may call.

    Attributes:
        name: Its name.
        description: What it does, for the model.
        parameters: JSON Schema of its arguments; None: it takes none.
        strict: Whether arguments must fit the schema. None: the provider's default.
        function: What `run_tools` calls with the arguments.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    function: Callable[..., Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"a tool's name has 1 to 128 letters, digits, dots, colons, hyphens and underscores, not {self.name!r}"
            )

    @classmethod
    def of(cls, function: Callable[..., Any], *, name: str | None = None, description: str | None = None) -> Self:
        """A function as a tool: its name, its docstring and its annotations are what the model sees.

        A parameter's meaning comes from the docstring's `Args:` (or `:param x:`), or pydantic's
        `Annotated[str, Field(description=…)]`.

        Raises ValueError for a function that cannot be called with named arguments.
        """
        called = name or getattr(function, "__name__", "")
        if not called or called == "<lambda>":
            raise ValueError("name the tool: Tool.of(function, name=…)")
        summary, meanings = _documented(inspect.getdoc(_routine(function)) or "")
        parameters = _arguments_of(function, called, meanings).model_json_schema()
        parameters.pop("title", None)
        parameters.pop("description", None)
        return cls(called, summary if description is None else description, parameters, function=function)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """A tool as OpenAI's chat API has it. Raises ValueError."""
        function = document.get("function")
        if document.get("type") != "function" or not isinstance(function, Mapping):
            raise ValueError('a tool is {"type": "function", "function": {"name": …, "parameters": …}}')
        return cls(
            str(function.get("name") or ""), str(function.get("description") or ""), function.get("parameters"),
            function.get("strict"),
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The tool as OpenAI's chat API has it."""
        said: dict[str, Any] = {"name": self.name}
        if self.description:
            said["description"] = self.description
        if self.parameters is not None:
            said["parameters"] = dict(self.parameters)
        if self.strict is not None:
            said["strict"] = self.strict
        return {"type": "function", "function": said}

    def bound(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call as the function takes them. Raises ValueError, worded for the model."""
        from pydantic import ValidationError

        if self.function is None:
            raise ValueError(f"nothing is there to call for {self.name}")
        model = _arguments_of(self.function, self.name, {})
        try:
            found = model.model_validate(dict(arguments))
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors()
            )
            raise ValueError(f"the arguments do not fit: {wrong}") from None
        # Only what was said: the function has its own defaults.
        return {
            str(entry.alias): getattr(found, name)
            for name, entry in model.model_fields.items()
            if name in found.model_fields_set
        }


def tools_of(given: Iterable[Tool | Callable[..., Any] | Mapping[str, Any]]) -> list[Tool]:
    """The tools, functions made into them. Raises ValueError if two have the same name."""
    found: dict[str, Tool] = {}
    for one in given:
        tool = one if isinstance(one, Tool) else Tool.from_document(one) if isinstance(one, Mapping) else Tool.of(one)
        if tool.name in found:
            raise ValueError(f"two tools are named {tool.name}: give one another name, with Tool.of(function, name=…)")
        found[tool.name] = tool
    return list(found.values())


def _routine(function: Callable[..., Any]) -> Callable[..., Any]:
    """What holds the docstring and the annotations of something that can be called."""
    plain = function.func if isinstance(function, functools.partial) else function
    return plain if inspect.isroutine(plain) else type(plain).__call__


def _arguments_of(function: Callable[..., Any], name: str, meanings: Mapping[str, str]) -> Any:
    """A pydantic model of the named arguments. Raises ValueError."""
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        hints = get_type_hints(_routine(function), include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise ValueError(f"the signature of the tool {name} cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    for place, parameter in enumerate(parameters):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"a model calls {name} with named arguments: it cannot take {parameter}")
        default = ... if parameter.default is parameter.empty else parameter.default
        # Its own name is an alias: it may be one that pydantic's models need for themselves.
        meaning: dict[str, Any] = {}
        if parameter.name in meanings:
            meaning["description"] = meanings[parameter.name]
        said = Field(default, alias=parameter.name, title=parameter.name, **meaning)
        fields[f"argument_{place}"] = (hints.get(parameter.name, Any), said)
    try:
        return create_model(f"arguments_of_{name}", __config__=ConfigDict(extra="forbid"), **fields)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ValueError(f"a parameter of {name} has no JSON Schema: {str(error).partition(chr(10))[0]}") from None


def _documented(docstring: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of each of its parameters."""
    summary: list[str] = []
    meanings: dict[str, str] = {}
    section, current = "", ""
    for line in docstring.splitlines():
        if heading := _SECTION.match(line):
            section, current = heading[1], ""
        elif found := _PARAM.match(line):
            section, current = "fields", found[1]
            meanings[current] = found[2].strip()
        elif _FIELD_LIST.match(line) and section in ("", "fields"):
            section, current = "fields", ""
        elif not section:
            summary.append(line)
        elif section in ("Args", "Arguments", "Parameters") and (found := _ARGUMENT.match(line)) and _indent(line) <= 4:
            current = found[1]
            meanings[current] = found[2].strip()
        elif current and line.strip():
            meanings[current] += f" {line.strip()}"
    return "\n".join(summary).strip(), meanings


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
