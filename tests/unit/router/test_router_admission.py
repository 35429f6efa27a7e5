"""What outsiders write is checked at the router's edge; what is wrong is named and never carried onward."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import fastavro
import pytest
from headrace_contracts.codec import schema_text
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Content,
    Message,
    MessagePart,
    Options,
    PartKind,
    ResponseFormat,
    ResponseFormatKind,
    Sampling,
    TaskCancelled,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from headrace_contracts.limits import LARGEST_KEY, MOST_MESSAGES
from headrace_router.decide.admission import (
    INVALID_REQUEST,
    Inadmissible,
    admitted_cancellation,
    admitted_task,
    event_id_of,
)
from headrace_router.decide.machine import decide
from headrace_router.decide.model import Decision, Submitted
from headrace_testing.routing import NOW, Desk, task
from hypothesis import given, settings
from hypothesis import strategies as st

LONG = "x" * 201
HUGE = "x" * 1_500_000
NAMES = ("", LONG, HUGE, "a\x00b", "a\nb", "\x7f")
TIMES = (0, -1, NOW * 1000, NOW // 1000, NOW * 1_000_000, 2**63 - 1, -(2**63), NOW + 2 * 86_400_000)


def bad(name: str, *values: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(name, {name: value}) for value in values]


def bad_sampling(name: str, *values: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(f"sampling.{name}", {"sampling": Sampling(**{name: value})}) for value in values]


def bad_part(name: str, role: str, *parts: MessagePart) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"messages.0.parts.0.{name}", {"messages": (Message(role=role, content=plain(""), parts=(part,)),)})
        for part in parts
    ]


def bad_option(name: str, *options: Options) -> list[tuple[str, dict[str, Any]]]:
    return [(f"options.{name}", {"options": each}) for each in options]


IMAGE = MessagePart(kind=PartKind.IMAGE, content=Content(data=b"x"), media_type="image/png")
CALL = MessagePart(kind=PartKind.TOOL_CALL, call_id="c", name="f", content=plain("{}"))
F = Tool(name="f")
SCHEMA = ResponseFormat(kind=ResponseFormatKind.JSON_SCHEMA, schema=plain("{}"))

SHORT = Message(role="user", content=plain("x"))


def parted(parts: int) -> Message:
    return Message(role="user", content=plain(""), parts=(IMAGE,) * parts)


BAD = [
    *bad_part("kind", "user", CALL, *(MessagePart(kind=kind, content=plain("x")) for kind in
              (PartKind.UNKNOWN, PartKind.REFUSAL, PartKind.REASONING))),
    *bad_part("kind", "assistant", IMAGE, MessagePart(kind=PartKind.TOOL_RESULT, call_id="c", content=plain("x"))),
    *bad_part("kind", "system", IMAGE),
    *bad_part("content", "user", replace(IMAGE, content=None, call_id="c"), replace(IMAGE, url=plain("https://a.example"))),
    *bad_part("url", "user", *(replace(IMAGE, content=None, url=plain(url)) for url in
              ("file:///etc/passwd", "ftp://a", "https://", "https://a b", "javascript:x", "https://a/" + LONG * 50))),
    *bad_part("media_type", "user", *(replace(IMAGE, media_type=kind) for kind in
              (None, "", "png", "image/", "a/b\n", LONG))),
    *bad_part("content.cipher", "user", replace(IMAGE, content=Content(cipher="", data=b"x"))),
    *bad_part("call_id", "assistant", *(replace(CALL, call_id=call_id) for call_id in (None, "", LONG))),
    *bad_part("name", "assistant", replace(CALL, name=None), replace(CALL, name="a b"), replace(CALL, name="x" * 129)),
    *bad_part("content", "assistant", *(replace(CALL, content=plain(text)) for text in
              ("[]", "{", "1", '"x"', "[" * 9999))),
    *bad_part("cache_seconds", "user", *(replace(IMAGE, cache_seconds=n) for n in (0, -1, 10**6))),
    *bad_option("tools", Options(tools=tuple(Tool(name=f"f{n}") for n in range(129)))),
    *bad_option("tools.0.name", Options(tools=(Tool(name=""),)), Options(tools=(Tool(name="a b"),))),
    *bad_option("tools.1.name", Options(tools=(F, F))),
    *bad_option("tools.0.parameters", *(Options(tools=(replace(F, parameters=plain(text)),))
                for text in ("[]", "{", "7"))),
    *bad_option("tool_choice.names", Options(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED, names=("g",)))),
    *bad_option("response_format.schema", Options(response_format=replace(SCHEMA, schema=None)),
                Options(response_format=replace(SCHEMA, kind=ResponseFormatKind.TEXT)),
                Options(response_format=replace(SCHEMA, schema=plain("[]")))),
    *bad_option("choices", *(Options(choices=n) for n in (0, -1, 17, 2**31 - 1))),
    *bad_option("presence_penalty", *(Options(presence_penalty=n) for n in (-2.1, 2.1, math.nan, math.inf))),
    *bad_option("top_logprobs", *(Options(top_logprobs=n) for n in (-1, 21))),
    *bad_option("reasoning_effort", *(Options(reasoning_effort=word) for word in ("", "a\nb", LONG))),
    *bad_option("logit_bias", Options(logit_bias={"1": 101.0}), Options(logit_bias={"1": math.nan})),
    *bad_option("extra", Options(extra={"": plain("1")}), Options(extra={f"a{n}": plain("1") for n in range(65)}),
                Options(extra={"a": plain("x" * 65_537)}),
                *(Options(extra={name: plain("1")}) for name in ("model", "max_tokens", "tools", "speed"))),
    *bad("tenant", "", HUGE, "a" * 65, "a/b", "a b", "a\x00", "ä", "-a", "a\n"),
    *bad("user", LONG, HUGE, "a\x00b", "a\nb"),
    *bad("kind", *NAMES),
    *bad("key_id", *NAMES),
    *bad("role", *NAMES),
    *bad("model", *NAMES, "role:"),
    *bad("preferred_provider", *NAMES),
    *bad("session", *NAMES),
    *bad("subject", *NAMES),
    *bad("labels", {"": "x"}, {LONG: "x"}, {"x": "y" * 1001}, {"x": "\x00"}, {"a\x00": ""},
         {f"l{n}": "" for n in range(33)}),
    *bad("messages", (SHORT,) * (MOST_MESSAGES + 1), (parted(1_024),) * 4),
    *bad("messages", (), (Message(role="user", content=plain("")),),
         tuple([Message(role="user", content=plain("x"))] * 10_001)),
    *[("messages.0.role", {"messages": (Message(role=role, content=plain("x")),)}) for role in ("", "critic", HUGE)],
    *[("messages.0.content.cipher", {"messages": (Message(role="user", content=Content(cipher=cipher, data=b"x")),)})
      for cipher in ("", LONG, "\x00")],
    *bad_sampling("max_output_tokens", 0, -1, 2**31 - 1),
    *bad_sampling("temperature", math.nan, math.inf, -math.inf, -0.1, 2.1, 1e300),
    *bad_sampling("top_p", math.nan, math.inf, -0.1, 1.1),
    *bad_sampling("stop", ("",), (LONG,), ("x",) * 17),
    *bad("budget_nanodollars", -1, -(2**63), 2**63 - 1),
    *bad("deadline_at", 0, -1, NOW * 1000, NOW // 1000, 2**63 - 1, -(2**63), NOW + 40 * 86_400_000),
    *bad("reply_partition", -1, -(2**31), 2**31 - 1),
    *bad("submitted_at", *TIMES),
]  # fmt: skip
IDS = ("", "\x00", "a\x00b", LONG, HUGE, "a b", "a/1", "ä", "a\n", "\x7f")


def admitted(event: TaskSubmitted, key: bytes | None = b"k") -> Submitted:
    return admitted_task(event, key, 3, None, NOW)


def ended(event: Submitted) -> TaskCompleted:
    decision = decide(None, event, Desk().context)
    assert isinstance(decision, Decision)
    assert decision.state.result is not None
    return decision.state.result


def read_by_others(completed: TaskCompleted) -> dict[str, Any]:
    """As another team's program reads it: with the schema as registered, logical types and all."""
    schema = fastavro.parse_schema(json.loads(schema_text(TaskCompleted)))
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, schema, completed.to_avro(named=True))
    buffer.seek(0)
    return fastavro.schemaless_reader(buffer, schema, None)  # type: ignore[return-value]


def test_as_many_messages_and_parts_as_there_may_be_are_admitted() -> None:
    for messages in ((SHORT,) * MOST_MESSAGES, (parted(1_023),) * 4):
        assert admitted_task(replace(task("t"), messages=messages), None, 0, None, NOW).refused is None


@pytest.mark.parametrize(("path", "fields"), BAD, ids=[f"{path}-{n}" for n, (path, _) in enumerate(BAD)])
def test_an_invalid_task_fails_with_the_name_of_the_field_and_without_the_field(
    path: str, fields: dict[str, Any]
) -> None:
    event = admitted(task(**fields))
    assert event.refused is not None
    assert event.refused.code == INVALID_REQUEST
    result = ended(event)
    assert result.status is TaskStatus.FAILED
    assert result.failure == event.refused
    assert result.failure.message.startswith(path)
    read = read_by_others(result)
    for name, value in fields.items():
        if name in read:
            assert read[name] != value or value == ""
    assert len(str(read)) < 10_000


@pytest.mark.parametrize("task_id", IDS)
def test_a_task_that_cannot_be_named_is_inadmissible(task_id: str) -> None:
    with pytest.raises(Inadmissible, match="task_id"):
        admitted(task(task_id))


@pytest.mark.parametrize("task_id", ["t", "0199b9d0-0000-7000-8000-000000000001", "A.b_c-1:2", "x" * 200])
def test_other_ids_than_uuids_are_taken(task_id: str) -> None:
    assert admitted(task(task_id)).refused is None


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "", "labels": {"a": ""}, "budget_nanodollars": 0},
        {"deadline_at": NOW - 1}, {"submitted_at": NOW + 3_600_000},
        {"sampling": Sampling(temperature=0.0, top_p=1.0, max_output_tokens=1, stop=("\n",), seed=-(2**63))},
        {"session": "s" * 200, "subject": "Ann O'Néill", "reply_partition": 0},
        {"tenant": "A.b-c_1"}, {"labels": {"note": "two\nlines"}},
    ],
)  # fmt: skip
def test_what_intake_takes_is_taken_here(fields: dict[str, Any]) -> None:
    event = admitted(task(**fields))
    assert event.refused is None
    assert event.task == task(**fields)


@pytest.mark.parametrize(
    ("asked", "role", "model"),
    [
        ({"model": "auto"}, None, None), ({"model": "role:code_reviewer"}, "code_reviewer", None),
        ({"model": "auto", "role": "planner"}, "planner", None), ({"model": "llama3:8b"}, None, "llama3:8b"),
        ({"model": "role:planner", "role": "planner"}, "planner", None), ({"role": "planner"}, "planner", None),
    ],
)  # fmt: skip
def test_models_designate_what_they_designate_over_http(
    asked: dict[str, Any], role: str | None, model: str | None
) -> None:
    taken = admitted(task(**asked))
    assert taken.refused is None
    assert (taken.task.role, taken.task.model) == (role, model)


@pytest.mark.parametrize(
    "asked", [{"model": "llama3:8b", "role": "planner"}, {"model": "role:"}, {"model": "role:planner", "role": "x"}]
)
def test_contradicting_designations_are_refused(asked: dict[str, Any]) -> None:
    refused = admitted(task(**asked)).refused
    assert refused is not None
    assert refused.code == INVALID_REQUEST


def test_a_developers_message_is_a_systems_message() -> None:
    said = (Message(role="developer", content=plain("Be brief.")), Message(role="user", content=plain("x")))
    assert [message.role for message in admitted(task(messages=said)).task.messages] == ["system", "user"]


@pytest.mark.parametrize("size", [LARGEST_KEY + 1, 10_000, 1_500_000])
def test_a_huge_key_is_not_repeated(size: int) -> None:
    event = admitted(task(), key=b"k" * size)
    assert event.refused is not None
    assert event.refused.message.startswith("key")
    assert len(event.key) < 100
    assert event.key == admitted(task(), key=b"k" * size).key
    assert event.key != admitted(task(), key=b"l" * size).key


@pytest.mark.parametrize("key", [b"", b"k", b"\xff\x00", b"k" * LARGEST_KEY])
def test_other_keys_are_kept_byte_for_byte(key: bytes) -> None:
    event = admitted(task(), key=key)
    assert event.refused is None
    assert event.key == key


@pytest.mark.parametrize(
    "fields",
    [
        *[{"task_id": each} for each in IDS], *[{"tenant": each} for each in ("", HUGE, "a/b", "\x00")],
        *[{"reason": each} for each in ("\x00", "x" * 1001, HUGE)],
        *[{"requested_by": each} for each in (LONG, "\x00", "a\nb")],
        *[{"requested_at": each} for each in TIMES], *[{"home_partition": each} for each in (-1, 2**31 - 1, -(2**31))],
    ],
)  # fmt: skip
def test_an_invalid_cancellation_is_inadmissible(fields: dict[str, Any]) -> None:
    good = TaskCancelled(task_id="t", tenant="acme", requested_at=NOW)
    assert admitted_cancellation(good, NOW).cancellation == good
    with pytest.raises(Inadmissible, match=next(iter(fields))):
        admitted_cancellation(replace(good, **fields), NOW)


@pytest.mark.parametrize("found", [None, "", "x" * 513, HUGE, "a\x00", "a\nb"])
def test_an_event_id_that_cannot_be_one_is_not_copied(found: str | None) -> None:
    assert event_id_of(found, "t/0/7") == "t/0/7"
    assert event_id_of("an id", "t/0/7") == "an id"


texts = st.text(max_size=300)
longs = st.integers(-(2**63), 2**63 - 1)
ints = st.integers(-(2**31), 2**31 - 1)
doubles = st.floats(width=64)
tasks = st.builds(
    TaskSubmitted,
    task_id=texts | st.just("t"),
    tenant=texts | st.just("acme"),
    user=texts, key_id=st.none() | texts, kind=texts | st.just("chat"), role=st.none() | texts,
    model=st.none() | texts | st.just("auto"),
    messages=st.lists(
        st.builds(Message, role=texts | st.just("user"), content=st.builds(Content, cipher=texts | st.just("none"),
                                                                           data=st.binary(max_size=30))),
        max_size=3,
    ).map(tuple),
    sampling=st.builds(
        Sampling, max_output_tokens=st.none() | ints, temperature=st.none() | doubles, top_p=st.none() | doubles,
        stop=st.lists(texts, max_size=3).map(tuple), seed=st.none() | longs, json=st.booleans(),
    ),
    preferred_provider=st.none() | texts, budget_nanodollars=st.none() | longs, deadline_at=st.none() | longs,
    session=st.none() | texts, subject=st.none() | texts, labels=st.dictionaries(texts, texts, max_size=3),
    stream=st.booleans(), allow_cached=st.booleans(), reply_partition=st.none() | ints,
    submitted_at=longs | st.just(NOW),
)  # fmt: skip


@given(event=tasks, key=st.none() | st.binary(max_size=2000))
@settings(max_examples=300, deadline=None)
def test_whatever_is_submitted_is_decided_or_a_dead_letter(event: TaskSubmitted, key: bytes | None) -> None:
    try:
        taken = admitted(event, key)
    except Inadmissible:
        return
    decision = decide(None, taken, Desk().context)
    assert isinstance(decision, Decision)
    if taken.refused is None:
        assert decision.state.task is not None or decision.state.result is not None
        return
    assert decision.state.result is not None
    assert sum(command.event_id == f"{event.task_id}/completed" for command in decision.commands) == 1
    read = read_by_others(decision.state.result)
    assert read["failure"]["code"] == INVALID_REQUEST
