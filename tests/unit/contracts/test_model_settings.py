"""The values of num_ctx, keep_alive, think and top_k, wherever they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from headrace_contracts.model_settings import (
    ModelSettingInvalid,
    NodeDefaults,
    context_length,
    duration,
    for_ollama,
    node_defaults,
    thinking,
    top_k,
)


def test_a_node_says_what_holds_for_its_models() -> None:
    said = {
        "num_ctx": "8192", "max_num_ctx": "32768", "keep_alive": "-1", "think": "false", "top_k": "20",
        "slots.llama3:70b": "1",
    }  # fmt: skip
    assert node_defaults(said) == NodeDefaults(8192, 32768, "-1", "off", 20, {"llama3:70b": 1})
    assert node_defaults({}) == NodeDefaults()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"num_ctx": "8k"}, "num_ctx must be a whole number from 256 to 16777216, not '8k'"),
        ({"num_ctx": "255"}, "num_ctx must be a whole number"),
        ({"num_ctx": "٨١٩٢"}, "num_ctx must be a whole number"),
        ({"num_ctx": "9" * 30}, "num_ctx must be a whole number"),
        ({"num_ctx": "8192", "max_num_ctx": "4096"}, "num_ctx 8192 is above max_num_ctx 4096"),
        (
            {"keep_alive": "soon"},
            "keep_alive must be a duration such as 30m or 1h30m, or a number of seconds, not 'soon'",
        ),
        ({"think": "maybe"}, "think must be one of off, on, low, medium, high, not 'maybe'"),
        ({"top_k": "0"}, "top_k must be a whole number from 1 to 100000, not '0'"),
        ({"slots.": "1"}, "'slots.' is no setting of a node; there are num_ctx, max_num_ctx"),
        ({"slots.gemma": "none"}, "slots.gemma must be a whole number from 1 to 1024, not 'none'"),
        ({"numctx": "1"}, "'numctx' is no setting of a node"),
        ({f"slots.m{n}": "1" for n in range(101)}, "slots of 101 models are more than the 100"),
    ],
)
def test_what_is_wrong_is_said_with_its_name_and_what_may_stand_there(said: dict[str, str], words: str) -> None:
    with pytest.raises(ModelSettingInvalid) as told:
        node_defaults(said)
    assert words in str(told.value)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize("read", [context_length, duration, thinking, top_k])
@pytest.mark.parametrize("value", [None, [], {}, 1.5, float("nan"), "", "x" * 10_000, b"1", -(2**70), 2**70])
def test_any_value_is_read_or_refused(read: Callable[[str, object], object], value: object) -> None:
    with pytest.raises(ModelSettingInvalid) as told:
        read("it", value)
    assert len(str(told.value)) < 300


def test_a_policy_may_have_them_as_yaml_reads_them() -> None:
    assert (duration("it", 90), duration("it", -1), duration("it", "1h30m")) == ("90", "-1", "1h30m")
    assert (thinking("it", True), thinking("it", False), thinking("it", "high")) == ("on", "off", "high")
    assert (context_length("it", 8192), context_length("it", 4, least=1)) == (8192, 4)
    with pytest.raises(ModelSettingInvalid):
        top_k("it", True)


def test_ollama_gets_a_number_for_seconds_and_a_text_for_a_duration() -> None:
    assert [for_ollama(one) for one in ("90", "-1", "30m", None)] == [90, -1, "30m", None]
