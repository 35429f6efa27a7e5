"""How many tokens a request may have, for POST /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace_contracts.events import Content, Message, Options, PartKind

_BYTES_PER_TOKEN: Final = 4
_MESSAGE_TOKENS: Final = 4
_TOOL_TOKENS: Final = 8
_MEDIA_TOKENS: Final = {PartKind.IMAGE: 1_600, PartKind.AUDIO: 3_000, PartKind.FILE: 20_000}
"""An image of 1,092 x 1,092 pixels at Anthropic, five minutes of sound at OpenAI, a document of ten pages."""


def estimated_tokens(messages: Iterable[Message], options: Options | None) -> int:
    """About as many tokens as the prompt will have, by its bytes: which tokenizer counts them depends on the model,
    which is chosen only when the task runs. English text has about as many; other scripts and code have more or fewer.
    """
    tokens = sum(_tokens(message.content) + _MESSAGE_TOKENS for message in messages)
    for message in messages:
        for part in message.parts:
            tokens += _MEDIA_TOKENS[part.kind] if part.kind in _MEDIA_TOKENS else _tokens(part.content)
    if options is not None:
        for tool in options.tools:
            tokens += _TOOL_TOKENS + _tokens(tool.description) + _tokens(tool.parameters)
        if options.response_format is not None:
            tokens += _tokens(options.response_format.schema)
    return tokens


def _tokens(content: Content | None) -> int:
    return 0 if content is None else -(-len(content.data) // _BYTES_PER_TOKEN)
