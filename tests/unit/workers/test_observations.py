"""What a worker tells of how answers came."""

from __future__ import annotations

import math
from dataclasses import replace

from headrace_contracts.events import ModelStatus, NodeStatus, Place
from headrace_models.worker.fleet import tells_more
from headrace_models.worker.observations import Observations
from hypothesis import given
from hypothesis import strategies as st


def test_the_figures_are_of_the_last_minutes() -> None:
    seen = Observations()
    assert seen.summary(0.0) is None
    for second in range(1, 101):
        seen.observe(float(second), second / 100, 1.0, 11)
    told = seen.summary(100.0)
    assert told is not None
    assert (told.calls, told.first_output_p50_ms, told.first_output_p95_ms) == (100, 500.0, 950.0)
    assert (told.tokens_per_second_p50, told.tokens_per_second_p5) == (10.0, 10.0)
    later = seen.summary(390.0)
    assert later is not None
    assert later.calls == 10
    assert seen.summary(500.0) is None


def test_short_answers_tell_no_speed() -> None:
    seen = Observations()
    seen.observe(0.0, 0.1, 0.5, 3)
    seen.observe(0.0, 0.1, 0.0, 300)
    told = seen.summary(1.0)
    assert told is not None
    assert told.tokens_per_second_p50 is None


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5), st.integers(0, 10**7)), min_size=1))
def test_whatever_answers_were_like_the_figures_are_some_of_theirs(answers: list[tuple[float, float, int]]) -> None:
    seen = Observations()
    for first, writing, tokens in answers:
        seen.observe(1.0, first, writing, tokens)
    told = seen.summary(2.0)
    assert told is not None
    assert 0 <= told.first_output_p50_ms <= told.first_output_p95_ms
    if told.tokens_per_second_p50 is not None and told.tokens_per_second_p5 is not None:
        assert 0 <= told.tokens_per_second_p5 <= told.tokens_per_second_p50 < math.inf


def test_new_figures_alone_are_not_told_at_once() -> None:
    seen = Observations()
    seen.observe(0.0, 1.0, 1.0, 50)
    before = NodeStatus(
        node="n", place=Place.LOCAL, provider="ollama", worker="w", healthy=True, models=(ModelStatus(name="m"),),
        reported_at=0, valid_for_ms=1,
    )  # fmt: skip
    after = replace(before, models=(ModelStatus(name="m", observed=seen.summary(1.0)),))
    assert not tells_more(before, after)
    assert tells_more(before, replace(after, healthy=False))
