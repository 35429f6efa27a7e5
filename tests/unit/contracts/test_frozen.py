"""Records that are cheaply made are those that a frozen dataclass makes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest
from headrace_contracts import events
from headrace_contracts.frozen import changed, cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True)
class Record:
    name: str
    number: int = 3
    labels: Mapping[str, str] = field(default_factory=dict)


def test_a_record_has_what_it_was_given_and_the_defaults() -> None:
    assert Record("a") == Record(name="a", number=3, labels={})
    assert Record("a").labels is not Record("a").labels
    assert hash(events.Command(kind=events.CommandKind.REPLY, event_id="e", topic="t"))
    assert repr(Record("a", 1)) == "Record(name='a', number=1, labels={})"


@pytest.mark.parametrize(("given", "named"), [((), {}), (("a", 1, {}, 4), {}), (("a",), {"other": 1})])
def test_what_is_missing_or_too_much_is_refused(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Record(*given, **named)


def test_a_record_cannot_be_changed_however_it_was_made() -> None:
    record = Record("a")
    for made in (
        record,
        changed(record, number=4),
        replace(record, number=4),
        copy.copy(record),
        copy.deepcopy(record),
    ):
        assert type(made) is Record
        with pytest.raises(FrozenInstanceError):
            made.number = 5  # type: ignore[misc]


def test_a_copy_has_the_other_values_and_the_record_keeps_its_own() -> None:
    record = Record("a", 1, {"b": "c"})
    assert changed(record, number=2) == replace(record, number=2) == Record("a", 2, {"b": "c"})
    assert record.number == 1
    with pytest.raises(TypeError, match="no such fields"):
        changed(record, other=1)


def test_a_record_is_pickled() -> None:
    status = events.NodeStatus(node="n", place=events.Place.LOCAL, provider="ollama", healthy=True, reported_at=1)
    assert pickle.loads(pickle.dumps(status)) == status


@pytest.mark.parametrize("options", [{"frozen": False}, {"slots": False}])
def test_other_classes_are_refused(options: dict[str, bool]) -> None:
    with pytest.raises(TypeError):
        cheaply_made(
            dataclass(**{"frozen": True, "slots": True, **options})(
                type("Other", (), {"__annotations__": {"name": str}})
            )
        )


def test_every_event_is_cheaply_made() -> None:
    found = [one for one in vars(events).values() if isinstance(one, type) and is_dataclass(one)]
    assert len(found) > 50
    for event in found:
        assert event.__init__.__code__.co_filename == "<string>"
        assert "__become__" in event.__init__.__code__.co_names, event
        assert len(fields(event)) >= event.__init__.__code__.co_kwonlyargcount
