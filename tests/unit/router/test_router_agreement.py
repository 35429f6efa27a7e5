"""How alike answers are, and which of several is given."""

from __future__ import annotations

import json
import math

import pytest
from headrace_router.decide.agreement import Opinion, best_of, certainty_of, coherence, similarity, voted
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("The lake is deep.", "the lake, is DEEP", 1.0),
        ("ﬁne", "fine", 1.0),
        ("a b", "c d", 0.0),
        # Of two words and one pair each, one word is the same.
        ("a b", "a c", 1 / 3),
        # The same words in another order are not the same.
        ("dog bites man", "man bites dog", 3 / 5),
        ("", "", 1.0), ("?!", "?!", 1.0), ("?!", "!?", 0.0), ("", "a", 0.0),
        ("12", "12.0", 1 / math.sqrt(3)),
    ],
)  # fmt: skip
def test_similarity(one: str, other: str, expected: float) -> None:
    assert similarity(one, other) == pytest.approx(expected)


def test_coherence_is_the_mean_of_all_pairs() -> None:
    assert coherence([]) is None
    assert coherence(["a"]) is None
    assert coherence(["a b", "a b", "c"]) == pytest.approx(1 / 3)
    assert coherence(["a b", "a c", "a b"]) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


@given(st.lists(st.text(max_size=40), min_size=2, max_size=5))
def test_coherence_is_within_bounds_whoever_comes_first(texts: list[str]) -> None:
    found, reverse = coherence(texts), coherence(texts[::-1])
    assert found is not None
    assert reverse is not None
    assert 0 <= found <= 1
    assert found == pytest.approx(reverse)
    assert coherence([texts[0], texts[0]]) == pytest.approx(1.0)


def test_long_answers_are_compared_by_their_beginnings() -> None:
    assert similarity("word " * 5_000 + "a", "word " * 5_000 + "b") == pytest.approx(1.0)
    # Yet they are not the same answer.
    assert voted([Opinion("word " * 5_000 + "a"), Opinion("word " * 5_000 + "b"), Opinion("word " * 5_000 + "b")]) == 1


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ([Opinion("x"), Opinion("y"), Opinion("Y!")], 1),
        ([Opinion("y"), Opinion("x"), Opinion("y", is_primary=True)], 2),
        # No two the same: the one that is most alike to the others.
        ([Opinion("one"), Opinion("a b c d"), Opinion("a b c e")], 1),
        ([Opinion("one"), Opinion("two"), Opinion("three")], 0),
        ([Opinion("one"), Opinion("two", is_primary=True), Opinion("three")], 1),
        ([Opinion('{"a": 1, "b": 2}'), Opinion("x"), Opinion('{"b":2,"a":1}')], 0),
        # What is cut off, or of the wrong form, stands back.
        ([Opinion("x", whole=False), Opinion("x", whole=False), Opinion("y")], 2),
        ([Opinion("x", fits=False), Opinion("x", fits=False), Opinion("y", whole=False)], 2),
        ([Opinion("x", fits=False)], 0),
        ([Opinion("[" * 5_000), Opinion("]"), Opinion("[" * 5_000)], 0),
    ],
)
def test_votes(opinions: list[Opinion], expected: int) -> None:
    assert voted(opinions) == expected


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ([Opinion("x", quality=0.4), Opinion("y", quality=0.6)], 1),
        ([Opinion("x", certainty=0.9, quality=0.1), Opinion("y", certainty=0.8)], 0),
        # Only where all have one do they count.
        ([Opinion("x", certainty=0.9, quality=0.1), Opinion("y")], 1),
        ([Opinion("x", quality=0.9, fits=False), Opinion("y")], 1),
        ([Opinion("z"), Opinion("a b"), Opinion("a c")], 1),
    ],
)
def test_the_best(opinions: list[Opinion], expected: int) -> None:
    assert best_of(opinions) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (json.dumps([{"logprob": math.log(0.5)}, {"logprob": math.log(0.5)}]), 0.5),
        (json.dumps({"content": [{"logprob": 0}]}), 1.0),
        ('[{"logprob": -Infinity}]', 0.0), (f'[{{"logprob": -1{"0" * 400}}}]', 0.0),
        ("[]", None), ("{}", None), ("", None), ("[1]", None), ('[{"logprob": NaN}]', None),
        ('[{"logprob": 0.1}]', None), ('[{"logprob": "-1"}]', None), ('[{"logprob": false}]', None),
        ('[{"logprob": -1}, {}]', None), ("[" * 5_000, None),
    ],
)  # fmt: skip
def test_certainty(said: str, expected: float | None) -> None:
    assert certainty_of(said) == (None if expected is None else pytest.approx(expected))
