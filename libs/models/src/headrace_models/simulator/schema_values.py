"""Values that fit a JSON Schema, made of what a prompt contains: what a model with structured outputs would give."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_DEEPEST: Final = 12
_FORMATS: Final[Mapping[str, str]] = {
    "date": "2026-11-29",
    "time": "12:00:00Z",
    "date-time": "2026-11-29T12:00:00Z",
    "duration": "PT1H",
    "email": "agent@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}
_QUOTED: Final = re.compile(r"[\"'`“]([^\"'`”\n]{1,200})[\"'`”]")
_PATH: Final = re.compile(r"[\w.\-]*/[\w./\-]+|[\w\-]+\.[a-z]{1,5}\b")
_PROPER: Final = re.compile(r"(?<![.!?] )(?<!^)\b[A-Z][a-zé]+(?: [A-Z][a-zé]+)*", re.MULTILINE)
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")


class Words:
    """What of a prompt can stand in a value."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._numbers = [float(found) for found in _NUMBER.findall(prompt)]

    def text(self, name: str) -> str:
        """A text for a field of this name: what the prompt quotes, a path or a name in it, else its beginning."""
        if re.search(r"path|file", name, re.I) and (path := _PATH.search(self._prompt)):
            return path[0]
        if quoted := _QUOTED.search(self._prompt):
            return quoted[1]
        if proper := _PROPER.search(self._prompt):
            return proper[0]
        return " ".join(self._prompt.split()[:8]) or name or "text"

    def names(self, word: str) -> bool:
        """Whether the prompt contains a word."""
        return word.lower() in self._prompt.lower()

    def number(self, place: int) -> float:
        """The number at this place among those in the prompt; 1 if there is none."""
        return self._numbers[place % len(self._numbers)] if self._numbers else 1.0


def value_for(schema: object, words: Words) -> Any:
    """A value that fits a schema of the usual kinds."""
    return _Maker(schema, words).make(schema, "", 0)


class _Maker:
    def __init__(self, root: object, words: Words) -> None:
        self._root = root
        self._words = words
        self._numbers = 0

    def make(self, schema: object, name: str, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > _DEEPEST:
            return None
        if "$ref" in schema:
            return self.make(self._target(str(schema["$ref"])), name, depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._chosen(schema["enum"])
        for word in ("anyOf", "oneOf"):
            if branches := schema.get(word):
                return self.make(_first_that_says_something(branches), name, depth + 1)
        if branches := schema.get("allOf"):
            merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
            for branch in branches:
                resolved = self._target(str(branch["$ref"])) if "$ref" in branch else branch
                merged = _merged(merged, resolved)
            return self.make(merged, name, depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        match kind:
            case "object":
                wanted = schema.get("properties", {})
                required = schema.get("required", [])
                return {key: self.make(of, key, depth + 1) for key, of in wanted.items()} | {
                    key: self._words.text(key) for key in required if key not in wanted
                }
            case "array":
                return self._array(schema, name, depth)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._text(schema, name)

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        if isinstance(items := schema.get("prefixItems"), list):
            return [self.make(item, name, depth + 1) for item in items]
        most = schema.get("maxItems", 2)
        count = min(max(schema.get("minItems", 0), 2), max(most, schema.get("minItems", 0)))
        made = [self.make(schema.get("items", {"type": "string"}), name, depth + 1) for _ in range(count)]
        if schema.get("uniqueItems"):
            made = [one for place, one in enumerate(made) if one not in made[:place]]
        return made

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        value = self._words.number(self._numbers)
        self._numbers += 1
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if low is not None:
            value = max(value, low + (1 if whole else 0.001) * ("exclusiveMinimum" in schema))
        if high is not None:
            value = min(value, high - (1 if whole else 0.001) * ("exclusiveMaximum" in schema))
        if step := schema.get("multipleOf"):
            value = max(1, round(value / step)) * step
        return int(value) if whole or float(value).is_integer() else value

    def _text(self, schema: Mapping[str, Any], name: str) -> str:
        if (form := str(schema.get("format"))) in _FORMATS:
            return _FORMATS[form]
        text = self._words.text(name)
        if pattern := schema.get("pattern"):
            text = next((one for one in (text, *_FORMATS.values(), "a", "A1", "0") if re.search(pattern, one)), text)
        text = text[: schema.get("maxLength", len(text))]
        return text.ljust(schema.get("minLength", 0), "x")

    def _chosen(self, options: Sequence[Any]) -> Any:
        """The option that the prompt names, else the first."""
        return next((one for one in options if isinstance(one, str) and self._words.names(one)), options[0])

    def _target(self, reference: str) -> object:
        node: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step and isinstance(node, dict):
                node = node.get(step.replace("~1", "/").replace("~0", "~"))
        return node


def _first_that_says_something(branches: Sequence[Any]) -> Any:
    return next((one for one in branches if not (isinstance(one, dict) and one.get("type") == "null")), branches[0])


def _merged(one: Mapping[str, Any], other: object) -> dict[str, Any]:
    if not isinstance(other, dict):
        return dict(one)
    both = {**one, **other}
    if "properties" in one and "properties" in other:
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = [*one["required"], *other["required"]]
    return both
