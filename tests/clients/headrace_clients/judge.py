"""Whether what a framework got is right: pure, and the same for all of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from headrace_clients.catalog import ASKED, COLUMNS

Mark = Literal["works", "fails", "absent"]
_LONGEST_NOTE: Final = 200
_FEWEST_DIMENSIONS: Final = 64
_SHORTEST_TEXT: Final = 20
_IDS: Final = re.compile(r"urn:headrace:request:\w+|\breq_\w+")
"""What is another in each run."""
_ASKED: Final = json.loads(ASKED.read_text(encoding="utf-8"))
_CALLED: Final = [["get_weather", {"city": "Lisbon"}], ["read_clock", {"zone": "Europe/Lisbon"}]]
_RETURNED: Final = ("sunny in Lisbon", "it is noon in Europe/Lisbon")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the table. `note` is the reason for one that does not work."""

    mark: Mark
    note: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that the platform has answered: when it came (seconds since 1970), its method and route, the status."""

    came: float
    call: str
    status: int


class Wrong(Exception):
    """What is wrong with a result."""


def cells(lines: Iterable[str], answered: Sequence[Answered], trouble: str) -> dict[str, Cell]:
    """The cells of a framework, by column, from what its script has printed and what the platform has answered.

    `trouble` says how the script ended, for columns that it has not come to.
    """
    reports = [json.loads(line) for line in lines if line.startswith('{"column":')]
    found = {report["column"]: _cell(report, answered) for report in reports}
    return {column: found.get(column) or Cell("fails", _short(trouble or "no result")) for column in COLUMNS}


def _cell(report: Mapping[str, Any], answered: Sequence[Answered]) -> Cell:
    if "absent" in report:
        return Cell("absent", report["absent"])
    during = [one for one in answered if report["begun"] <= one.came <= report["ended"]]
    refused = ", ".join(sorted({f"{one.call} answered {one.status}" for one in during if one.status >= 400}))
    if "error" in report:
        return Cell("fails", _short(f"{refused}: {report['error']}" if refused else report["error"]))
    try:
        _CHECKS[report["column"]](report["value"])
    except Wrong as wrong:
        return Cell("fails", _short(str(wrong)))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return Cell("fails", _short(f"the result has another form: {error}"))
    # A framework that tries again, or something else, hides that it was refused.
    if refused:
        return Cell("fails", _short(f"{refused}, and the framework went on"))
    if not during:
        return Cell("fails", "no request came to the platform")
    return Cell("works")


def requests_in(log: Iterable[str]) -> list[Answered]:
    """The requests in a service's log, which is JSON, a line each."""
    found = []
    for line in log:
        if '"message": "request"' in line:
            entry = json.loads(line)
            ended = datetime.fromisoformat(entry["time"]).timestamp()
            call = f"{entry['method']} {entry['route']}"
            found.append(Answered(ended - entry["ms"] / 1000, call, entry["status"]))
    return found


def _expect(right: bool, wrong: str) -> None:
    if not right:
        raise Wrong(wrong)


def _chat(value: Any) -> None:
    _expect(isinstance(value, str), "the answer is no text")
    _expect("the request has" in value, f"the answer is not the model's: {value}")


def _stream(value: Any) -> None:
    _expect(all(isinstance(piece, str) for piece in value), "a piece of the stream is no text")
    _expect(len(value) > 1, f"the stream had {len(value)} pieces")
    _expect(len("".join(value)) >= _SHORTEST_TEXT, "the stream had no text")


def _tools(value: Any) -> None:
    _expect(sorted(value["calls"]) == _CALLED, f"the calls were {json.dumps(value['calls'])}")
    for result in _RETURNED:
        _expect(result in value["answer"], f"the answer does not use the results: {value['answer']}")


def _structured(value: Any) -> None:
    _expect(value == _ASKED["city"], f"the object was {json.dumps(value)}")


def _image(value: Any) -> None:
    _expect("1 image seen" in value, f"the model saw no image: {value}")


def _embeddings(value: Any) -> None:
    lengths = {len(vector) for vector in value}
    _expect(len(value) == len(_ASKED["texts"]), f"there were {len(value)} vectors")
    _expect(len(lengths) == 1 and min(lengths) >= _FEWEST_DIMENSIONS, f"the vectors have the lengths {lengths}")
    query, near, far = value
    _expect(_cosine(query, near) > _cosine(query, far) + 0.1, "near texts are not nearer than others")


def _batch(value: Any) -> None:
    _expect(list(value) == _ASKED["batch_questions"] or sorted(value) == _ASKED["batch_questions"], "lines are missing")
    _expect(all(isinstance(answer, str) and answer for answer in value.values()), "a line has no answer")


_CHECKS: Final = {
    "chat": _chat, "stream": _stream, "tools": _tools, "structured": _structured, "image": _image,
    "embeddings": _embeddings, "batch": _batch,
}  # fmt: skip


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def _short(text: str) -> str:
    words = " ".join(_IDS.sub("…", text).split())
    return words if len(words) <= _LONGEST_NOTE else words[: _LONGEST_NOTE - 1] + "…"
