"""YAML with the lines its values stand in, and without what readers of YAML disagree about.

A policy may come from a topic, so a text is bounded: in bytes, in nesting, and in how much it becomes once the places
that repeat others (aliases) are written out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

LONGEST_TEXT: Final = 900_000
"""In bytes: as a record with a reason it still fits into a topic."""
_DEEPEST: Final = 32
_MOST_VALUES: Final = 50_000
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""That of libyaml, ten times as fast, where there is one."""


class YamlInvalid(ValueError):
    """Mend the text: the message says what is wrong, and in which line."""


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A text's value, and the line of each of its parts, from 1, by path."""

    value: Any
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def line_of(self, path: Sequence[str]) -> int:
        """The line of the part that the path leads to, or of the nearest one around it."""
        for length in range(len(path), 0, -1):
            if (line := self.lines.get(tuple(path[:length]))) is not None:
                return line
        return self.lines.get((), 1)


def read_yaml(text: str) -> YamlDocument:
    """The one document of a text. Raises YamlInvalid."""
    if len(text.encode(errors="surrogatepass")) > LONGEST_TEXT:
        raise YamlInvalid(f"it has more than {LONGEST_TEXT} bytes")
    try:
        loader = _LOADER(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise YamlInvalid(
            f"{where}not YAML: {', '.join(part for part in (error.context, error.problem) if part)}"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlInvalid(f"not YAML: {error}") from None
    if root is None:
        raise YamlInvalid("it is empty")
    lines: dict[tuple[str, ...], int] = {}
    _walk(root, (), lines)
    try:
        value = loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        raise YamlInvalid(f"not YAML: {error}") from None
    return YamlDocument(value, lines)


def _walk(node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    # Aliases are walked as often as they stand: so what they would become is counted, and a circle is too deep.
    line = node.start_mark.line + 1
    if len(path) > _DEEPEST:
        raise YamlInvalid(f"line {line}: it is nested more than {_DEEPEST} levels deep")
    if len(lines) >= _MOST_VALUES:
        raise YamlInvalid(f"line {line}: it has more than {_MOST_VALUES} values, repeated ones included")
    lines.setdefault(path, line)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, str(index)), lines)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlInvalid(f"line {key.start_mark.line + 1}: a key must be a name")
            name, at = str(key.value), key.start_mark.line + 1
            if name != "<<" and name in first:
                raise YamlInvalid(f"line {at}: the key {name!r} stands in line {first[name]} already")
            first[name] = at
            lines[*path, name] = at
            _walk(item, (*path, name), lines)
