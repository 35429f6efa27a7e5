"""`headrace policy` and `headrace switches` on the in-memory twin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from headrace.cli.main import PLUGINS, build
from headrace.connecting import Cluster
from headrace_contracts.topics import TOPICS
from headrace_devstack.policy import publishing
from headrace_devstack.policy.differences import Difference, differences
from headrace_router.adapters.policy_file import load_policy, parse_policy, policy_text
from headrace_router.decide.revisions import Revisions
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_testing.lasting_registry import LastingRegistry
from typer.testing import CliRunner, Result

SHIPPED = policy_text(None)[0]
Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    made, registry = MemoryCluster(), LastingRegistry()
    for name, spec in TOPICS.items():
        made.create_topic("headrace." + name, spec.partitions)
    monkeypatch.setattr(Cluster, "at", lambda _addresses, user: Cluster.over(MemoryLog(made), registry))
    asyncio.run(Cluster.over(MemoryLog(made), registry).codec.prepare(TOPICS.values(), register=True))
    app = build([EntryPoint("policy", "headrace_devstack.policy.cli:app", PLUGINS)])
    environment = {
        "HEADRACE_BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_REGISTRY_URL": "http://127.0.0.1:1", "COLUMNS": "200",
    }  # fmt: skip
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], env=environment)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        file.write_text(text)
        return file

    return write


def tokens(most: int) -> str:
    return SHIPPED.replace("max_output_tokens: 4096", f"max_output_tokens: {most}")


def test_a_policy_is_published_compared_and_taken_back(run: Run, written: Callable[[str], Path]) -> None:
    first, second = written(tokens(100)), written(tokens(200))
    assert "nothing is published" in run("policy", "show").stderr
    assert run("policy", "show").stdout == SHIPPED
    compared = run("policy", "diff", first)
    assert compared.exit_code == 1
    assert compared.stdout.split()[-3:] == ["attempts.max_output_tokens", "4096", "100"]
    assert "revision 1" in run("policy", "publish", first, "--reason", "shorter").stderr
    assert run("policy", "diff", first).exit_code == 0
    assert run("policy", "publish", second).exit_code == 0
    assert run("policy", "show").stdout == tokens(200)
    assert json.loads(run("policy", "show", "--effective").stdout)["attempts"]["max_output_tokens"] == 200
    assert run("policy", "show", "--revision", "1").stdout == tokens(100)
    assert run("policy", "rollback").exit_code == 0
    assert run("policy", "show").stdout == tokens(100)
    told = json.loads(run("policy", "history", "--json").stdout)
    assert [(each["revision"], each["restores"], each["reason"]) for each in told] == [
        (3, 1, ""), (2, None, ""), (1, None, "shorter"),
    ]  # fmt: skip
    assert run("policy", "rollback", "--to", "2").exit_code == 0
    assert run("policy", "show").stdout == tokens(200)
    assert run("policy", "rollback", "--to", "file").exit_code == 0
    assert run("policy", "show").stdout == SHIPPED


def test_nothing_bad_is_published(run: Run, written: Callable[[str], Path]) -> None:
    for text in ("roles: []", SHIPPED.replace("groq/llama", "nobody/llama", 1), ""):
        file = written(text)
        refused = run("policy", "publish", file)
        assert refused.exit_code == 1
        assert run("policy", "check", file).stderr == refused.stderr
    assert json.loads(run("policy", "history", "--json").stdout) == []
    assert run("policy", "publish", written(SHIPPED), "--reason", "x" * 1001).exit_code == 2
    assert run("policy", "publish", written(SHIPPED), "--tenant", "no such").exit_code == 2
    for to in ("7", "yesterday"):
        assert run("policy", "rollback", "--to", to).exit_code in (1, 2)


def test_a_tenant_is_bound_by_what_counts_now(run: Run, written: Callable[[str], Path]) -> None:
    narrow = written("max_output_tokens: 150\n")
    assert run("policy", "publish", narrow, "--tenant", "acme").exit_code == 0
    assert run("policy", "publish", written(tokens(100))).exit_code == 0
    assert "150 is more than the installation's 100" in run("policy", "check", narrow, "--tenant", "acme").stderr
    assert json.loads(run("policy", "show", "--tenant", "acme", "--effective").stdout)["attempts"][
        "max_output_tokens"
    ] == 100  # fmt: skip
    assert run("policy", "show", "--tenant", "other").stdout == ""


def test_of_two_publishers_at_once_one_is_told(
    run: Run, written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = publishing.read_revisions
    looks: list[int] = []

    async def late_look(cluster: Cluster) -> Revisions:
        looks.append(1)
        # The second publisher's first look is from before the first one's record.
        return Revisions() if len(looks) == 3 else await real(cluster)

    monkeypatch.setattr(publishing, "read_revisions", late_look)
    assert run("policy", "publish", written(tokens(100))).exit_code == 0
    lost = run("policy", "publish", written(tokens(200)))
    assert lost.exit_code == 1
    assert "published revision 1 at the same time" in " ".join(lost.stderr.split())
    assert run("policy", "show").stdout == tokens(100)


def test_switches_are_listed_and_end(run: Run) -> None:
    assert run("switches", "off", "provider/groq", "--reason", "it burns", "--for", "2h").exit_code == 0
    assert run("switches", "off", "tenant/acme").exit_code == 0
    listed = json.loads(run("switches", "list", "--json").stdout)
    assert [(each["kind"], each["name"], each["reason"]) for each in listed] == [
        ("provider", "groq", "it burns"), ("tenant", "acme", ""),
    ]  # fmt: skip
    assert listed[0]["until"] - listed[0]["switched_at"] == 7_200_000
    assert "it burns" in run("switches", "list").stdout
    assert run("switches", "on", "provider/groq").exit_code == 0
    assert run("switches", "on", "provider/groq").exit_code == 1
    assert [each["name"] for each in json.loads(run("switches", "list", "--json").stdout)] == ["acme"]


@pytest.mark.parametrize(
    "wrong",
    [["groq"], ["feature/nothing"], ["provider/groq", "--for", "soon"], ["provider/groq", "--for", "99999999999d"],
     ["provider/groq", "--for", "0s"], ["provider/groq", "--reason", "x" * 1001]],
)  # fmt: skip
def test_wrong_switches_are_refused(run: Run, wrong: list[str]) -> None:
    assert run("switches", "off", *wrong).exit_code == 2
    assert json.loads(run("switches", "list", "--json").stdout) == []


def test_differences_name_what_was_added_removed_and_moved() -> None:
    old = load_policy(None)
    first = "  - groq/llama-3.3-70b-versatile\n  - anthropic/claude-haiku-4-5\n"
    assert first in SHIPPED
    new = parse_policy(
        SHIPPED.replace(first, "  - anthropic/claude-haiku-4-5\n  - groq/llama-3.3-70b-versatile\n", 1).replace(
            "  phi3:3.8b: {size_gb: 2.3}\n", "  phi4:14b: {size_gb: 9.1}\n"
        ),
        "new",
    )
    assert set(differences(old, new)) == {
        Difference("models.phi4:14b.size_gb", None, "9.1"),
        Difference("models.phi3:3.8b.size_gb", "2.3", None),
        Difference(
            "ladder",
            "groq/llama-3.3-70b-versatile, anthropic/claude-haiku-4-5",
            "anthropic/claude-haiku-4-5, groq/llama-3.3-70b-versatile",
        ),
    }
    assert differences(old, load_policy(None)) == ()
