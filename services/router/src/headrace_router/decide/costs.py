"""Prices in terms of the contract's types."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_contracts.events import Message, ModelOperation, Options, PartKind, TaskSubmitted, Usage
from headrace_contracts.limits import NANODOLLARS_IN_A_DOLLAR
from headrace_models import ports, prices
from headrace_models.prices import Price, PriceBook, PriceUnknown

_OVERHEAD_TOKENS = 16
_MOST_OF_MEDIA = {PartKind.IMAGE: 6_000, PartKind.AUDIO: 100_000, PartKind.FILE: 200_000}
"""Most tokens that a provider counts for one of them: an image of the largest size at Anthropic or OpenAI, an hour and
a half of sound at OpenAI, a document of a hundred pages."""


def most_tokens(messages: Sequence[Message], system_prompt: str | None) -> int:
    """Upper bound of a conversation's tokens: a token has at least one byte, and a message some fixed overhead."""
    extra = 0 if system_prompt is None else len(system_prompt.encode()) + _OVERHEAD_TOKENS
    return extra + sum(_most_in(message) + _OVERHEAD_TOKENS for message in messages)


def most_in_options(options: Options | None) -> int:
    """Upper bound of the tokens of what a task asks beyond its conversation."""
    if options is None:
        return 0
    described = [content for tool in options.tools for content in (tool.description, tool.parameters)]
    described += [options.response_format.schema] if options.response_format is not None else []
    said = sum(len(content.data) for content in described if content is not None)
    return said + _OVERHEAD_TOKENS * len(options.tools) + sum(len(text.data) for text in options.inputs)


def longest_prompt(task: TaskSubmitted, prompt_tokens: int) -> int:
    """Upper bound of the tokens that a model must read at once: of the longest text, where each gets a vector."""
    if task.operation is not ModelOperation.EMBED or task.options is None:
        return prompt_tokens
    return max((len(text.data) for text in task.options.inputs), default=0)


def _most_in(message: Message) -> int:
    tokens = len(message.content.data)
    for part in message.parts:
        if part.kind in _MOST_OF_MEDIA:
            tokens += _MOST_OF_MEDIA[part.kind]
        else:
            tokens += sum(len(one.data) for one in (part.content, part.signature) if one is not None)
        tokens += _OVERHEAD_TOKENS
    return tokens


def worst_case(price: Price | None, prompt_tokens: int, max_output_tokens: int | None) -> int | None:
    """The most an attempt can cost, in nano-dollars; None if it cannot be bounded."""
    if price is None:
        return None
    if max_output_tokens is None:
        without_end = prices.worst_case(prompt_tokens, 1, price) - prices.worst_case(prompt_tokens, 0, price)
        return None if without_end else prices.worst_case(prompt_tokens, 0, price)
    return prices.worst_case(prompt_tokens, max_output_tokens, price)


def cost(book: PriceBook, provider: str, model: str, usage: Usage, *, batch: bool = False) -> int:
    """The cost of usage in nano-dollars; 0 without a price, which cannot happen to a task with a budget. `batch` if it
    was part of a provider's batch."""
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
        reasoning_tokens=usage.reasoning_tokens,
        image_tokens=usage.image_tokens,
        audio_tokens=usage.audio_tokens,
    )
    return prices.cost(spent, price, batch=batch)


def dollars(nanodollars: int) -> str:
    """An amount as people read it, exact."""
    whole, rest = divmod(nanodollars, NANODOLLARS_IN_A_DOLLAR)
    cents = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{cents}"


def total(usages: Sequence[Usage]) -> Usage:
    if len(usages) == 1:
        return usages[0]
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cached_input_tokens=sum(usage.cached_input_tokens for usage in usages),
        searches=sum(usage.searches for usage in usages),
        cache_write_5m_tokens=sum(usage.cache_write_5m_tokens for usage in usages),
        cache_write_1h_tokens=sum(usage.cache_write_1h_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        image_tokens=sum(usage.image_tokens for usage in usages),
        audio_tokens=sum(usage.audio_tokens for usage in usages),
    )
