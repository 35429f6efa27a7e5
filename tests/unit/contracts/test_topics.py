"""What must hold of the topics, their schemas and what is generated from both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from headrace_contracts import events
from headrace_contracts.codec import schema_text
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.tools import documents, python_code
from headrace_contracts.tools.schemas import PRIMITIVES, SchemaFileInvalid, load, load_released
from headrace_contracts.topics import (
    TASKS_SUBMITTED,
    TOPICS,
    WORK_CLOUD_BATCH,
    WORK_LOCAL_INTERACTIVE,
    TopicSpec,
    cancelled_topic,
    dead_letters_of,
    with_partitions,
    work_topic,
)
from headrace_devstack.services import NAMES

ROOT = Path(__file__).parents[3]

every_topic = pytest.mark.parametrize("spec", TOPICS.values(), ids=lambda spec: spec.name)


def test_generated_code_is_current() -> None:
    schemas = load(ROOT / "schemas")
    folder = Path(events.__file__).parent
    for name, text in python_code.modules(schemas, load_released(ROOT / "schemas" / "released")).items():
        assert (folder / name).read_text(encoding="utf-8") == text, f"run `make generate`: {name} is not current"


def test_the_page_of_events_is_current() -> None:
    page = documents.events_page(load(ROOT / "schemas"))
    assert (ROOT / "docs" / "events.md").read_text(encoding="utf-8") == page, "run `make generate`"


@every_topic
def test_a_topic_is_found_under_its_name(spec: TopicSpec) -> None:
    assert TOPICS[spec.name] is spec
    assert spec.subject == f"{spec.name}-value"


@every_topic
def test_writers_and_readers_are_services_operators_or_anyone(spec: TopicSpec) -> None:
    assert spec.writers
    assert spec.readers
    assert {*spec.writers, *spec.readers} <= {*NAMES, "operator", "node-agent", "anyone"}


@every_topic
def test_only_what_is_compacted_is_kept_without_end(spec: TopicSpec) -> None:
    assert (spec.retention_ms is None) == (spec.cleanup == "compact")
    assert spec.partitions >= 1
    assert spec.doc.endswith(".")


@every_topic
def test_what_the_services_write_nobody_else_writes_where_it_counts(spec: TopicSpec) -> None:
    # Anyone may hand in work and skills; results, decisions, money, keys and settings come from their owner alone.
    if "anyone" in spec.writers:
        assert spec.name in {"tasks.submitted", "tasks.cancelled", "skills.submitted"}


def test_task_topics_have_the_same_number_of_partitions() -> None:
    together = [spec for spec in TOPICS.values() if spec.copartitioned]
    assert {spec.name for spec in together} == {
        "tasks.submitted", "tasks.cancelled", "attempts.finished", "attempts.finished.cloud", "tasks.journal",
        "tasks.completed", "attempts.started",
    }  # fmt: skip
    assert len({spec.partitions for spec in together}) == 1


def test_the_cloud_worker_has_no_right_to_read_local_work() -> None:
    for spec in TOPICS.values():
        if spec.name.startswith(("work.local", "attempts.cancelled.local")):
            assert "cloud-worker" not in spec.readers
            assert "anyone" not in spec.readers


def test_workers_hear_of_cancellations_from_the_router_alone() -> None:
    for place in events.Place:
        assert cancelled_topic(place).writers == ("router",)
        assert cancelled_topic(place).readers == (f"{place.value}-worker",)
    for name in ("tasks.cancelled", "tasks.cancelled.dlq"):
        assert not {"local-worker", "cloud-worker"} & {*TOPICS[name].readers, *TOPICS[name].writers}


@every_topic
def test_dead_letters_stand_beside_what_services_read_from_others(spec: TopicSpec) -> None:
    letters = TOPICS.get(f"{spec.name}.dlq")
    assert (letters is not None) == spec.dead_letters
    if letters is not None:
        assert letters.record is events.DeadLetter
        assert letters == dead_letters_of(spec)
        assert set(letters.writers) == set(spec.readers) - {"anyone"}
        assert letters.readers == spec.readers
    if "anyone" in spec.writers:
        assert spec.dead_letters


@every_topic
def test_the_schema_of_a_topic_is_complete_in_itself(spec: TopicSpec) -> None:
    defined: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, str):
            assert node in PRIMITIVES or node in defined, node
        elif isinstance(node, list):
            for branch in node:
                walk(branch)
        else:
            if "name" in node:
                defined.add(f"{node['namespace']}.{node['name']}")
            for field in node.get("fields", ()):
                walk(field["type"])
            for inner in ("items", "values"):
                if inner in node:
                    walk(node[inner])

    walk(json.loads(schema_text(spec.record)))
    assert spec.record.FULL_NAME in SCHEMAS


def test_work_has_a_topic_for_each_place_and_lane() -> None:
    assert work_topic(events.Place.LOCAL, events.Lane.INTERACTIVE) is WORK_LOCAL_INTERACTIVE
    assert work_topic(events.Place.CLOUD, events.Lane.BATCH) is WORK_CLOUD_BATCH
    assert len({work_topic(place, lane).name for place in events.Place for lane in events.Lane}) == 4


def test_an_unknown_privacy_level_reads_as_the_strictest() -> None:
    schemas = load(ROOT / "schemas")
    assert schemas.types["headrace.common.Privacy"]["default"] == "sensitive"
    assert schemas.types["headrace.settings.PrivacyLevel"]["default"] == "high"
    assert schemas.types["headrace.common.Mode"]["default"] == "local"


def test_partitions_are_set_for_all_task_topics_at_once() -> None:
    changed = with_partitions(TOPICS, {"tasks": 12, "usage.recorded": 3})
    assert {spec.partitions for spec in changed.values() if spec.copartitioned} == {12}
    assert changed["usage.recorded"].partitions == 3
    assert changed["skills.feed"] == TOPICS["skills.feed"]
    assert TASKS_SUBMITTED.partitions != 12


@pytest.mark.parametrize(("wrong", "says"), [("tasks.submitted", "set tasks=N"), ("nothing", "no such topic: nothing")])
def test_partitions_that_cannot_be_set_are_refused(wrong: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        with_partitions(TOPICS, {wrong: 3})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ('{"type": "enum", "name": "A", "namespace": "headrace.x", "doc": "d", "symbols": ["a"]}', "match folder"),
        ('{"type": "enum", "name": "B", "namespace": "headrace.x", "symbols": ["a"]}', "document these in `doc`"),
        (
            '{"type": "record", "name": "B", "namespace": "headrace.x", "doc": "d", '
            '"fields": [{"name": "f", "type": "int"}]}',
            "document these in `doc`: .'f'",
        ),
        (
            '{"type": "record", "name": "B", "namespace": "headrace.x", "doc": "d", '
            '"fields": [{"name": "f", "type": "headrace.x.C", "doc": "d"}]}',
            "refers to headrace.x.C, which no schema file defines",
        ),
    ],
)
def test_schema_files_that_break_the_rules_are_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "B.avsc").write_text(text)
    with pytest.raises(SchemaFileInvalid, match=says):
        load(tmp_path)
