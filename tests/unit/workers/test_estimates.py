"""How long calls are expected to take, by their size and the speed of their endpoint."""

from __future__ import annotations

import pytest
from headrace_contracts import events
from headrace_contracts.content import plain
from headrace_models.worker.estimates import (
    UNSIZED,
    CallSize,
    ModelSpeed,
    OutputLengths,
    closed_up,
    seconds_left,
)
from headrace_models.worker.requests import size_of
from headrace_testing.workers import attempt

SHORT = CallSize(20, 32)


def speed_of(*calls: tuple[int, float, float], prompt: int = 100) -> ModelSpeed:
    """Of calls with so many output tokens, seconds to the first one, and seconds for all."""
    speed = ModelSpeed()
    for at, (output, first, total) in enumerate(calls):
        speed.observe(float(at), CallSize(prompt), output, first, total)
    return speed


def lengths_of(*answers: int) -> OutputLengths:
    lengths = OutputLengths()
    for tokens in answers:
        lengths.observe(tokens)
    return lengths


def test_one_long_answer_on_the_fast_node_does_not_make_it_look_slow() -> None:
    quick = [(51, 0.2, 0.7)] * 3
    before, after = speed_of(*quick), speed_of(*quick, (3_001, 0.2, 30.2))
    assert before.seconds_per_token == pytest.approx(0.01)
    assert after.seconds_per_token == pytest.approx(0.01)
    assert after.seconds(SHORT, 20) == pytest.approx(before.seconds(SHORT, 20))


def test_a_node_that_has_become_slower_is_known_after_a_few_calls() -> None:
    found = speed_of((3_001, 0.2, 30.2), *[(501, 0.2, 15.2)] * 12)
    assert found.seconds_per_token == pytest.approx(0.03, rel=0.25)
    later = speed_of((3_001, 0.2, 30.2))
    later.observe(600.0, CallSize(100), 51, 0.2, 1.7)
    assert later.seconds_per_token > 0.012, "what is ten minutes old counts little"


def test_prompts_of_different_size_tell_what_a_token_and_what_a_call_costs() -> None:
    speed = ModelSpeed()
    for at in range(20):
        speed.observe(float(at), CallSize(1_000), 2, 1.1, 1.2)
        speed.observe(at + 0.5, CallSize(10), 2, 0.11, 0.2)
    assert speed.prompt_seconds(10) == pytest.approx(0.11, abs=0.25)
    assert speed.prompt_seconds(1_000) == pytest.approx(1.1, rel=0.15)
    assert speed.prompt_seconds(4_000) > 2.5
    assert speed_of((2, 0.5, 0.6)).prompt_seconds(200) == pytest.approx(1.0), "of one size: in proportion"


def test_loading_is_no_part_of_the_speed() -> None:
    speed = speed_of((51, 0.2, 0.7))
    speed.observe(1.0, CallSize(100), 51, 8.2, 8.7, cold=True)
    assert speed.load_seconds == pytest.approx(8.0)
    assert speed.prompt_seconds(100) == pytest.approx(0.2)
    speed.observe(2.0, CallSize(100), 51, 3.2, 3.7, queued=True)
    assert speed.prompt_seconds(100) == pytest.approx(0.2), "it has waited for others"


def test_the_usual_answer_is_bounded_by_the_longest_that_is_allowed() -> None:
    lengths = lengths_of(10, 20, 600)
    assert lengths.usual() == pytest.approx(210)
    assert lengths.usual(100) == pytest.approx((10 + 20 + 100) / 3)
    assert lengths.usual(5) == 5
    assert OutputLengths().usual(5) == 5


def test_what_is_left_of_an_answer_is_what_longer_ones_had() -> None:
    lengths = lengths_of(10, 20, 600, 3_000)
    assert lengths.left(100) == pytest.approx(1_700)
    assert lengths.left(1_000) == pytest.approx(2_000)
    assert lengths.left(1_000, 1_500) == pytest.approx(500)
    assert lengths.left(4_000) == pytest.approx(1_000), "the longest ever: a quarter of what it has"
    assert lengths.left(4_000, 4_000) == 0


def test_a_running_call_that_is_longer_than_usual_has_something_left() -> None:
    speed, lengths = speed_of(*[(51, 0.2, 0.7)] * 5), lengths_of(50, 50, 50)
    usual = seconds_left(speed, lengths, CallSize(100), 0.0, 0.0)
    assert usual == pytest.approx(0.7, abs=0.01)
    # As a call of 3,000 tokens is after 10 s.
    assert seconds_left(speed, lengths, CallSize(100, 3_000), 0.0, 10.0) == pytest.approx(2.45, abs=0.1)
    stuck = [seconds_left(speed, lengths, CallSize(100, 60), 0.0, since) for since in (1.0, 10.0, 100.0)]
    assert stuck == sorted(stuck)
    assert stuck[-1] > 10, "the longer it is overdue, the longer it may take"


def test_who_was_not_measured_for_long_is_tried_again() -> None:
    assert closed_up(25.0, 1.0, 0.0) == 25.0
    assert closed_up(25.0, 1.0, 600.0) == pytest.approx(5.0)
    assert 1.0 < closed_up(25.0, 1.0, 3_600.0) < 1.1
    assert closed_up(0.5, 1.0, 600.0) == 0.5


def test_the_size_of_an_attempt_is_what_its_record_tells() -> None:
    small, large = attempt(), attempt(messages=(events.Message(role="user", content=plain("word " * 4_000)),))
    assert (size_of(small).prompt_tokens, size_of(small).max_output_tokens) == (18, 64)
    assert size_of(large).prompt_tokens == pytest.approx(5_000, abs=20)
    assert size_of(attempt(sampling=events.Sampling())).max_output_tokens is None
    part = events.MessagePart(kind=events.PartKind.IMAGE, content=plain("x" * 1_000_000))
    picture = attempt(messages=(events.Message(role="user", content=plain(""), parts=(part,)),))
    assert size_of(picture) == CallSize(1_616, 64)
    assert UNSIZED.prompt_tokens == 0
