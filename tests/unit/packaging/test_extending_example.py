"""The example service in docs/extending.md starts as it stands there, and its description can be used.

Also in a checkout where somebody has followed the page to the letter.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from headrace_devstack.descriptions import described
from headrace_devstack.services import SERVICES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`(services/notifier/[^`]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
OTHERS = [service.name for service in SERVICES if service.name != "notifier"]
TOPICS = Path("libs/contracts/src/headrace_contracts/topics.py")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of the example, and the descriptions of the services that there are."""
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for name in OTHERS:
        description = Path("services") / name / "pyproject.toml"
        (tmp_path / description).parent.mkdir()
        (tmp_path / description).write_text((ROOT / description).read_text())
    return tmp_path


def test_the_table_lists_the_files_of_the_example_and_the_one_that_is_edited() -> None:
    section = PAGE.partition("## Add a service")[2].partition("### ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted([*FILES, str(TOPICS)])
    assert len(listed) == 8


def test_the_example_can_be_described_beside_the_services_that_there_are(checkout: Path) -> None:
    found = {service.name: service for service in described(checkout)}
    assert found.keys() == {*OTHERS, "notifier"}
    assert found["notifier"].scaled_by_lag == ("tasks.completed",)


def test_the_example_loads_and_finds_its_settings_valid(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace_notifier", "--validate"],
        env={**os.environ, "PYTHONPATH": str(checkout / "services/notifier/src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "headrace-notifier: the settings are valid" in done.stdout


def test_the_topic_of_the_example_is_the_one_that_there_is_but_for_its_reader() -> None:
    found = re.search(r"```python\n(TASKS_COMPLETED = .*?)```", PAGE, re.DOTALL)
    assert found is not None
    assert '"notifier", ' in found[1]
    there_is = (ROOT / TOPICS).read_text()
    assert _words(found[1].replace('"notifier", ', "")) in _words(there_is.replace('"notifier", ', ""))


def _words(text: str) -> str:
    return " ".join(text.split())
