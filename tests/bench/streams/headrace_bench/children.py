"""Contestants as processes of their own, which wait for their turn.

One process each, so that processor time is the contestant's alone, and so that none runs beside the threads of another;
the same one for all rounds, so that compilers have warmed up. A round is one line of JSON to its standard input, and
one back. Between rounds it waits for input and takes no processor time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Answer = Mapping[str, Any]

_END_SECONDS = 10.0
_PACKAGES = Path(__file__).resolve().parent.parent


class ContestantFailed(Exception):
    """A contestant could not do its round, or did not do it exactly; the message has the end of its output."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running contestant."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def round(self, request: Mapping[str, object], seconds: float) -> Answer:
        """Have it do one round, within so many seconds. Raises ContestantFailed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                await self.process.stdin.drain()
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise ContestantFailed(f"{self.name}: not done after {seconds:g} s. {self._last_words()}") from None
        except ConnectionError as error:
            raise ContestantFailed(f"{self.name}: {error}. {self._last_words()}") from error
        if not line:
            raise ContestantFailed(f"{self.name} ended with {await self.process.wait()}. {self._last_words()}")
        try:
            answer: Answer = json.loads(line)
        except ValueError:
            raise ContestantFailed(f"{self.name} answered {line!r}. {self._last_words()}") from None
        return answer

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]


@asynccontextmanager
async def running(name: str, command: Sequence[str], folder: Path) -> AsyncIterator[Child]:
    """A contestant from its start to its end; what it writes to standard error is kept below `folder`."""
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    log = folder / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            limit=64 * 1024 * 1024,
        )
    try:
        yield Child(name, process, log)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.wait()


def serve(play: Callable[[Answer], Mapping[str, object]]) -> None:
    """The contestant's side: answer each line of input until there is none. Whatever `play` raises ends the process."""
    answers = sys.stdout
    # What a library prints must not get between the answers.
    sys.stdout = sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(play(json.loads(line))) + "\n")
        answers.flush()
