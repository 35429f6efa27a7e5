"""How alike answers are, and which of several is the one to give. Values only.

The *similarity* of two answers is the cosine of their counts of words and of pairs of neighbouring words, from 0 to 1:

    sim(a, b) = Σ cₐ(w)·c_b(w) / √(Σ cₐ(w)² · Σ c_b(w)²)        w: a word, or two in a row

Words are runs of letters and digits, in lower case and compatibility form (NFKC); of an answer the first 20,000
characters count. Answers without any word are as alike as their texts: 1 if these are equal, else 0. The *coherence* of
answers is the mean similarity of all pairs of them. It says that models agree, not that they are right.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

_MOST_CHARACTERS: Final = 20_000
_LEAST_LOGPROB: Final = -1e6
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Opinion:
    """One of several answers.

    Attributes:
        whole: Whether its model has ended it by itself.
        fits: Whether it has the form that was asked for.
        quality: How good the answers of its model are, from 0 to 1, as the policy says.
        is_primary: Whether it comes from a primary member.
        certainty: Mean probability of its tokens; None where that was not given.
    """

    text: str
    whole: bool = True
    fits: bool = True
    quality: float = 0.5
    is_primary: bool = False
    certainty: float | None = None


def similarity(one: str, other: str) -> float:
    """How alike two answers are, from 0 to 1."""
    return _cosine(_counts(one), _counts(other), one, other)


def coherence(texts: Sequence[str]) -> float | None:
    """The mean similarity of all pairs; None for fewer than two answers."""
    alike = _pairs(texts)
    return math.fsum(alike.values()) / len(alike) if alike else None


def voted(opinions: Sequence[Opinion]) -> int:
    """The place of the answer that most give; there is at least one.

    Answers count as the same if they have the same words in the same order, or are the same JSON. Where several have as
    many votes, that one of them wins which is most alike to all the others, then a primary one, then the first. Answers
    that are cut off or have the wrong form stand back, if others do not.
    """
    fit = _presentable(opinions)
    names = [_normal_form(opinions[place].text) for place in fit]
    votes = Counter(names)
    central = _central([opinions[place].text for place in fit])
    best = max(
        range(len(fit)),
        key=lambda at: (votes[names[at]], central[at], opinions[fit[at]].is_primary, -at),
    )
    # Of the same answers the first, so that a primary one is given as it was said.
    same = [place for place, name in zip(fit, names, strict=True) if name == names[best]]
    return max(same, key=lambda place: (opinions[place].is_primary, -place))


def best_of(opinions: Sequence[Opinion]) -> int:
    """The place of the best answer; there is at least one: of the right form and whole, then by the probability of its
    tokens where all have one, then by the quality of its model, then by how alike it is to all the others."""
    fit = _presentable(opinions)
    central = _central([opinions[place].text for place in fit])
    certainties = [opinions[place].certainty for place in fit]
    known = [0.0 if one is None else one for one in certainties] if None not in certainties else [0.0] * len(fit)
    at = max(range(len(fit)), key=lambda at: (known[at], opinions[fit[at]].quality, central[at], -at))
    return fit[at]


def certainty_of(logprobs: str) -> float | None:
    """The mean probability of tokens (geometric), from 0 to 1, of log probabilities as JSON in OpenAI's format; None if
    it cannot be read."""
    try:
        listed = json.loads(logprobs)
    except (ValueError, RecursionError):
        return None
    if isinstance(listed, dict):
        listed = listed.get("content")
    if not isinstance(listed, list) or not listed:
        return None
    found = [token.get("logprob") if isinstance(token, dict) else None for token in listed]
    # Of one that is below all that is ever said, nothing is left of the mean but 0.
    numbers = [max(one, _LEAST_LOGPROB) for one in found if isinstance(one, int | float) and one <= 0]
    if len(numbers) < len(found) or any(isinstance(one, bool) for one in found):
        return None
    return math.exp(math.fsum(numbers) / len(numbers))


def _presentable(opinions: Sequence[Opinion]) -> Sequence[int]:
    ranked = [(not one.fits, not one.whole) for one in opinions]
    return [place for place, rank in enumerate(ranked) if rank == min(ranked)]


def _central(texts: Sequence[str]) -> Sequence[float]:
    """Of each answer how alike it is to all the others together."""
    sums = [0.0] * len(texts)
    for (one, other), alike in _pairs(texts).items():
        sums[one] += alike
        sums[other] += alike
    # What differs by rounding only is equal.
    return [round(one, 9) for one in sums]


def _pairs(texts: Sequence[str]) -> Mapping[tuple[int, int], float]:
    counts = [_counts(text) for text in texts]
    return {
        (one, other): _cosine(counts[one], counts[other], texts[one], texts[other])
        for one, other in combinations(range(len(texts)), 2)
    }


def _cosine(one: Counter[object], other: Counter[object], text: str, other_text: str) -> float:
    if not one and not other:
        return 1.0 if text == other_text else 0.0
    few, many = sorted((one, other), key=len)
    product = sum(number * many[word] for word, number in few.items())
    lengths = sum(n * n for n in one.values()) * sum(n * n for n in other.values())
    return min(1.0, product / math.sqrt(lengths)) if lengths else 0.0


def _counts(text: str) -> Counter[object]:
    words = _words(text)
    return Counter([*words, *pairwise(words)])


def _words(text: str) -> Sequence[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text[:_MOST_CHARACTERS]).casefold())


def _normal_form(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    rest = text[_MOST_CHARACTERS:]
    return " ".join(_words(text)) + rest or text
