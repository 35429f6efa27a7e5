"""What the tests of agents' packages send, whichever API they send it over."""

from __future__ import annotations

import base64
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

MODELS: Final = ("ollama/phi3:3.8b", "groq/openai/gpt-oss-120b", "anthropic/claude-sonnet-4-6")
"""A model of each kind of provider."""
PUBLIC: Final[Any] = {"privacy": "public", "mode": "hybrid", "allow_cached": False}
"""Headrace's own fields: any of these models may answer, and has to."""

QUESTION: Final = "What is the weather in Lisbon, and read the clock?"
"""The simulated models call `get_weather` and `read_clock` for it, if they have them."""

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(100)
PNG_BASE64: Final = base64.b64encode(PNG).decode()
PNG_URL: Final = "data:image/png;base64," + PNG_BASE64

CITY: Final[Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
"""The parameters of `get_weather`."""

REVIEW_REQUEST: Final = "Review 'app.py': severity high at line 12"


def result_of(arguments: dict[str, Any]) -> str:
    """What the called tool returns."""
    return "sunny in " + arguments["city"] if "city" in arguments else "it is noon"


class Finding(BaseModel):
    """One finding of a review."""

    file: str
    line: int = Field(ge=1)
    severity: Literal["low", "high"]


class Review(BaseModel):
    """What a reviewing agent gives."""

    summary: str
    findings: list[Finding]
