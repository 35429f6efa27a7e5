"""What all frameworks are asked, and how a script hands over what it got: one line of JSON for each column.

The scripts only report. Whether an answer is right is judged by `headrace_clients.judge`, for all of them alike.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

URL = os.environ["HEADRACE_URL"]
KEY = os.environ["HEADRACE_API_KEY"]
EMBEDDING_MODEL = os.environ["HEADRACE_EMBEDDING_MODEL"]

_ASKED = json.loads(Path(os.environ["HEADRACE_ASKED"]).read_text())
QUESTION: str = _ASKED["question"]
TOOLS_QUESTION: str = _ASKED["tools_question"]
CITY_QUESTION: str = _ASKED["city_question"]
IMAGE_QUESTION: str = _ASKED["image_question"]
PNG_BASE64: str = _ASKED["png"]
PNG = base64.b64decode(PNG_BASE64)
PNG_URL = f"data:image/png;base64,{PNG_BASE64}"
TEXTS: list[str] = _ASKED["texts"]
BATCH_QUESTIONS: list[str] = _ASKED["batch_questions"]


class City(BaseModel):
    """What the structured answer must be."""

    name: str
    population: int


CALLS: list[list[Any]] = []
"""The tools that were called, with their arguments."""


def get_weather(city: str) -> str:
    """Tell the weather of a city.

    Args:
        city: Its name.
    """
    CALLS.append(["get_weather", {"city": city}])
    return f"sunny in {city}"


def read_clock(zone: str) -> str:
    """Tell the time in a time zone.

    Args:
        zone: Its name, such as Europe/Berlin.
    """
    CALLS.append(["read_clock", {"zone": zone}])
    return f"it is noon in {zone}"


TOOLS: dict[str, Callable[..., str]] = {"get_weather": get_weather, "read_clock": read_clock}
TOOL_PARAMETERS: dict[str, Any] = {
    name: {
        "type": "object", "properties": {argument: {"type": "string"}}, "required": [argument],
        "additionalProperties": False,
    }
    for name, argument in (("get_weather", "city"), ("read_clock", "zone"))
}  # fmt: skip
"""For packages that take schemas, not functions."""


def looped(answer: str | None) -> dict[str, Any]:
    """What a tool loop came to."""
    return {"calls": CALLS, "answer": answer}


class Absent(Exception):
    """The framework has no such feature; the message says what is so."""


def absent(reason: str = "") -> Callable[[], Any]:
    """Stands for a column that the framework has nothing for."""

    def column() -> Any:
        raise Absent(reason)

    return column


def report(**columns: Callable[[], Any]) -> None:
    """Run the columns that the command line names, else all, and print what each gave."""
    wanted = set(os.environ.get("HEADRACE_COLUMNS", "").split()) or set(columns)
    with asyncio.Runner() as runner:
        for name, column in columns.items():
            if name not in wanted:
                continue
            CALLS.clear()
            line: dict[str, Any] = {"column": name, "begun": time.time()}
            try:
                value = column()
                line["value"] = runner.run(value) if inspect.iscoroutine(value) else value
            except Absent as nothing:
                line["absent"] = str(nothing)
            except Exception as error:  # noqa: BLE001 - whatever a framework raises is its result
                traceback.print_exc(file=sys.stderr)
                line["error"] = f"{type(error).__name__}: {error}"
            line["ended"] = time.time()
            print(json.dumps(line), flush=True)
