"""`headrace replay` over tasks that a real router has decided about, on the in-memory twin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from headrace.cli.main import PLUGINS, build
from headrace.connecting import Cluster
from headrace_contracts.events import NodeStatus, Privacy, SwitchedOff, SwitchKind, TaskSubmitted
from headrace_contracts.ids import new_id
from headrace_contracts.topics import FLEET_STATUS
from headrace_router.adapters.policy_file import load_policy, policy_text
from headrace_streams.publishing import Publication
from headrace_testing.lasting_registry import LastingRegistry
from headrace_testing.router_twin import Twin, now_ms
from headrace_testing.routing import EVERYWHERE, task
from typer.testing import CliRunner, Result

SHIPPED = policy_text(None)[0]
IN_THE_CLOUD = SHIPPED.replace("mode: hybrid  ", "mode: cloud   ")
BUT_OURS = SHIPPED.replace("mode: hybrid  ", "mode: local   ")


@dataclass
class Past:
    """What was recorded, and the command on it."""

    tasks: Sequence[TaskSubmitted]
    command: Callable[..., Result]

    def replay(self, policy: Path, *arguments: str) -> Any:
        result = self.command("replay", "--policy", str(policy), "--json", *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


def submitted(count: int, **fields: Any) -> list[TaskSubmitted]:
    return [
        task(new_id(), f"task {number}", submitted_at=now_ms(), role="general", allow_cached=False, **fields)
        for number in range(count)
    ]


async def _live(registry: LastingRegistry, tasks: Sequence[TaskSubmitted], off: SwitchedOff | None) -> Twin:
    async with Twin(policy=load_policy(None), registry=registry) as twin:
        twin.nodes = {each.node: replace(each, reported_at=now_ms(), valid_for_ms=60_000) for each in EVERYWHERE}
        for each in twin.nodes.values():
            await _report(twin, each)
        router = twin.router("router-1")
        if off is not None:
            router.world.switch_changed(f"{off.kind.value}/{off.name}", off)
        twin.work()
        await twin.submit(*tasks)
        await twin.until_completed(tasks)
    return twin


async def _report(twin: Twin, status: NodeStatus) -> None:
    await twin.publisher.send(
        Publication(
            spec=FLEET_STATUS, event=status, event_id=status.node, key=f"{status.node}/w".encode(), tenant="",
            time_ms=now_ms(),
        )
    )  # fmt: skip


def lived(monkeypatch: pytest.MonkeyPatch, tasks: Sequence[TaskSubmitted], off: SwitchedOff | None = None) -> Past:
    registry = LastingRegistry()
    twin = asyncio.run(_live(registry, tasks, off))
    monkeypatch.setattr(Cluster, "at", lambda _addresses, user: Cluster.over(twin.log, registry))
    app = build([EntryPoint("replay", "headrace_devstack.replay.cli:replay", PLUGINS)])
    environment = {
        "HEADRACE_BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_REGISTRY_URL": "http://127.0.0.1:1", "COLUMNS": "200",
    }  # fmt: skip
    return Past(tasks, lambda *arguments: CliRunner().invoke(app, arguments, env=environment))


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        file.write_text(text)
        return file

    return write


def moves(found: Any) -> list[tuple[str, str, int]]:
    return [(each["before"], each["after"], each["tasks"]) for each in found["moves"]]


def test_the_policy_in_force_moves_nothing_and_makes_the_recorded_decisions_again(
    monkeypatch: pytest.MonkeyPatch, written: Callable[[str], Path]
) -> None:
    past = lived(monkeypatch, submitted(5, privacy=Privacy.PUBLIC))
    found = past.replay(written(SHIPPED))
    assert (found["tasks"], found["moved"]) == (5, 0)
    assert found["reproduced"] == {"compared": 5, "same": 5}
    assert found["privacy"] == {"leave": {}, "stay": {}}


def test_what_leaves_and_what_it_costs_is_told(
    monkeypatch: pytest.MonkeyPatch, written: Callable[[str], Path], tmp_path: Path
) -> None:
    past = lived(monkeypatch, [*submitted(4, privacy=Privacy.PUBLIC), *submitted(2, privacy=Privacy.SENSITIVE)])
    found = past.replay(written(IN_THE_CLOUD))
    assert found["moved"] == 4, "a sensitive task stays, whatever a policy says"
    assert found["privacy"]["leave"] == {"public": 4}
    assert next(each for each in moves(found) if each[1].startswith("groq/"))[2] == 4
    assert found["cost"]["before_nanodollars"] == 0 < found["cost"]["after_nanodollars"]
    page = tmp_path / "report.html"
    text = past.command("replay", "--policy", str(written(IN_THE_CLOUD)), "--html", str(page))
    assert "PRIVACY: text of 4 public tasks would go to a cloud provider" in text.stdout
    assert "<svg" in page.read_text()


def test_what_was_not_available_then_is_not_now(
    monkeypatch: pytest.MonkeyPatch, written: Callable[[str], Path]
) -> None:
    off = SwitchedOff(kind=SwitchKind.PROVIDER, name="ollama", switched_at=now_ms())
    past = lived(monkeypatch, submitted(3, privacy=Privacy.PUBLIC), off)
    found = past.replay(written(SHIPPED))
    assert found["reproduced"] == {"compared": 3, "same": 3}
    (move,) = moves(found)
    assert move[0].startswith("groq/")
    # With own nodes only they would have waited.
    ours = past.replay(written(BUT_OURS))
    assert moves(ours) == [(move[0], "waits", 3)]
    assert (ours["refusals"]["stopped"], ours["privacy"]["stay"]) == ({"waits": 3}, {"public": 3})


def test_models_that_nobody_offers_can_be_assumed(
    monkeypatch: pytest.MonkeyPatch, written: Callable[[str], Path]
) -> None:
    past = lived(monkeypatch, submitted(2, privacy=Privacy.PUBLIC))
    new = written(SHIPPED.replace("ollama/gemma2:2b", "ollama/mistral:7b"))
    assert not any("mistral" in after for _, after, _ in moves(past.replay(new)))
    assert any("mistral" in after for _, after, _ in moves(past.replay(new, "--assume", "ollama/mistral:7b")))


def test_span_and_tenant_choose_the_tasks(monkeypatch: pytest.MonkeyPatch, written: Callable[[str], Path]) -> None:
    past = lived(monkeypatch, [*submitted(2), *submitted(3, tenant="other")])
    same = written(SHIPPED)
    assert past.replay(same, "--tenant", "other")["tasks"] == 3
    assert past.replay(same, "--from", "7d", "--to", "1h")["tasks"] == 0
    wrong = past.command("replay", "--policy", str(same), "--from", "1h", "--to", "2h")
    assert wrong.exit_code == 2
    assert "--from must be before --to" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "yesterday"), "neither a time"),
        (("--assume", "mistral"), "write provider/model"),
    ],
)
def test_what_is_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch, written: Callable[[str], Path], arguments: tuple[str, ...], said: str
) -> None:
    past = lived(monkeypatch, [])
    result = past.command("replay", "--policy", str(written(SHIPPED)), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_policy_that_is_none_is_refused_with_its_line(
    monkeypatch: pytest.MonkeyPatch, written: Callable[[str], Path]
) -> None:
    past = lived(monkeypatch, [])
    result = past.command("replay", "--policy", str(written(SHIPPED + "\nnonsense: 1\n")))
    assert result.exit_code == 1
    assert "nonsense" in result.stderr
