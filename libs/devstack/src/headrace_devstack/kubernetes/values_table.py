"""The chart's table of values, generated from the comments in values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9_.-]*):(?P<rest>.*)$")


@dataclass(frozen=True, slots=True)
class Value:
    """One documented value.

    Attributes:
        path: Its keys, joined by dots.
        default: Its default in values.yaml.
        text: Its description.
        is_group: Whether its own keys are documented values, too.
    """

    path: str
    default: Any
    text: str
    is_group: bool = False


class ValueUndocumented(Exception):
    """Write a comment above the value in values.yaml; the message names it."""


def documented(text: str) -> list[Value]:
    """The values in the order of the file. A map with a comment on itself but none inside is one value.

    A value that a service overrides has the description of the same value among the defaults of all services. Raises
    ValueUndocumented.
    """
    return list(_walk(yaml.safe_load(text), (), dict(_comments(text))))


def table(text: str) -> str:
    """The values as Markdown: a section with a table for each top-level key that is a group."""
    sections: dict[str, list[Value]] = {}
    for value in documented(text):
        first = value.path.split(".", 1)[0]
        sections.setdefault(first if value.is_group or "." in value.path else "", []).append(value)
    lines: list[str] = []
    for name, values in sections.items():
        head = [value.text for value in values if value.path == name]
        lines += ["", f"### {f'`{name}`' if name else 'On the first level'}", "", *head, *([""] if head else [])]
        lines += ["| value | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{value.path}` | {'' if value.is_group else _shown(value.default)} | {_cell(value.text)} |"
            for value in values
            if value.path != name
        ]
    return "\n".join(lines).strip() + "\n"


def _walk(node: Mapping[str, Any], path: tuple[str, ...], comments: Mapping[str, str]) -> Iterator[Value]:
    for key, child in node.items():
        here = (*path, str(key))
        name = ".".join(here)
        has_keys = isinstance(child, dict) and bool(child)
        is_group = has_keys and (
            any(other.startswith(f"{name}.") for other in comments)
            or any(f"serviceDefaults.{below}" in comments for below in child)
        )
        text = comments.get(name) or _said_elsewhere(here, comments)
        if text:
            yield Value(name, child, text, is_group)
        elif not has_keys:
            raise ValueUndocumented(f"{name} has no comment above it in values.yaml")
        if is_group or (has_keys and not text):
            yield from _walk(child, here, comments)


def _said_elsewhere(path: tuple[str, ...], comments: Mapping[str, str]) -> str:
    default = comments.get(".".join(("serviceDefaults", *path[1:])), "") if len(path) > 1 else ""
    # `name` and `key` of a Secret are described above the pair.
    return default or (comments.get(".".join(path[:-1]), "") if path[-1] in {"name", "key"} else "")


def _comments(text: str) -> Iterator[tuple[str, str]]:
    stack: list[tuple[int, str]] = []
    block: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            if not stripped.startswith("# ---"):
                block.append(stripped.removeprefix("#").strip())
            continue
        found = _KEY.match(line)
        if found is None:
            block = []
            continue
        indent = len(found["indent"])
        while stack and stack[-1][0] >= indent:
            stack.pop()
        stack.append((indent, found["key"]))
        if block:
            yield ".".join(key for _, key in stack), " ".join(block)
        block = []


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
