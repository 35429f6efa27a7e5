"""What `make bench-overload` and `make soak` make of what they have measured."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from headrace_bench.children import Child
from headrace_overload_bench.arguments import parse, parse_soak
from headrace_overload_bench.arrivals import GREEDY, SHARE, Arrival, arrivals, lengths, step_of, without_the_greedy
from headrace_overload_bench.figures import StepFigures, goals, group, in_time, step_figures, window
from headrace_overload_bench.ideal import best_milliseconds
from headrace_overload_bench.measuring import OverloadResults, SystemResults
from headrace_overload_bench.open_load import AskedRequest
from headrace_overload_bench.peers import LITELLM, litellm_config
from headrace_overload_bench.platform import PLATFORM, LoadedNode, Models
from headrace_overload_bench.plots import line_chart
from headrace_overload_bench.readings import restarted
from headrace_overload_bench.slopes import MEBIBYTE, growth, growths, theil_sen, thinned
from headrace_overload_bench.tables import document, growth_table, markdown, plots

DEADLINE = 10.0


def test_the_greedy_one_asks_for_what_the_others_leave() -> None:
    step = step_of(3.0, 20.0, 10)

    assert sum(step.rates) == pytest.approx(60.0)
    assert step.rates[1:] == (20.0 * SHARE,) * 9
    assert without_the_greedy(20.0, 10).rates == (0.0, *step.rates[1:])
    assert without_the_greedy(20.0, 10).times == pytest.approx(0.45)
    with pytest.raises(ValueError, match="9 tenants alone"):
        step_of(0.4, 20.0, 10)


def test_the_others_ask_at_the_same_moments_whatever_the_greedy_one_does() -> None:
    steps = [without_the_greedy(20.0, 10), step_of(1.0, 20.0, 10), step_of(10.0, 20.0, 10)]

    found = [list(arrivals(step.rates, 60.0, 1, 10)) for step in steps]

    others = [[one for one in times if one[1] != 0] for times in found]
    assert others[0] == others[1] == others[2] == found[0]
    assert found[2] == sorted(found[2])
    assert all(0 < at < 60.0 for at, _, _ in found[2])
    assert list(arrivals(steps[0].rates, 60.0, 2, 10)) != found[0]


def test_as_much_arrives_as_was_asked_for() -> None:
    arrived = list(arrivals((100.0, 50.0), 200.0, 7, 10))

    # Five standard deviations of a Poisson process.
    assert abs(len(arrived) - 30_000) < 5 * math.sqrt(30_000)
    assert set(lengths(10)) == {one.tokens for one in arrived} == set(range(5, 16))
    assert sum(one.tokens for one in arrived) / len(arrived) == pytest.approx(10, abs=0.1)


def asked(due: float, took: float, status: int = 200, tenant: int = 1, **more: float) -> AskedRequest:
    return AskedRequest(
        tenant, due, due + took, status, more.get("after"), None if "again" not in more else int(more["again"])
    )


def test_what_ends_outside_the_window_does_not_count() -> None:
    requests = [asked(1.0, 8.9), asked(1.0, 9.0), asked(19.0, 0.9), asked(19.0, 1.0)]

    assert window(requests, 10.0, 20.0) == requests[1:3]


def test_an_answer_counts_if_it_came_before_its_deadline() -> None:
    assert in_time(asked(0.0, 10.0), DEADLINE)
    assert not in_time(asked(0.0, 10.1), DEADLINE)
    assert not in_time(asked(0.0, 1.0, 504), DEADLINE)


def test_latency_is_of_all_that_was_not_refused() -> None:
    requests = [asked(0.0, 1.0), asked(0.0, 3.0), asked(0.0, 10.2, 504), asked(0.0, 0.01, 429), asked(0.0, 0.02, 503)]

    found = group(requests, 2.0, DEADLINE)

    assert (found.asked, found.goodput, found.share) == (2.5, 1.0, 0.4)
    assert found.p50 == pytest.approx(3000.0)
    assert found.p99 == pytest.approx(10_200.0)
    nothing = group([], 2.0, DEADLINE)
    assert (nothing.share, nothing.p50, nothing.p99) == (1.0, None, None)


def step(times: float, requests: list[AskedRequest]) -> StepFigures:
    shape = step_of(times, 2.0, 3) if times else without_the_greedy(2.0, 3)
    return step_figures(shape, requests, 10.0, DEADLINE, {"router": 50 * MEBIBYTE}, 0, 1.5, 800.0)


def test_tenants_are_told_apart() -> None:
    requests = [
        asked(0.0, 1.0, tenant=0), asked(0.0, 9.0, 504, tenant=0),
        asked(0.0, 0.5, tenant=1), asked(0.0, 0.5, tenant=1),
        asked(0.0, 0.5, tenant=2), asked(0.0, 0.1, 429, tenant=2),
        asked(0.0, 11.0, tenant=2), asked(0.0, 0.1, 0, tenant=2),
    ]  # fmt: skip

    found = step(1.0, requests)

    assert found.everyone.goodput == 0.4
    assert found.greedy.share == 0.5
    assert (found.modest.share, found.least, found.most) == (0.5, 0.25, 1.0)
    assert found.statuses == {0: 1, 200: 1, 429: 1, 504: 1}


def test_a_time_to_come_back_came_true_if_the_request_was_taken_on_then() -> None:
    requests = [
        asked(0.0, 0.1, 429, after=2.0), asked(0.0, 0.1, 429, after=2.0, again=429),
        asked(0.0, 0.1, 503, after=1.0, again=200), asked(0.0, 0.1, 503, after=1.0, again=504), asked(0.0, 0.1, 429),
    ]  # fmt: skip

    found = step(3.0, requests)

    assert (found.told, found.tried, found.kept) == (4, 3, 2)


def many(count: int, took: float, tenant: int = 1) -> list[AskedRequest]:
    return [asked(0.0, took, tenant=tenant)] * count


def test_overload_is_compared_with_as_much_as_the_models_can_do() -> None:
    steps = [
        step(0, many(5, 1.0)), step(1.0, many(20, 1.1)),
        step(3.0, [*many(18, 1.3), *many(40, 0.0, 0)]), step(10.0, [*many(10, 1.4), *many(7, 0.5, 0)]),
    ]  # fmt: skip
    steps[2] = replace(steps[2], everyone=replace(steps[2].everyone, goodput=1.8))

    found = {goal.what: goal for goal in goals(steps)}

    assert [(name, goal.met) for name, goal in found.items()] == [
        ("goodput at 3 × as a share of that at 1 ×", True),
        ("goodput at 10 × as a share of that at 1 ×", False),
        ("the others' p99 at 1 × as a multiple of that without the greedy one", True),
        ("the others' p99 at 3 × as a multiple of that without the greedy one", True),
        ("the others' p99 at 10 × as a multiple of that without the greedy one", False),
    ]
    assert found["goodput at 10 × as a share of that at 1 ×"].line() == (
        "goodput at 10 × as a share of that at 1 ×: 0.85, goal ≥ 0.9: not met"
    )


def test_nothing_answered_meets_no_goal() -> None:
    steps = [step(0, many(5, 1.0)), step(1.0, many(20, 1.0)), step(3.0, [asked(0.0, 0.1, 429)])]

    assert [goal.met for goal in goals(steps)] == [False, True, False]
    assert goals(steps[1:2]) == []


def test_tables_plots_and_document_have_every_step() -> None:
    steps = [step(0, many(5, 1.0)), step(1.0, [*many(20, 1.0), asked(0.0, 0.1, 429, after=3.0, again=200)])]
    measured = SystemResults(
        "as it comes",
        steps,
        {"router": [(0.0, MEBIBYTE), (9.0, 2 * MEBIBYTE)]},
        {one.step.name: (1.0, 5.0) for one in steps},
    )
    results = OverloadResults(2.0, {PLATFORM: measured, LITELLM: SystemResults(missing="no network")}, [0.1])

    text = markdown(results)

    lines = text.splitlines()
    assert "**headrace**: as it comes." in lines
    assert "**litellm** was left out: no network" in lines
    assert "| 1 × | 2.1 | 2.0 | 100% | 0.0 | – | – | 95% | 95%–100% | 1,000 | 1,000 | 800 | 1.50 |" in lines
    assert "| 1 × | 1 | 1 | 1 | 1 | 0 |" in lines
    assert "| router | 50 | 50 |" in lines
    drawings = plots(results)
    assert set(drawings) == {"goodput", "latency", "memory-headrace"}
    for name, drawing in drawings.items():
        root = ET.fromstring(drawing)
        assert root.tag.endswith("svg"), name
        assert drawing.count("<polyline") >= 1, name
    told = document(results)["systems"]
    assert [one["step"]["times"] for one in told[PLATFORM]["steps"]] == [pytest.approx(0.1), 1.0]
    assert told[LITELLM]["missing"] == "no network"


def test_modest_tenants_go_first_at_best() -> None:
    greedy = [Arrival(0.01 * number, GREEDY, 10) for number in range(400)]
    modest = [Arrival(1.05, 1, 5), Arrival(1.06, 2, 5)]
    mixed = sorted([*greedy, *modest])

    # One slot, calls of 1 s and of half a second: the greedy one's call from 1 s to 2 s is not broken off.
    assert rounded(best_milliseconds(mixed, 1, 0.1, 10.0)) == [(2.5, 1450), (3.0, 1940)]
    alone = [(1.55, 500), (2.05, 990)]
    assert rounded(best_milliseconds(modest, 1, 0.1, 10.0)) == alone
    # The greedy one's first call ends at 1 s; all that wait have no time left by then.
    assert rounded(best_milliseconds(sorted([*greedy[:50], *modest]), 1, 0.1, 0.1)) == alone
    assert best_milliseconds(greedy, 4, 0.1, 10.0) == []


def rounded(ended: list[tuple[float, float]]) -> list[tuple[float, int]]:
    return [(round(at, 6), round(took)) for at, took in ended]


def test_goals_are_those_of_the_platform() -> None:
    steps = [step(0, many(5, 1.0)), step(1.0, many(20, 1.0)), step(3.0, many(20, 1.0))]
    results = OverloadResults(2.0, {name: SystemResults(steps=steps) for name in (PLATFORM, LITELLM)}, [0.1])

    assert markdown(results).count("goodput at 3 ×") == 1


def test_the_proxy_takes_no_more_than_its_models_answer_in_time() -> None:
    node = LoadedNode("http://127.0.0.1:1", Models(4, 10), 8.0, cast(Child, None), 1)

    (model,) = litellm_config(node, 2, 10.0)["model_list"]

    # 8 answers a second for 10 s, of which seven tenths, in two processes.
    assert model["litellm_params"]["max_parallel_requests"] == 28
    assert model["litellm_params"]["api_base"] == "http://127.0.0.1:1/ollama/bench"


def test_a_chart_places_points_on_its_axes() -> None:
    drawing = line_chart("A & B", "x", "y", {"one": [(0.0, 0.0), (10.0, 100.0)], "none": []})

    root = ET.fromstring(drawing)
    (line,) = (each for each in root if each.tag.endswith("polyline"))
    (left, bottom), (right, top) = (tuple(map(float, spot.split(","))) for spot in line.attrib["points"].split())
    assert left < right
    assert top < bottom
    texts = [each.text for each in root if each.tag.endswith("text")]
    assert {"A & B", "0", "100", "10", "one", "none"} <= set(texts)


def test_a_slope_is_not_turned_by_single_readings() -> None:
    points = [(float(at), 5.0 + 2.0 * at) for at in range(40)]
    for number in (3, 17, 39):
        points[number] = (points[number][0], 1e6)

    assert theil_sen(points) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="different times"):
        theil_sen([(1.0, 2.0), (1.0, 3.0)])


def test_many_readings_are_thinned_to_medians_of_neighbours() -> None:
    assert thinned([(0.0, 1.0), (1.0, 2.0)]) == [(0.0, 1.0), (1.0, 2.0)]
    found = thinned([(float(at), float(at % 3)) for at in range(1200)])
    assert len(found) == 400
    assert found[1] == (4.0, 1.0)
    assert thinned([]) == []


def readings(
    start_mib: float, hourly_mib: float, seconds: int = 1800, noise_mib: float = 3.0
) -> list[tuple[float, float]]:
    noise = random.Random(1)
    return [
        (float(at), MEBIBYTE * (start_mib + hourly_mib * at / 3600 + noise.uniform(-noise_mib, noise_mib)))
        for at in range(0, seconds, 5)
    ]


@pytest.mark.parametrize(
    ("start", "hourly", "grows"),
    [(100, 0, False), (100, 10, False), (100, 22, True), (1000, 40, False), (1000, 60, True), (100, -50, False)],
)
def test_a_part_grows_above_a_bound_that_follows_from_its_size(start: float, hourly: float, grows: bool) -> None:
    found = growth(readings(start, hourly))

    assert found.hourly / MEBIBYTE == pytest.approx(hourly, abs=3)
    assert found.grows is grows


def test_a_part_may_fill_what_its_settings_allow() -> None:
    rising = readings(100, 60)

    assert growth(rising, 140 * MEBIBYTE).grows is False
    assert growth(rising, 120 * MEBIBYTE).grows is True
    table = growth_table(growths({"kafka": rising, "router": rising}, 0, {"kafka": 140 * MEBIBYTE}))
    assert "| 140 | fills what it is allowed |" in table
    assert "| – | **grows** |" in table


def test_the_first_minutes_are_no_growth() -> None:
    settling = [(at, size * (at / 300 if at < 300 else 1)) for at, size in readings(100, 0)]

    found = growths({"router": settling, "gone": settling[:20], "late": settling[-1:]}, 300)

    assert set(found) == {"router"}
    assert not found["router"].grows
    assert growth(settling).first < found["router"].first
    assert "| router | " in growth_table(found)
    assert growth_table(found).endswith("| no growth |")


def test_a_process_with_another_id_was_started_again() -> None:
    assert restarted({}, {"router": 1, "intake": 2}) == 0
    assert restarted({"router": 1, "intake": 2}, {"router": 3, "intake": 2}) == 1


def test_everything_is_measured_unless_told_otherwise() -> None:
    plan, output, plots_folder = parse([], "")

    assert plan.systems == (PLATFORM, LITELLM)
    assert plan.times == (0.5, 1.0, 1.5, 3.0, 10.0)
    assert (plan.tenants, plan.seconds, plan.deadline_seconds) == (10, 60.0, 10.0)
    assert (output, plots_folder) == (Path("bench-results/overload.json"), Path("docs/plots"))
    soak, _, _ = parse_soak(["--minutes", "90"], "")
    assert (soak.minutes, soak.after_minutes, soak.times) == (90.0, 5.0, 0.5)
    assert parse_soak(["--minutes", "6"], "")[0].after_minutes == 2.0


@pytest.mark.parametrize(
    "wrong",
    [["--systems", "headrace,other"], ["--times", "0.2,1"], ["--times", "3,1"], ["--tenants", "1"], ["--seconds", "0"]],
)
def test_options_that_say_nothing_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(wrong, "")
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--minutes", "3", "--after", "3"], ["--minutes", "0"], ["--times", "1.5"]])
def test_a_soak_that_shows_nothing_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_soak(wrong, "")
    assert "argument --" in capsys.readouterr().err
