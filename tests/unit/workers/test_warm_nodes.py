"""Prompts go where their beginning is warm, and that is sooner answered, on nodes that keep prompts as Ollama does."""

from __future__ import annotations

import pytest
from headrace_models.conversation import ChatMessage
from headrace_models.simulator.answers import count_tokens
from headrace_models.simulator.prompt_cache import PromptCache
from headrace_testing.warm_nodes import Load, measured


@pytest.mark.parametrize("seed", [1, 2])
def test_turns_of_agents_find_their_prompts_warm(seed: int) -> None:
    load = Load(agents=8, turns=6, nodes=3)
    without, with_it = (measured(load, warm=warm, seed=seed) for warm in (False, True))
    assert with_it.share_cached > 0.6 > without.share_cached
    assert with_it.p50 < without.p50 / 2
    # No node is left out, and none has all.
    assert min(with_it.calls) > 0


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage("user" if number % 2 else "system", text) for number, text in enumerate(texts)]


def test_a_prompt_that_goes_on_from_a_kept_one_takes_its_slot() -> None:
    cache, first, other = PromptCache(), "long ago " * 100, "other " * 100
    # What all prompts begin with, the mark of a role, is next to nothing.
    little = 3
    assert cache.read(said(first), 2) == 0
    assert cache.read(said(other), 2) <= little
    assert cache.read(said(first, "and then"), 2) >= count_tokens(first)
    # The other one is kept still.
    assert cache.read(said(other, "so"), 2) >= count_tokens(other)
    assert cache.read(said("third " * 100), 2) <= little
    assert cache.read(said(first, "and then", "x"), 2) <= little, "its slot was used the longest ago"
