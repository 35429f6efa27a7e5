"""Agents written with the SDK, with a plain Kafka client, and people at the command line."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from headrace import Addresses, AnswerInvalid, Client, Image, KafkaClient, OverBudget, Piece, RequestInvalid, consume
from headrace.connecting import Cluster
from headrace_contracts.events import TaskCompleted, TaskSubmitted
from headrace_models.simulator.tool_use import CALL_MARK
from headrace_testing.agent_requests import PNG, QUESTION, REVIEW_REQUEST, Finding
from headrace_testing.up import RunningStack

ROOT = Path(__file__).parents[2]
HEADRACE = str(Path(sys.executable).parent / "headrace")


async def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def read_clock() -> str:
    """The time."""
    return "it is noon"


async def find_person(name: str, age: int) -> str:
    """Find somebody."""
    raise LookupError(f"nobody of the name {name} is {age}")


@pytest.fixture
async def kafka(addresses: Addresses, tenant: str) -> AsyncIterator[KafkaClient]:
    async with KafkaClient(tenant, addresses=addresses, source="test/agent") as client:
        yield client


Agents = Callable[[str], Client | KafkaClient]


@pytest.fixture
def agents(client: Client, kafka: KafkaClient) -> Agents:
    return lambda name: client if name == "http" else kafka


@pytest.mark.parametrize("over", ["http", "kafka"])
async def test_a_tool_loop_and_a_schema(agents: Agents, over: str) -> None:
    agent = agents(over)
    run = await agent.run_tools(QUESTION, tools=[get_weather, read_clock], privacy="sensitive", timeout=60)
    assert "sunny in Lisbon" in run.answer
    assert "it is noon" in run.answer
    assert sorted(call.name for call in run.steps[0].calls) == ["get_weather", "read_clock"]
    assert len(run.tasks) == 2
    assert len({task.session for task in run.tasks}) == 1
    found = await agent.run_tools(
        f'{CALL_MARK} find_person {{"name": "Ann", "age": 7}}', tools=[find_person], privacy="sensitive", timeout=60
    )
    assert found.steps[0].results[0].is_error
    assert "LookupError: nobody of the name Ann is 7" in found.answer
    remark = await agent.ask(REVIEW_REQUEST, schema=Finding, privacy="sensitive", timeout=60)
    assert (remark.severity, type(remark)) == ("high", Finding)
    seen = await agent.ask(["What is this?", Image.from_bytes(PNG)], model="ollama/phi3:3.8b", timeout=60)
    assert "1 image seen" in (seen.answer or "")


async def test_pieces_of_a_run_come_as_they_are_made(client: Client) -> None:
    pieces: list[Piece] = []
    run = await client.run_tools(QUESTION, tools=[get_weather, read_clock], on_piece=pieces.append, timeout=60)
    assert "".join(piece.text for piece in pieces) == run.answer
    called = {piece.name for piece in pieces if piece.kind == "tool_call" and piece.name}
    assert called == {"get_weather", "read_clock"}


async def test_documented_errors_are_raised(client: Client) -> None:
    with pytest.raises(OverBudget) as over:
        await client.ask(
            "Hello", model="groq/openai/gpt-oss-120b", privacy="public", mode="hybrid", budget=0, allow_cached=False
        )
    assert over.value.status == 402
    with pytest.raises(RequestInvalid):
        await client.ask("Hello", model="ollama/phi3:3.8b", n=2, timeout=60)
    with pytest.raises(AnswerInvalid):
        await client.ask("simulate: refusal", schema=Finding, model="ollama/phi3:3.8b", timeout=60)


async def test_loops_of_one_session_keep_their_order_through_kafka(
    addresses: Addresses, kafka: KafkaClient, tenant: str
) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    runs = await asyncio.gather(
        *(kafka.run_tools(f"{QUESTION} ({number})", tools=[get_weather, read_clock], session="one", timeout=90)
          for number in range(4))
    )  # fmt: skip
    assert all("sunny in Lisbon" in run.answer for run in runs)
    key = f"s:{tenant}/one".encode()
    async with Cluster.at(addresses) as cluster:
        submitted = [found async for found in consume("tasks.submitted", TaskSubmitted, start=began, follow=False,
                                                      keys={key}, cluster=cluster)]  # fmt: skip
        completed = [found async for found in consume("tasks.completed", TaskCompleted, start=began, follow=False,
                                                      keys={key}, cluster=cluster)]  # fmt: skip
    assert len(submitted) == 8
    assert [one.event.task_id for one in completed] == [one.event.task_id for one in submitted]
    assert len({one.record.partition for one in submitted} | {one.record.partition for one in completed}) == 1


def test_a_plain_kafka_client_runs_the_loop(platform: RunningStack) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs/examples/tool-loop/tool_loop.py"), platform.bootstrap_servers,
         platform.registry_url, QUESTION, platform.topic_prefix],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert "sunny in Lisbon" in found["answer"]
    assert "it is noon" in found["answer"]
    assert len(found["rounds"]) == 2
    assert len({one["partition"] for one in found["rounds"]}) == 1
    offsets = [one["offset"] for one in found["rounds"]]
    assert offsets == sorted(offsets)


@pytest.fixture
def environment(platform: RunningStack, tenant_key: str) -> dict[str, str]:
    # The address as `headrace up` prints it.
    return {**os.environ, "HEADRACE_URL": f"{platform.intake_url}/v1", "HEADRACE_API_KEY": tenant_key, "TERM": "xterm"}


def headrace(
    environment: dict[str, str], *arguments: str, told: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HEADRACE, *arguments], input=told, capture_output=True, text=True, timeout=90, env=environment, check=False,
        cwd=cwd,
    )  # fmt: skip


def test_submit_with_images_and_a_schema(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "s.json").write_text(json.dumps(Finding.model_json_schema()))
    two = headrace(environment, "submit", "-i", "a.png", "--image", "a.png", "What is it?", "-m", "ollama/phi3:3.8b",
                   cwd=tmp_path)  # fmt: skip
    assert "2 images seen" in two.stdout, two.stderr
    formed = headrace(environment, "submit", "--schema", "s.json", "Review 'b.py' at line 3", cwd=tmp_path)
    assert Finding.model_validate_json(formed.stdout).line == 3, formed.stderr
    assert "succeeded by" in formed.stderr


def test_chat_takes_lines_from_a_pipe(environment: dict[str, str]) -> None:
    talked = headrace(environment, "chat", "-m", "ollama/phi3:3.8b", told="Name a river\n\nAnd another one\n")
    assert (talked.returncode, talked.stderr) == (0, "")
    assert len(talked.stdout.splitlines()) == 2
    failed = headrace(environment, "chat", "-m", "no/such", told="Hello\nNever asked\n")
    assert failed.returncode == 1
    assert failed.stderr.count("unknown_model") == 1


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, environment: dict[str, str], *command: str) -> None:
        self._fd, theirs = pty.openpty()
        os.set_blocking(self._fd, False)
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
            preexec_fn=lambda: _take_terminal(),
        )  # fmt: skip
        os.close(theirs)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, pattern: str, seconds: float = 30) -> str:
        """What came up to here, once the pattern is in it; it is not looked at again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := re.search(pattern, self._seen):
                said, self._seen = self._seen[: found.end()], self._seen[found.end() :]
                return said
            try:
                self._seen += os.read(self._fd, 65_536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
        raise AssertionError(f"{pattern} did not come: {self._seen[-2_000:]!r}")


def _take_terminal() -> None:
    import fcntl
    import termios

    # Shells start background jobs, such as a whole run of tests, with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_chat_at_a_terminal(environment: dict[str, str]) -> None:
    terminal = Terminal(environment, HEADRACE, "chat", "-m", "ollama/phi3:3.8b")
    try:
        terminal.expect("Ctrl-D ends")
        terminal.expect("> ")
        terminal.type("Explain rivers\r")
        terminal.expect("SIMULATED.*s")
        terminal.expect("> ")
        terminal.type("Explain lakes\r")
        terminal.expect("lakes")
        time.sleep(0.4)
        terminal.type("\x03")
        terminal.expect("cancelled; your message is not part")
        terminal.expect("> ")
        terminal.type("half a line\x03")
        terminal.expect("Ctrl-D ends")
        terminal.type("/reset\r")
        terminal.expect("a new conversation")
        terminal.type("/nothing\r")
        terminal.expect("there is no /nothing")
        terminal.type("And seas?\r")
        terminal.expect("SIMULATED")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
    listed = headrace(environment, "tasks", "list", "--json")
    statuses = sorted(task["status"] for task in json.loads(listed.stdout))
    assert statuses == ["cancelled", "succeeded", "succeeded"]
