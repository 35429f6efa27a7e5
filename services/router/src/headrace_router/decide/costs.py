"""Prices in terms of the contract's types."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_contracts.events import Message, Usage
from headrace_models import ports, prices
from headrace_models.prices import PriceBook, PriceUnknown

_OVERHEAD_TOKENS = 16


def most_tokens(messages: Sequence[Message], system_prompt: str | None) -> int:
    """Upper bound of a conversation's tokens: a token has at least one byte, and a message some fixed overhead."""
    extra = 0 if system_prompt is None else len(system_prompt.encode()) + _OVERHEAD_TOKENS
    return extra + sum(len(message.content.data) + _OVERHEAD_TOKENS for message in messages)


def worst_case(
    book: PriceBook, provider: str, model: str, prompt_tokens: int, max_output_tokens: int | None
) -> int | None:
    """The most an attempt can cost, in nano-dollars; None if it cannot be bounded."""
    try:
        price = book.price(provider, model)
    except PriceUnknown:
        return None
    if max_output_tokens is None:
        without_end = prices.worst_case(prompt_tokens, 1, price) - prices.worst_case(prompt_tokens, 0, price)
        return None if without_end else prices.worst_case(prompt_tokens, 0, price)
    return prices.worst_case(prompt_tokens, max_output_tokens, price)


def cost(book: PriceBook, provider: str, model: str, usage: Usage) -> int:
    """The cost of usage in nano-dollars; 0 without a price, which cannot happen to a task with a budget."""
    try:
        price = book.price(provider, model)
    except PriceUnknown:
        return 0
    spent = ports.CallUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        searches=usage.searches,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
    )
    return prices.cost(spent, price)


def total(usages: Sequence[Usage]) -> Usage:
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cached_input_tokens=sum(usage.cached_input_tokens for usage in usages),
        searches=sum(usage.searches for usage in usages),
        cache_write_5m_tokens=sum(usage.cache_write_5m_tokens for usage in usages),
        cache_write_1h_tokens=sum(usage.cache_write_1h_tokens for usage in usages),
    )
