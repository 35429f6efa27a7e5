"""Decodes thousands of hostile values with hostile schemas; run in a process that may be killed.

Usage: python -m headrace_testing.hostile_values [FIRST_SEED LAST_SEED]

Prints one line of JSON with what became of them; without seeds, of the values of `KINDS`. Ends with an error if a value
takes too long, or anything but a value or UnreadableValue comes of it; faulthandler ends the process if it hangs in C.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import random
import resource
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, SchemaNotCached, UnknownSchema, UnreadableValue, UnusableSchema
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.schema_texts import Types, kind_of
from headrace_contracts.topics import TOPICS
from headrace_contracts.writer_schemas import writer_schema

from headrace_testing.schema_changes import changed

MOST_SECONDS: Final = 5.0
"""Of processor time for one value: far above what is normal, so that a busy machine fails no test."""
MOST_MEMORY: Final = 3 * 2**30
MOST_MEASURED: Final = 64 * 2**20
"""Bytes that decoding a value of a mebibyte may allocate."""
SIZES: Final = (0, 20, 120, 2_000, 30_000, 150_000, 1_048_576)
ORIGIN: Final = Origin("test.topic", 0, 0)
RECORDS: Final = {spec.record.FULL_NAME: spec.record for spec in TOPICS.values()}
PATHS: Final = (("tenant",), ("task_id", "tenant"), ("usage.searches",), ("extra_0",), ("headers", "state.trail"))


def number(value: int) -> bytes:
    """As Avro writes it."""
    value = ((value << 1) ^ (value >> 63)) & 0xFFFF_FFFF_FFFF_FFFF
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


class Writer:
    """Writes bytes as a schema has them, until it does not."""

    def __init__(self, types: Types, rng: random.Random, size: int) -> None:
        self._types = types
        self._rng = rng
        self._left = size
        self._malice = rng.choice((0.0, 0.02, 0.3))

    def write(self, node: Any) -> bytes:
        """A value of this type, or nearly one."""
        plain = self._types.plain(node)
        kind = kind_of(plain)
        if kind == "union":
            index = self._rng.choice((0, self._rng.randrange(len(plain)), len(plain) - 1))
            if self._rng.random() < self._malice / 4:
                return number(self._rng.choice((-1, len(plain), 2**40)))
            return number(index) + self.write(plain[index])
        if kind == "record":
            return b"".join(self.write(field["type"]) for field in plain["fields"])
        if kind in ("array", "map"):
            return self._blocks(plain, kind)
        if kind in ("string", "bytes"):
            if self._rng.random() < self._malice / 4:
                return number(self._rng.choice((-1, -(2**63), 2**31, 2**62, 2**63 - 1)))
            return self._rng.choice((b"\x00", b"\x02a", number(300) + b"x" * 300))
        if kind in ("boolean", "float", "double", "fixed"):
            return b"\x01" * {"boolean": 1, "float": 4, "double": 8, "fixed": 0}[kind] or b"\x01" * plain["size"]
        if kind == "null":
            return b""
        return self._rng.choice((b"\x00", b"\x00", b"\x02", b"\xff" * 9 + b"\x01")) if kind != "enum" else b"\x00"

    def _blocks(self, plain: Any, kind: str) -> bytes:
        item = plain["items" if kind == "array" else "values"]
        key = b"\x00" if kind == "map" else b""
        if self._rng.random() < self._malice:
            count = self._rng.choice((-1, -(2**63), 2**31, 2**40, 2**62, 2**63 - 1))
            size = number(self._rng.choice((-5, 0, 1, 2**40))) if count < 0 else b""
            return number(count) + size + key + self.write(item)
        room, self._left = self._left, 0
        one = key + self.write(item)
        count = self._rng.choice((0, 1, 2)) if room < len(one) else room // max(len(one), 1)
        if self._rng.random() < 0.2 and count:
            length = len(one) * count if self._rng.random() < 0.7 else self._rng.randint(0, 50)
            return number(-count) + number(length) + one * count + b"\x00"
        return (number(count) + one * count if count else b"") + b"\x00"


def hostile_value(types: Types, rng: random.Random, size: int) -> bytes:
    """Bytes after the schema id."""
    if rng.random() < 0.1:
        return rng.choice((bytes([rng.choice((0, 1, 2, 3, 0x80, 0xFE, 0xFF))]) * size, rng.randbytes(size)))
    data = Writer(types, rng, size).write(types.root)[: 2**20]
    if rng.random() < 0.1:
        data = data[: rng.randint(0, len(data))]
    return data


async def run(first: int, last: int) -> Counter[str]:
    """Returns what became of the values."""
    seen: Counter[str] = Counter()
    for seed in range(first, last):
        faulthandler.dump_traceback_later(60, exit=True)
        rng = random.Random(seed)
        name = rng.choice(sorted(RECORDS))
        text = json.dumps(changed(SCHEMAS[name], rng, rng.randint(0, 4)))
        registry = MemoryRegistry()
        schema_id = await registry.register("s", text)
        codec = Codec(registry, "test.")
        try:
            types = Types(writer_schema(text).schema)
            seen["schemas read"] += 1
        except UnusableSchema:
            types = Types("string")
            seen["schemas refused"] += 1
        await codec.learn(schema_id)
        for size in (*rng.sample(SIZES[:-2], 4), *SIZES[-2:]):
            value = b"\x00" + schema_id.to_bytes(4, "big") + hostile_value(types, rng, size)
            _decode(codec, RECORDS[name], value, f"seed {seed}, {name}, {len(value)} bytes", seen)
            if len(value) > 100_000 and seed % 25 == 0:
                _measure(codec, RECORDS[name], value, f"seed {seed}, {name}", seen)
    return seen


def _decode(codec: Codec, record: type[Any], value: bytes, what: str, seen: Counter[str]) -> None:
    for ask in (
        partial(codec.decode, record, value, ORIGIN),
        *(partial(codec.first_fields, record, value, ORIGIN, paths) for paths in PATHS),
    ):
        began = time.thread_time()
        try:
            ask()
            seen["decoded"] += 1
        except (UnreadableValue, SchemaNotCached) as error:
            seen["too many" if "TooManyValues" in str(error) else "unreadable"] += 1
        took = time.thread_time() - began
        if took > MOST_SECONDS:
            raise SystemExit(f"{what}: {took:.1f} s")
        seen["slowest, ms"] = max(seen["slowest, ms"], round(took * 1000))


def _measure(codec: Codec, record: type[Any], value: bytes, what: str, seen: Counter[str]) -> None:
    tracemalloc.start()
    with contextlib.suppress(UnreadableValue, SchemaNotCached):
        codec.decode(record, value, ORIGIN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if peak > MOST_MEASURED:
        raise SystemExit(f"{what}: {peak / 2**20:.0f} MiB for {len(value)} bytes")
    seen["largest, MiB"] = max(seen["largest, MiB"], peak >> 20)


def _list(items: Any) -> Any:
    return {"name": "extra", "type": {"type": "array", "items": items}, "default": []}


def _map(values: Any) -> Any:
    return {"name": "extra", "type": {"type": "map", "values": values}, "default": {}}


_ONE: Final = {"type": "record", "name": "x.One", "fields": [{"name": "a", "type": ["null", "int"], "default": None}]}
_LONG: Final = 2**20
# The first byte of the value is that of the extra field, which comes first. What follows it does not matter.
KINDS: Final[dict[str, tuple[Any, bytes]]] = {
    "a list of nulls": (_list("null"), number(2**40) + b"\x00"),
    "a list of empty records": (_list({"type": "record", "name": "x.E", "fields": []}), number(2**40) + b"\x00"),
    "a list of nothing": (_list({"type": "fixed", "name": "x.F", "size": 0}), number(2**40) + b"\x00"),
    "a map of nulls": (_map("null"), number(2**40) + b"\x00"),
    "a list of optional nulls": (_list(["null", "int"]), number(_LONG) + b"\x00" * (_LONG + 1)),
    "a list of optional nulls in small blocks": (_list(["null", "int"]), (number(1) + b"\x00") * _LONG + b"\x00"),
    "a list of optional nulls with a size": (
        _list(["null", "int"]), number(-_LONG) + number(_LONG) + b"\x00" * (_LONG + 1)
    ),
    "a list with a wrong size": (_list(["null", "int"]), number(-_LONG) + number(3) + b"\x00" * (_LONG + 1)),
    "a list with a negative size": (_list("int"), number(-_LONG) + number(-3) + b"\x00" * (_LONG + 1)),
    "a list of the least number": (_list("int"), number(-(2**63)) + number(0) + b"\x00" * (_LONG + 1)),
    "a short list that says it is long": (_list("string"), number(2**62) + b"\x00" * 50),
    "flags beyond the end": (_list("boolean"), number(2**62)),
    "numbers beyond the end": (_list("double"), number(2**62) + b"\x00" * 80),
    "flags": (_list("boolean"), number(_LONG) + b"\x00" * (_LONG + 1)),
    "a list of small records": (_list(_ONE), number(_LONG) + b"\x00" * (_LONG + 1)),
    "a list of empty lists": (_list({"type": "array", "items": "int"}), number(_LONG) + b"\x00" * (_LONG + 1)),
    "a list of empty maps": (_list({"type": "map", "values": "int"}), number(_LONG) + b"\x00" * (_LONG + 1)),
    "one key again and again": (_map("int"), number(_LONG // 2) + b"\x00\x00" * (_LONG // 2) + b"\x00"),
    "a text that says it is long": (_list("string"), number(1) + number(2**62) + b"x" * 50),
    "a text of negative length": (_list("string"), number(1) + number(-1) + b"x" * 50),
    "a number without end": (_list("int"), b"\x80" * _LONG),
}  # fmt: skip


async def run_kinds() -> dict[str, str]:
    """What becomes of each kind as a field that the reader does not know, and as the first field."""
    outcomes: dict[str, str] = {}
    registry = MemoryRegistry()
    codec = Codec(registry, "test.")
    for what, (field, data) in KINDS.items():
        faulthandler.dump_traceback_later(30, exit=True)
        tree = json.loads(SCHEMAS["headrace.skills.SkillSubmitted"])
        tree["fields"].insert(0, field)
        schema_id = await registry.register("s", json.dumps(tree))
        await codec.learn(schema_id)
        record, value = RECORDS["headrace.skills.SkillSubmitted"], b"\x00" + schema_id.to_bytes(4, "big") + data
        outcomes[what] = _outcome(partial(codec.decode, record, value, ORIGIN))
        outcomes[f"{what}, as first field"] = _outcome(partial(codec.first_fields, record, value, ORIGIN, ("extra",)))
    # Where the reader fills in fields, a byte becomes a record: here two do, of which it knows six fields.
    tree = json.loads(SCHEMAS["headrace.deadletters.DeadLetter"])
    headers = next(field for field in tree["fields"] if field["name"] == "headers")
    tree["fields"].remove(headers)
    tree["fields"].insert(0, headers)
    headers["type"]["items"]["fields"].pop()
    schema_id = await registry.register("s", json.dumps(tree))
    await codec.learn(schema_id)
    value = b"\x00" + schema_id.to_bytes(4, "big") + number(_LONG) + b"\x00" * (_LONG + 1)
    outcomes["filled in"] = _outcome(partial(codec.decode, RECORDS["headrace.deadletters.DeadLetter"], value, ORIGIN))
    return outcomes


def _outcome(ask: Callable[[], Any]) -> str:
    began = time.thread_time()
    try:
        ask()
        outcome = "decoded"
    except UnreadableValue as error:
        outcome = "too many" if "TooManyValues" in str(error) else "unreadable"
        outcome = "refused" if isinstance(error, UnknownSchema) else outcome
    return outcome if time.thread_time() - began < MOST_SECONDS else "slow"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    faulthandler.enable()
    print(json.dumps(asyncio.run(run(int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 1 else run_kinds())))


if __name__ == "__main__":
    main()
