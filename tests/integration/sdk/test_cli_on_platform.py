"""The command line against the running platform, and against nothing."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headrace.addresses import VARIABLES
from headrace.cli.main import build
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Admin
from headrace_testing.up import RunningStack, clean_environment
from headrace_testing.waiting import eventually
from typer.testing import CliRunner

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

Result = subprocess.CompletedProcess[str]
Headrace = Callable[..., Result]

PROGRAM = [str(Path(sys.executable).with_name("headrace"))]


def _run(*arguments: str, stdin: str = "", cwd: Path | None = None, **variables: str) -> Result:
    return subprocess.run(
        [*PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=200, cwd=cwd, check=False,
        env=clean_environment(**variables),
    )  # fmt: skip


@pytest.fixture
def headrace(platform: RunningStack) -> Headrace:
    """Runs commands on the platform, in this process, which spares each the start of a program."""
    app = build([])

    def run(*arguments: str, stdin: str = "") -> Result:
        given = ["--stack", str(platform.data / "stack.json"), *arguments]
        result = CliRunner().invoke(app, given, input=stdin, env=dict.fromkeys(VARIABLES.values(), ""))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return subprocess.CompletedProcess(given, result.exit_code, result.stdout, result.stderr)

    return run


def _json(result: Result) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_submit_shows_the_answer_and_says_on_stderr_where_it_came_from(platform: RunningStack) -> None:
    result = _run(
        "--stack", str(platform.data / "stack.json"), "submit", "-r", "documentation", "--privacy", "sensitive",
        "Document this", "-f", "-", stdin="def source(): ...",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "source" in result.stdout
    for word in ("succeeded", "ollama/", "SIMULATED", "$0.000000", "why:"):
        assert word in result.stderr


def test_a_task_from_submission_to_explanation(headrace: Headrace) -> None:
    task = _json(headrace("submit", "--json", "Say hello", "--label", "a=b"))
    assert (task["status"], task["simulated"], task["labels"]) == ("succeeded", True, {"a": "b"})
    assert _json(headrace("tasks", "show", "--json", task["id"]))["answer"] == task["answer"]
    why = _json(headrace("tasks", "why", "--journal", "--json", task["id"]))
    assert why["trail"][0]["reason"]
    assert why["journal"][0]["cause"] == "submitted"
    assert "Say hello" not in json.dumps(why)
    cancelled = headrace("tasks", "cancel", task["id"])
    assert (cancelled.returncode, "had already ended" in cancelled.stderr) == (1, True)


def test_without_waiting_only_the_id_is_printed(headrace: Headrace) -> None:
    task_id = headrace("submit", "--no-wait", "Say hello again").stdout.strip()
    assert _json(headrace("tasks", "show", "--json", task_id))["id"] == task_id


def test_tail_decodes_a_topic(headrace: Headrace) -> None:
    task = _json(headrace("submit", "--json", "Something to tail", "--privacy", "sensitive"))
    lines = headrace("tail", "tasks.completed", "--json", "--tenant", "default", "-n", "500").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    found = [record for record in records if record["event"]["task_id"] == task["id"]]
    assert [record["event"]["answer"]["text"] for record in found] == [task["answer"]]
    short = headrace("tail", "tasks.completed", "-n", "1")
    assert short.returncode == 0
    assert len(short.stdout.splitlines()) == 1
    assert headrace("tail", "tasks.complete").returncode == 1


def test_keys_are_shown_once(headrace: Headrace) -> None:
    made = _json(headrace("keys", "create", "cli-test", "--scope", "tasks", "--json"))
    assert made["key"].startswith(f"hr_{made['id']}_")
    listed = headrace("keys", "list", "--tenant", "cli-test")
    assert made["id"] in listed.stdout
    assert made["key"] not in listed.stdout + listed.stderr
    assert made["signing_key"].startswith(f"{made['id']}:")
    assert made["signing_key"] not in listed.stdout + listed.stderr
    assert headrace("keys", "revoke", made["id"]).returncode == 0
    plain = headrace("keys", "create", "cli-test")
    assert plain.stdout.startswith("hr_")
    assert not re.search(r"[0-9a-f]{64}", plain.stdout + plain.stderr), "neither is a terminal here"
    assert headrace("keys", "revoke", plain.stdout.split("_")[1]).returncode == 0


def test_skills_and_preferences_and_costs(headrace: Headrace) -> None:
    assert (
        headrace("skills", "publish", "cli-lesson", "-", "-i", "cli", "--title", "T", stdin="Look twice.").returncode
        == 0
    )
    assert headrace("skills", "show", "cli-lesson").stdout.strip() == "Look twice."
    assert "cli-lesson" in [skill["name"] for skill in _json(headrace("skills", "list", "-i", "cli", "--json"))]
    assert headrace("skills", "revoke", "cli-lesson").returncode == 0
    preferences = _json(headrace("preferences", "set", "--user", "cli", "--mode", "local", "--json"))
    assert preferences["ai_mode"] == "local"
    assert "executions" in _json(headrace("costs", "--json"))["total"]


def test_doctor_finds_nothing_wrong(headrace: Headrace) -> None:
    result = headrace("doctor", "--json")
    findings = json.loads(result.stdout)
    assert [finding for finding in findings if not finding["ok"]] == []
    assert result.returncode == 0
    assert {"kafka", "schema registry", "postgres", "router", "api key"} <= {finding["part"] for finding in findings}
    planted = {finding["part"]: finding["detail"] for finding in findings if finding["part"].startswith("ollama ")}
    assert planted.keys() == {"ollama workstation", "ollama remote-1"}
    assert "gpt-oss:120b-cloud" in planted["ollama workstation"]
    assert "team-helper:latest" in planted["ollama remote-1"]


async def _alter(admin: Admin, topic: str, settings: dict[str, str]) -> None:
    await admin.change_topic_settings({topic: settings})

    async def is_known() -> bool:
        return settings.items() <= (await admin.topic_settings([topic]))[topic].items()

    # The controller has answered, and the broker learns of it a moment later.
    await eventually(is_known)


def test_doctor_names_what_was_altered_until_it_is_mended(platform: RunningStack, headrace: Headrace) -> None:
    """All in one, since each look takes seconds."""
    topic = f"{platform.topic_prefix}skills.feed"
    admin = KafkaLog({"bootstrap.servers": platform.bootstrap_servers}).admin()
    asyncio.run(_alter(admin, topic, {"retention.ms": "60000"}))
    result = headrace("doctor")
    assert result.returncode == 1
    assert "✗ topic skills.feed" in result.stdout
    assert "retention.ms is 60000, not 604800000" in result.stdout
    assert "what to do: headrace topics configure skills.feed" in result.stdout
    findings = {finding["part"]: finding for finding in json.loads(headrace("doctor", "--json").stdout)}
    assert findings["topic skills.feed"]["remedy"] == "headrace topics configure skills.feed"
    assert "10 read all their partitions" in findings["consumer groups"]["detail"]
    configured = headrace("topics", "configure", "skills.feed")
    assert configured.stdout.strip() == f"{topic}: retention.ms 60000 becomes 604800000"
    # A busy broker takes a moment to show what it was told.
    for _ in range(20):
        if (again := headrace("topics", "configure").stdout.strip()) == "nothing to do: all settings are as specified":
            break
    assert again == "nothing to do: all settings are as specified"
    assert "topic skills.feed" not in headrace("doctor").stdout


def test_the_demo_keeps_its_promises(platform: RunningStack, tmp_path: Path) -> None:
    repository = Path(__file__).parents[3]
    result = _run(
        "demo", "--data", str(platform.data), "--folder", str(repository), "--tasks", "45", "--agents", "24",
        "--json", "-", "--answers", str(tmp_path / "answers"),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    document = json.loads(result.stdout)
    assert document["passed"] is True
    assert (document["figures"]["jobs"], len({task["job"] for task in document["tasks"]})) == (45, 45)
    loops = document["figures"]["loops"]
    assert loops["loops"] == loops["jobs"] >= 5
    assert {row["tool"]: row["failed"] for row in loops["by_tool"]} == {"read_file": 0, "search_repository": 0}
    assert len(document["tasks"]) == 45 + loops["tasks"] - loops["loops"] == document["figures"]["tasks"]
    assert {task["way"] for task in document["tasks"] if task["tool_calls"]} == {"HTTP", "OpenAI API", "Kafka"}
    findings = document["figures"]["findings"]
    assert {row["kind"]: row["invalid"] for row in findings} == {"review": 0, "security audit": 0}
    assert all(sum(row["by_severity"].values()) > 0 for row in findings)
    assert {task["way"] for task in document["tasks"]} == {"HTTP", "OpenAI API", "Kafka"}
    assert document["simulated"]
    assert result.stderr.count("simulated: ") >= 8
    assert (tmp_path / "answers" / "review.md").is_file()


def test_without_a_stack_every_command_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["submit", "x"], ["tasks", "list"], ["tail", "tasks.completed"], ["skills", "list"], ["costs"]):
        result = CliRunner().invoke(build([]), arguments, env=dict.fromkeys(VARIABLES.values(), ""))
        assert result.exit_code == 2, arguments
        assert "HEADRACE_" in result.stderr
    assert _run("doctor", cwd=tmp_path).returncode == 3


def test_a_service_that_is_not_there_is_exit_code_3(tmp_path: Path) -> None:
    result = _run("tasks", "list", cwd=tmp_path, HEADRACE_URL="http://127.0.0.1:9", HEADRACE_API_KEY="hr_x")
    assert (result.returncode, "connection refused" in result.stderr) == (3, True)
    assert "Traceback" not in result.stderr


def test_a_key_that_is_not_known_is_exit_code_4(platform: RunningStack, tmp_path: Path) -> None:
    result = _run("tasks", "list", cwd=tmp_path, HEADRACE_URL=platform.intake_url, HEADRACE_API_KEY="hr_x")
    assert result.returncode == 4


def test_help_has_examples() -> None:
    for command in ("submit", "tail", "costs"):
        result = CliRunner().invoke(build([]), [command, "--help"])
        assert result.exit_code == 0
        assert f"headrace {command}" in result.stdout.split("Examples", 1)[1]
