"""The checks behind the Git hooks."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / ".ci" / "check_commit.py"
CHECKS = runpy.run_path(str(SCRIPT))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("x" * 72, None),
        ("x" * 73, "73 characters"),
        ("Short\n\n" + "y" * 200, None),
        ("\n# a comment of Git\n" + "x" * 73 + "\n", "73 characters"),
        ("# only comments\n", "empty"),
        ("Short\n# ------------------------ >8 ------------------------\ndiff " + "z" * 200, None),
    ],
)
def test_the_subject_has_at_most_72_characters(message: str, problem: str | None, tmp_path: Path) -> None:
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message)

    result = run("message", str(file))

    assert result.returncode == (0 if problem is None else 1)
    assert (problem or "") in result.stderr


def test_a_file_above_the_limit_is_named(tmp_path: Path) -> None:
    limit = CHECKS["LARGEST_FILE_BYTES"]
    (tmp_path / "fits").write_bytes(b"a" * limit)
    (tmp_path / "large").write_bytes(b"a" * (limit + 1))

    result = run("files", *(str(tmp_path / name) for name in ("fits", "large", "deleted")))

    assert result.returncode == 1
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [f"x {tmp_path / 'large'}"]
    assert run("files", str(tmp_path / "fits")).returncode == 0
    assert run().returncode == 2


def test_every_hook_is_local_and_uses_what_setup_installs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())

    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] in {"system", "pygrep"}
        if hook["language"] == "system":
            assert hook["entry"].startswith(".venv/bin/"), hook["id"]
