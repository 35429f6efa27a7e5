"""The options, the processes and the peer of `make bench-gateway`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from headrace_gateway_bench.arguments import parse
from headrace_gateway_bench.litellm import LOCK, config, last_line
from headrace_gateway_bench.processes import Parts, machine_cpu_seconds, since
from headrace_gateway_bench.systems import SYSTEMS

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
NEST = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {BURN + "input()"!r}], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
child.communicate()
"""


@contextmanager
def family() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that does nothing, and its child, which computes for a while."""
    with subprocess.Popen(
        [sys.executable, "-c", NEST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            while sum(psutil.Process(child).cpu_times()[:2]) < 0.3:
                pass
            yield parent, child
        finally:
            parent.communicate("\n")


def test_descendants_are_of_the_part_of_the_first_process_above_them() -> None:
    with family() as (parent, child):
        together = Parts({"all": parent.pid})
        apart = Parts({"supervisor": parent.pid, "service": child})

        assert set(together.cpu_seconds()) == {"all"}
        assert together.cpu_seconds()["all"] >= 0.3
        assert apart.cpu_seconds()["service"] >= 0.3
        assert apart.cpu_seconds()["supervisor"] < 0.3
        assert all(memory.rss >= memory.pss > 0 for memory in apart.memory().values())
        assert together.memory()["all"].pss > max(memory.pss for memory in apart.memory().values())


def test_descendants_of_some_names_are_parts_of_their_own() -> None:
    with family() as (parent, child):
        name = psutil.Process(child).name()

        assert set(Parts({"all": parent.pid}, {name[:4]: "engine"}).cpu_seconds()) == {"all", "engine"}
        assert set(Parts({"all": parent.pid}, {"no-such": "engine"}).cpu_seconds()) == {"all"}


def test_a_part_that_has_ended_is_an_error() -> None:
    with family() as (parent, _):
        parts = Parts({"all": parent.pid})

    with pytest.raises(psutil.NoSuchProcess):
        parts.cpu_seconds()


def test_processor_time_since_is_never_negative() -> None:
    assert since({"a": 3.0, "b": 1.0, "new": 2.0}, {"a": 1.0, "b": 1.5}) == {"a": 2.0, "b": 0.0, "new": 2.0}


def test_the_machine_has_taken_at_least_as_much_as_this_process() -> None:
    own = os.times()

    assert machine_cpu_seconds() >= own.user + own.system


def test_without_options_everything_is_measured() -> None:
    plan, output = parse([], "what it is")

    assert plan.systems == tuple(SYSTEMS)
    assert plan.callers == (1, 16, 64, 256)
    assert plan.modes == ("plain", "streamed")
    assert output == Path("bench-results/gateway.json")


def test_options_are_taken() -> None:
    arguments = ["--rounds", "2", "--seconds", "1.5", "--callers", "4,4,8", "--systems", "litellm,headrace"]

    plan, _ = parse(arguments, "what it is")

    assert (plan.rounds, plan.seconds) == (2, 1.5)
    assert plan.callers == (4, 8)
    assert plan.systems == ("litellm", "headrace")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rounds", "0"], "at least 1"),
        (["--seconds", "0"], "more than 0"),
        (["--callers", "1,x"], "invalid"),
        (["--systems", "litellm,other"], "there is no 'other'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments, "what it is")

    assert complaint in capsys.readouterr().err


def test_the_help_names_every_system(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], "what it is")

    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(SYSTEMS) <= set(words)


def test_only_the_proxy_with_a_database_writes_spend() -> None:
    without, with_one = (config("http://127.0.0.1:1", database=database) for database in (False, True))

    assert "general_settings" not in without
    assert with_one["general_settings"]["proxy_batch_write_at"] == 60
    assert without["model_list"] == with_one["model_list"]
    assert without["model_list"][0]["litellm_params"]["api_base"] == "http://127.0.0.1:1/v1"


def test_every_package_of_the_peer_is_pinned_with_digests() -> None:
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]

    pinned = [number for number, line in enumerate(lines) if "==" in line and not line.startswith(" ")]
    assert len(pinned) > 50
    assert all(lines[number + 1].strip().startswith("--hash=sha256:") for number in pinned)


def test_what_went_wrong_is_the_last_line_said() -> None:
    assert last_line("Installing\n\nError: no such host\n \n") == "Error: no such host"
    assert last_line("") == "nothing was said"
