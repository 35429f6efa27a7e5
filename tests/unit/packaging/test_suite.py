"""What `make test` does with tests that fail: a few are run again, and only what passes then counts as passed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from headrace_testing import suite

ONCE = """
from pathlib import Path

def test_fails_{name}():
    mark = Path("{name}.mark")
    before = mark.exists()
    mark.touch()
    assert before
"""
ALWAYS = "def test_fails_always():\n    assert False\n"
NEVER = (
    "from pathlib import Path\n\ndef test_passes():\n    with Path('passes').open('a') as f:\n        f.write('x')\n"
)


def run(folder: Path, files: dict[str, str], *options: str, processes: int = 0) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -m 'not long'\nmarkers = long\n")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    parallel = [f"--numprocesses={processes}", "--dist=loadfile"]
    command = [sys.executable, "-P", suite.__file__, *parallel, "-p", "no:cacheprovider", *options]
    # Without the plugins that it does not need, which take seconds to load.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mark", ["", "import pytest\n\npytestmark = pytest.mark.long\n"], ids=["short", "long"])
def test_what_passes_by_itself_is_unstable_and_the_others_are_not_run_again(tmp_path: Path, mark: str) -> None:
    files = {"tests/e2e/test_a.py": ONCE.format(name="once"), "tests/unit/test_b.py": NEVER}
    done = run(tmp_path, {name: mark + text for name, text in files.items()}, *(("-m", "long") if mark else ()))
    assert done.returncode == 0, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert done.stdout.endswith("passed by themselves:\n  tests/e2e/test_a.py::test_fails_once\n")
    assert (tmp_path / "passes").read_text() == "x"


@pytest.mark.parametrize(
    ("files", "runs"),
    [
        ({"tests/e2e/test_a.py": ALWAYS}, 2),
        ({"tests/e2e/test_a.py": ONCE.format(name="once"), "tests/e2e/test_b.py": ALWAYS}, 2),
        ({"tests/chaos/test_a.py": ONCE.format(name="once")}, 1),
        ({"tests/property/test_a.py": ONCE.format(name="once")}, 1),
        ({"tests/simulation/test_a.py": ONCE.format(name="once"), "tests/e2e/test_b.py": ONCE.format(name="two")}, 1),
        ({f"tests/e2e/test_{n}.py": ONCE.format(name=n) for n in range(suite.MOST_REPEATED + 1)}, 1),
        ({"tests/e2e/test_a.py": ONCE.format(name="once"), "tests/e2e/test_b.py": "import nothing_of_this_name"}, 1),
    ],
    ids=["always", "one of two", "chaos", "property", "simulation", "many", "unreadable"],
)
def test_what_has_failed_stays_failed(tmp_path: Path, files: dict[str, str], runs: int) -> None:
    # In parallel, where pytest's exit code does not tell a file that cannot be read from a failure.
    done = run(tmp_path, files, processes=2 if len(files) == 2 else 0)
    assert done.returncode != 0
    assert done.stdout.count("short test summary") == runs, done.stdout
    assert "UNSTABLE" not in done.stdout
