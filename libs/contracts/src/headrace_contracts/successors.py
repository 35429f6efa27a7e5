"""Whether a schema may be a version of a record from another release, or from another team.

Whoever reaches the registry can add schemas. Values are decoded only with schemas that were released with this program,
and with those that could have been: a newer release writes them while old and new processes run side by side. They and
every released version read each other (FULL_TRANSITIVE, as in schemas/README.md), and they stay within the limits here,
which keep what decoding costs in proportion to the bytes decoded.
"""

from __future__ import annotations

from typing import Any, Final

from headrace_contracts.errors import UnusableSchema
from headrace_contracts.schema_texts import NAMED, RECORDS, Types, kind_of, short_name

MAX_GROWTH: Final = 4
"""How many times as long as the longest version that we know a schema may be, in characters, documentation included."""
MIN_CHARACTERS: Final = 32 * 1024
"""What every schema may have."""
MAX_FIELDS: Final = 1_000
"""Of all its records together."""
MAX_TYPES: Final = 200
MAX_SYMBOLS: Final = 1_000
MAX_BRANCHES: Final = 32
MAX_FIXED_BYTES: Final = 65_536
MAX_DEPTH: Final = 32
"""Levels of nesting of a value."""

_PROMOTIONS: Final = {"int": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",),
                      "string": ("bytes",), "bytes": ("string",)}  # fmt: skip


def check_bounds(types: Types) -> None:
    """Raises UnusableSchema for a schema beyond the limits, or whose values could take no bytes.

    With a schema that passes, every step of decoding takes at least one byte, and the depth has a limit.
    """
    _Bounds(types).run()


def check_successor(types: Types, versions: list[tuple[str, Types]]) -> None:
    """Raises UnusableSchema unless a schema and all of these versions read each other."""
    for version, known in versions:
        for reader, writer, says in (
            (known, types, f"{version} cannot read what it writes"),
            (types, known, f"it cannot read what {version} wrote"),
        ):
            if (why := _Reading(reader, writer).obstacle(reader.root, writer.root)) is not None:
                raise UnusableSchema(f"not a version of the released schema (FULL_TRANSITIVE): {says}: {why}")


class _Bounds:
    def __init__(self, types: Types) -> None:
        self._types = types
        self._depths: dict[str, int] = {}
        self._open: set[str] = set()

    def run(self) -> None:
        records = [node for node in self._types.named.values() if node["type"] in RECORDS]
        if len(self._types.named) > MAX_TYPES:
            raise UnusableSchema(f"it has more than {MAX_TYPES} named types")
        if sum(len(node["fields"]) for node in records) > MAX_FIELDS:
            raise UnusableSchema(f"it has more than {MAX_FIELDS} fields")
        self._depth(self._types.root, 1)

    def _depth(self, node: Any, level: int) -> int:
        """Levels of nesting of a value, which is nested so deep itself."""
        if level > MAX_DEPTH:
            raise UnusableSchema(f"its values are nested more than {MAX_DEPTH} levels deep")
        plain = self._types.plain(node)
        kind = kind_of(plain)
        if kind == "union":
            if len(plain) > MAX_BRANCHES:
                raise UnusableSchema(f"it has a union of more than {MAX_BRANCHES} types")
            # A branch may take no bytes: its number takes one.
            branches = [branch for branch in plain if self._types.plain(branch) != "null"]
            return 1 + max((self._depth(branch, level + 1) for branch in branches), default=0)
        if kind == "null":
            raise UnusableSchema("a null outside a union takes no bytes, so bytes do not limit how many there are")
        if kind in NAMED:
            return self._depth_of_named(plain, level)
        if kind in ("array", "map"):
            return 1 + self._depth(plain["items" if kind == "array" else "values"], level + 1)
        return 1

    def _depth_of_named(self, node: Any, level: int) -> int:
        name = node["name"]
        if name in self._open:
            raise UnusableSchema(f"{name} contains itself, so bytes could nest it as deep as they like")
        if (known := self._depths.get(name)) is not None:
            if level + known - 1 > MAX_DEPTH:
                raise UnusableSchema(f"its values are nested more than {MAX_DEPTH} levels deep")
            return known
        self._open.add(name)
        found = 1
        if node["type"] == "fixed" and not 0 < node["size"] <= MAX_FIXED_BYTES:
            raise UnusableSchema(f"{name} has {node['size']} bytes")
        if node["type"] == "enum" and len(node["symbols"]) > MAX_SYMBOLS:
            raise UnusableSchema(f"{name} has more than {MAX_SYMBOLS} symbols")
        if node["type"] in RECORDS:
            if not node["fields"]:
                raise UnusableSchema(f"{name} has no fields, so bytes do not limit how many there are")
            found += max(self._depth(field["type"], level + 1) for field in node["fields"])
        self._open.remove(name)
        self._depths[name] = found
        return found


class _Reading:
    """Whether a reader's schema can read all values of a writer's, by Avro's rules of schema resolution."""

    def __init__(self, reader: Types, writer: Types) -> None:
        self._reader = reader
        self._writer = writer
        self._known: dict[tuple[int, int], str | None] = {}

    def obstacle(self, reader: Any, writer: Any) -> str | None:
        """Why the reader cannot; None if it can."""
        read, written = self._reader.plain(reader), self._writer.plain(writer)
        key = (id(read), id(written))
        if key not in self._known:
            # Until it is known: a type within itself can be read if the rest can.
            self._known[key] = None
            self._known[key] = self._find(read, written)
        return self._known[key]

    def _find(self, read: Any, written: Any) -> str | None:
        reads, writes = kind_of(read), kind_of(written)
        if writes == "union":
            return next((why for branch in written if (why := self.obstacle(read, branch)) is not None), None)
        if reads == "union":
            obstacles = [self.obstacle(branch, written) for branch in read]
            if None in obstacles:
                return None
            # What is wrong in a record says more than that it is none of the others.
            inner = next((each for each in obstacles if each is not None and "/" in each), None)
            return inner or f"no branch of a union is {_said(written)}"
        if reads != writes:
            return None if reads in _PROMOTIONS.get(writes, ()) else f"{_said(written)} is not {_said(read)}"
        if reads in NAMED and short_name(read) != short_name(written) and not _is_alias(read, written["name"]):
            return f"{_said(written)} is not {_said(read)}"
        if reads == "record":
            return self._find_in_fields(read, written)
        if reads == "enum":
            unknown = set(written["symbols"]) - set(read["symbols"])
            return f"{read['name']} lacks symbols, and has no default" if unknown and "default" not in read else None
        if reads == "fixed":
            return None if read["size"] == written["size"] else f"{read['name']} has another size"
        if reads in ("array", "map"):
            part = "items" if reads == "array" else "values"
            return self.obstacle(read[part], written[part])
        return None

    def _find_in_fields(self, read: Any, written: Any) -> str | None:
        fields = {field["name"]: field for field in written["fields"]}
        for field in read["fields"]:
            names = (field["name"], *field.get("aliases", ()))
            counterpart = next((fields[name] for name in names if name in fields), None)
            if counterpart is None:
                if "default" not in field:
                    return f"{short_name(read)}/{field['name']} has no default, and is not there"
            elif (why := self.obstacle(field["type"], counterpart["type"])) is not None:
                return why if "/" in why else f"{short_name(read)}/{field['name']}: {why}"
        return None


def _is_alias(read: Any, name: str) -> bool:
    aliases = read.get("aliases", ())
    return name in aliases or name.rpartition(".")[2] in aliases


def _said(plain: Any) -> str:
    return str(plain["name"]) if isinstance(plain, dict) and "name" in plain else kind_of(plain)
