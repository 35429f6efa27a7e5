"""What a call has consumed, put together from what an upstream says about it, in whatever order and however often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headrace_models.ports import CallUsage
from headrace_models.upstream.values import count


@dataclass(slots=True)
class UsageTally:
    """The counts heard so far, merged field by field.

    A later count replaces an earlier one, but one that is absent, zero or impossible never takes an earlier one back.
    None and 0 both mean that nothing is known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    searches: int = 0
    billed_by_tokens: bool = True
    """Whether counts that have not been said are estimated."""
    final: bool = False
    """Whether output_tokens is the count of the whole answer. An interim count may be far too low: Anthropic's first
    event counts one token."""

    def hear(
        self,
        *,
        input_tokens: Any = None,
        output_tokens: Any = None,
        cached_input_tokens: Any = None,
        cache_write_5m_tokens: Any = None,
        cache_write_1h_tokens: Any = None,
        reasoning_tokens: Any = None,
        image_tokens: Any = None,
        audio_tokens: Any = None,
        final: bool = True,
    ) -> None:
        """Counts as an upstream gives them: anything may stand there."""
        if not (
            input_tokens or output_tokens or cached_input_tokens or cache_write_5m_tokens or cache_write_1h_tokens
            or reasoning_tokens or image_tokens or audio_tokens
        ):  # fmt: skip
            # Most pieces of a stream say nothing of counts.
            return
        self.input_tokens = count(input_tokens) or self.input_tokens
        self.cached_input_tokens = count(cached_input_tokens) or self.cached_input_tokens
        self.cache_write_5m_tokens = count(cache_write_5m_tokens) or self.cache_write_5m_tokens
        self.cache_write_1h_tokens = count(cache_write_1h_tokens) or self.cache_write_1h_tokens
        self.reasoning_tokens = count(reasoning_tokens) or self.reasoning_tokens
        self.image_tokens = count(image_tokens) or self.image_tokens
        self.audio_tokens = count(audio_tokens) or self.audio_tokens
        written = count(output_tokens)
        if written:
            self.output_tokens, self.final = written, final

    def of(self, *, prompt_estimate: int, text_estimate: int) -> CallUsage:
        """The usage, with estimates in place of what has not been said; at least what has been said."""
        if not self.billed_by_tokens:
            return CallUsage(searches=self.searches)
        read = self.input_tokens or prompt_estimate
        cached, short, long = self.cached_input_tokens, self.cache_write_5m_tokens, self.cache_write_1h_tokens
        if cached + short + long > read:
            # They are parts of what was read: counts that contradict each other say nothing about the parts.
            cached = short = long = 0
        written = self.output_tokens if self.final else max(self.output_tokens, text_estimate)
        return CallUsage(
            input_tokens=read,
            output_tokens=written,
            cached_input_tokens=cached,
            cache_write_5m_tokens=short,
            cache_write_1h_tokens=long,
            searches=self.searches,
            reasoning_tokens=min(self.reasoning_tokens, written),
            image_tokens=min(self.image_tokens, read),
            audio_tokens=min(self.audio_tokens, read + written),
        )
