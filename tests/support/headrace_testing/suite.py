"""Runs the tests as pytest would, and those that failed once more by themselves; takes pytest's options.

Most tests here run real brokers, databases and processes in real time, several at once. When the machine stands still
for longer than a broker's session or a lease, one of them may fail though nothing is wrong. So a few failures are tried
again, in a session of their own with nothing beside it. What fails again has failed. What passes is named as unstable,
and its first failure stays in the output, because it may be a race in what it tests. Kafka's own build does the same
(``maxTestRetries`` and ``maxTestRetryFailures`` in its build.gradle).

Property tests, simulations and runs of chaos are not repeated: a promise that was broken once is broken.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Sequence

import pytest

MOST_REPEATED = 4
"""With more failures, something is wrong."""

NOT_REPEATED = ("tests/chaos/", "tests/property/", "tests/simulation/")


class Failures:
    """A plugin of pytest that notes what failed, in whichever process: tests, and files that could not be read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test, its preparation or what follows it has ended."""
        if report.failed:
            self.names.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was read."""
        if report.failed:
            self.names.add(report.nodeid)


def worth_repeating(failed: Collection[str], code: int) -> bool:
    """Whether these failures may be the machine's."""
    return (
        code == pytest.ExitCode.TESTS_FAILED
        and 0 < len(failed) <= MOST_REPEATED
        and all("::" in name and not name.startswith(NOT_REPEATED) for name in failed)
    )


def main(options: Sequence[str]) -> int:
    """Returns pytest's exit code: that of the second run, if there was one."""
    failures = Failures()
    code = int(pytest.main([*options], plugins=[failures]))
    failed = sorted(failures.names)
    if not worth_repeating(failed, code):
        return code
    _say(f"{len(failed)} failed, and run once more by themselves")
    # Named one by one, and therefore whatever their marks are.
    command = [sys.executable, "-m", "pytest", "--numprocesses=0", "-m", "", *failed]
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        _say("UNSTABLE, failed among others and passed by themselves:", *failed)
    return code


def _say(*lines: str) -> None:
    sys.stdout.write("\n" + "\n  ".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
