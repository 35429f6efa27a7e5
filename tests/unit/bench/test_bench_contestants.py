"""Contestants of the benchmarks as processes, and what is reported of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from headrace_bench.children import ContestantFailed, running
from headrace_bench.clients.tally import KeyOrder, NotExactly, check_seen
from headrace_bench.ratios import Spread
from headrace_bench.report import Section, Target
from headrace_bench.rounds import Contestant, alternate

ECHO = """
import json, sys
from headrace_bench.children import serve

def play(request):
    print("a library prints this")
    if request.get("fail"):
        raise RuntimeError("the third record is missing")
    return {"records": request["records"], "seconds": 2.0, "cpu_seconds": 0.5}

serve(play)
"""


def contestant(name: str, **request: object) -> Contestant:
    return Contestant(name=name, command=[sys.executable, "-c", ECHO], request={"records": 100, **request})


async def test_rounds_that_count_follow_one_that_does_not(tmp_path: Path) -> None:
    (outcome,) = await alternate([contestant("one")], 3, tmp_path)

    assert outcome.failure is None
    assert outcome.rates == [50.0, 50.0, 50.0]
    assert outcome.cpu_microseconds == [5000.0] * 3


async def test_a_contestant_that_fails_is_left_out_and_says_why(tmp_path: Path) -> None:
    failed, whole, absent = await alternate(
        [
            contestant("failing", fail=True),
            contestant("whole"),
            Contestant(name="absent", command=(), request={}, missing="not for this Python"),
        ],
        1,
        tmp_path,
    )

    assert failed.failure is not None
    assert "the third record is missing" in failed.failure
    assert failed.answers == []
    assert whole.failure is None
    assert len(whole.answers) == 1
    assert absent.failure == "not for this Python"


async def test_a_contestant_that_hangs_is_ended(tmp_path: Path) -> None:
    async with running("hanging", [sys.executable, "-c", "import sys; sys.stdin.read()"], tmp_path) as child:
        with pytest.raises(ContestantFailed, match="not done after"):
            await child.round({}, 0.2)

    assert child.process.returncode is not None


def test_a_record_handled_twice_or_not_at_all_is_noticed() -> None:
    check_seen(bytearray([1, 1, 1]))
    with pytest.raises(NotExactly, match="1 were not handled, 1 more than once"):
        check_seen(bytearray([1, 0, 2]))


def test_order_and_overlap_within_a_key_are_noticed() -> None:
    order = KeyOrder()
    order.begin(b"a", 1)
    order.begin(b"b", 0)
    with pytest.raises(NotExactly, match="offset 2"):
        order.begin(b"a", 2)
    order.end(b"a")
    with pytest.raises(NotExactly, match="offset 1"):
        order.begin(b"a", 1)


@pytest.mark.parametrize(
    ("at_most", "median", "met"), [(False, 0.9, True), (False, 0.89, False), (True, 0.9, True), (True, 0.91, False)]
)
def test_a_target_is_judged_by_the_median(at_most: bool, median: float, met: bool) -> None:
    target = Target("rate", 0.9, Spread(median, 0.1, 9.0), at_most=at_most)

    assert target.met is met
    assert target.line().endswith(": met" if met else ": not met")


def test_a_table_reads_the_same_as_text_and_as_markdown() -> None:
    section = Section("Title", "what", ("", "rate"), [["one", "1,000"]], [Target("t", 1.0, None)], {})

    assert section.text().splitlines() == ["Title: what", "        rate", "  one  1,000", "  t: not measured"]
    assert "| one | 1,000 |" in section.markdown().splitlines()
