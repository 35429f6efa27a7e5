"""The compatibility gate, on schemas broken on purpose."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headrace_contracts.tools import compatibility, release
from headrace_contracts.tools.compatibility import Violation, violations
from headrace_contracts.tools.release import to_release
from headrace_contracts.tools.schemas import SchemaFileInvalid, SchemaSet, load, load_released

Types = dict[str, dict[str, Any]]

ORDER = "headrace.shop.Order"
LINE = "headrace.shop.Line"
COLOUR = "headrace.paint.Colour"


def _field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "doc": f"The {name}.", **more}


def _record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    _, domain, short = name.split(".")
    namespace = f"headrace.{domain}"
    return {"type": "record", "name": short, "namespace": namespace, "doc": "A record.", "fields": list(fields)}


def _types() -> Types:
    return {
        ORDER: _record(
            ORDER,
            _field("id", "string"),
            _field("count", "int", default=1),
            _field("at", {"type": "long", "logicalType": "timestamp-millis"}),
            _field("note", ["null", "string"], default=None),
            _field("lines", {"type": "array", "items": LINE}, default=[]),
            _field("first", ["null", LINE], default=None),
            _field("prices", {"type": "map", "values": "long"}, default={}),
        ),
        LINE: _record(LINE, _field("sku", "string"), _field("colour", COLOUR, default="red")),
        COLOUR: {
            "type": "enum", "name": "Colour", "namespace": "headrace.paint", "doc": "A colour.",
            "symbols": ["red", "blue"], "default": "red",
        },
    }  # fmt: skip


RELEASED = {ORDER: {1: SchemaSet(_types()).resolved(ORDER)}}


def _fields(types: Types, name: str) -> list[dict[str, Any]]:
    fields: list[dict[str, Any]] = types[name]["fields"]
    return fields


def _edit(types: Types, name: str, field: str, /, **changes: Any) -> None:
    next(each for each in _fields(types, name) if each["name"] == field).update(changes)


def _remove(types: Types, name: str, field: str) -> None:
    types[name]["fields"] = [each for each in _fields(types, name) if each["name"] != field]


def _found(change: Callable[[Types], object]) -> list[tuple[str, str, str]]:
    types = copy.deepcopy(_types())
    change(types)
    return [(each.file, each.field, each.rule) for each in violations(SchemaSet(types), RELEASED)]


def test_unchanged_schemas_break_nothing() -> None:
    assert _found(lambda types: None) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda types: _fields(types, ORDER).append(_field("more", "string", default="")),
        lambda types: _fields(types, LINE).append(_field("more", ["null", "long"], default=None)),
        lambda types: _remove(types, ORDER, "count"),
        lambda types: _remove(types, ORDER, "note"),
        lambda types: _fields(types, ORDER).reverse(),
        lambda types: types[COLOUR]["symbols"].append("green"),
        lambda types: types[COLOUR]["symbols"].remove("blue"),
        lambda types: _edit(types, ORDER, "count", doc="Another word.", default=2),
    ],
)
def test_what_full_compatibility_allows(change: Callable[[Types], object]) -> None:
    assert _found(change) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            lambda types: _fields(types, ORDER).append(_field("more", "string")),
            ("shop/Order.avsc", "more", "default_missing"),
            id="a new field without a default",
        ),
        pytest.param(
            lambda types: _remove(types, ORDER, "id"),
            ("shop/Order.avsc", "id", "default_missing"),
            id="a field without a default removed",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "id", name="ident"),
            ("shop/Order.avsc", "ident", "default_missing"),
            id="a field renamed",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "count", type="long"),
            ("shop/Order.avsc", "count", "type_mismatch"),
            id="a type widened, which older readers cannot read",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "count", type="string", default=""),
            ("shop/Order.avsc", "count", "type_mismatch"),
            id="another type",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "id", type=["null", "string"], default=None),
            ("shop/Order.avsc", "id", "type_mismatch"),
            id="a field made nullable",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "note", type=["null", "string", "int"]),
            ("shop/Order.avsc", "note", "missing_union_branch"),
            id="a branch added to a union",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "prices", type={"type": "map", "values": "string"}),
            ("shop/Order.avsc", "prices", "type_mismatch"),
            id="other values in a map",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "lines", type={"type": "array", "items": "string"}),
            ("shop/Order.avsc", "lines", "type_mismatch"),
            id="other items in an array",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "at", type={"type": "long", "logicalType": "timestamp-micros"}),
            ("shop/Order.avsc", "at", "logical_type_changed"),
            id="another unit",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "at", type="long"),
            ("shop/Order.avsc", "at", "logical_type_changed"),
            id="a time that is none any more",
        ),
        pytest.param(
            lambda types: _edit(types, LINE, "sku", type="long"),
            ("shop/Line.avsc", "sku", "type_mismatch"),
            id="within another type, array and nullable",
        ),
        pytest.param(
            lambda types: types[COLOUR].pop("default"),
            ("paint/Colour.avsc", COLOUR, "enum_without_default"),
            id="an enum's default removed",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "count", default="none"),
            ("shop/Order.avsc", "count", "default_does_not_fit"),
            id="a default of another type",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "count", default=True),
            ("shop/Order.avsc", "count", "default_does_not_fit"),
            id="a boolean where a number stands",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "count", default=2**31),
            ("shop/Order.avsc", "count", "default_does_not_fit"),
            id="a default too large",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "note", default="x"),
            ("shop/Order.avsc", "note", "default_does_not_fit"),
            id="a default of the second branch",
        ),
        pytest.param(
            lambda types: _edit(types, LINE, "colour", default="pink"),
            ("shop/Line.avsc", "colour", "default_does_not_fit"),
            id="a default that is no symbol",
        ),
        pytest.param(
            lambda types: _edit(types, ORDER, "lines", default=[{"sku": 7}]),
            ("shop/Order.avsc", "lines", "default_does_not_fit"),
            id="a default of the wrong items",
        ),
    ],
)
def test_each_rule_names_file_and_field(change: Callable[[Types], object], expected: tuple[str, str, str]) -> None:
    found = _found(change)
    assert expected in found
    assert {file for file, _, _ in found} == {expected[0]}


def test_a_renamed_type_is_named_where_it_is_used() -> None:
    def rename(types: Types) -> None:
        types["headrace.shop.Item"] = {**types.pop(LINE), "name": "Item"}
        _edit(types, ORDER, "lines", type={"type": "array", "items": "headrace.shop.Item"})
        _edit(types, ORDER, "first", type=["null", "headrace.shop.Item"])

    assert ("shop/Order.avsc", "lines", "name_mismatch") in _found(rename)
    assert ("shop/Order.avsc", "first", "missing_union_branch") in _found(rename)


def test_a_symbol_may_not_come_to_an_enum_that_had_no_default() -> None:
    former = copy.deepcopy(_types())
    del former[COLOUR]["default"]
    current = _types()
    current[COLOUR]["symbols"].append("green")
    found = violations(SchemaSet(current), {ORDER: {1: SchemaSet(former).resolved(ORDER)}})
    assert [(each.file, each.field, each.rule) for each in found] == [
        ("paint/Colour.avsc", COLOUR, "missing_enum_symbols")
    ]


def test_a_released_type_must_stay() -> None:
    types = _types()
    del types[ORDER]
    assert violations(SchemaSet(types), RELEASED) == [
        Violation("shop/Order.avsc", ORDER, "type_removed", violations(SchemaSet(types), RELEASED)[0].text)
    ]


def test_every_released_version_counts() -> None:
    second = _types()
    _fields(second, ORDER).append(_field("more", "string", default=""))
    third = _types()
    _fields(third, ORDER).append(_field("more", "int", default=0))
    released = {ORDER: {**RELEASED[ORDER], 2: SchemaSet(second).resolved(ORDER)}}
    assert violations(SchemaSet(third), RELEASED) == []
    (text,) = {
        each.text.split(":")[0]
        for each in violations(SchemaSet(third), released)
        if "cannot read what version" in each.text
    }
    assert text == "cannot read what version 2 of headrace.shop.Order wrote"


def test_a_change_of_words_alone_makes_no_version() -> None:
    types = _types()
    _edit(types, ORDER, "count", doc="In other words.")
    assert to_release(SchemaSet(types), RELEASED, frozenset({ORDER})) == {}
    _fields(types, ORDER).append(_field("more", "string", default=""))
    added = to_release(SchemaSet(types), RELEASED, frozenset({ORDER, LINE}))
    assert {name: number for name, (number, _) in added.items()} == {ORDER: 2, LINE: 1}
    assert added[ORDER][1] == SchemaSet(types).resolved(ORDER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the real schemas, as they would be released."""
    source = load(Path(__file__).parents[3] / "schemas")
    for name, schema in source.types.items():
        _, domain, short = name.split(".")
        path = tmp_path / domain / f"{short}.avsc"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(schema))
    return tmp_path


def _run(tool: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["tool", "--schemas", str(folder)])
    code: int = tool.main()
    return code


def test_a_release_is_frozen_once_and_then_guards(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(compatibility, folder, monkeypatch) == 0
    assert _run(release, folder, monkeypatch) == 0
    frozen = sorted(path.relative_to(folder).as_posix() for path in folder.glob("released/*/*.avsc"))
    assert "released/headrace.tasks.TaskSubmitted/1.avsc" in frozen
    assert _run(release, folder, monkeypatch) == 0
    assert sorted(path.relative_to(folder).as_posix() for path in folder.glob("released/*/*.avsc")) == frozen
    assert _run(compatibility, folder, monkeypatch) == 0
    content = json.loads((folder / "common" / "Content.avsc").read_text())
    content["fields"][1]["type"] = "long"
    (folder / "common" / "Content.avsc").write_text(json.dumps(content))
    capsys.readouterr()
    assert _run(compatibility, folder, monkeypatch) == 1
    said = capsys.readouterr().err
    assert "schemas/common/Content.avsc: data: type_mismatch: cannot read what version 1 of" in said
    assert _run(release, folder, monkeypatch) == 1
    assert sorted(path.relative_to(folder).as_posix() for path in folder.glob("released/*/*.avsc")) == frozen


def test_files_that_are_no_schemas_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = folder / "released" / "headrace.tasks.TaskSubmitted" / "one.avsc"
    broken.parent.mkdir(parents=True)
    broken.write_text("{}")
    assert _run(compatibility, folder, monkeypatch) == 2
    assert str(broken) in capsys.readouterr().err
    assert _run(release, folder, monkeypatch) == 2


def test_what_is_no_avro_is_named() -> None:
    types = _types()
    types[COLOUR]["symbols"] = ["red", "red"]
    with pytest.raises(SchemaFileInvalid, match=r"schemas/shop/Line.avsc|schemas/shop/Order.avsc|schemas/paint"):
        violations(SchemaSet(types), RELEASED)


def test_the_schemas_of_this_checkout_break_nothing() -> None:
    schemas = Path(__file__).parents[3] / "schemas"
    assert violations(load(schemas), load_released(schemas / "released")) == []
