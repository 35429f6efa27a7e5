"""What `make bench-scale` makes of its windows."""

from __future__ import annotations

import pytest
from headrace_bench.ratios import Spread
from headrace_gateway_bench.figures import MeasuredWindow, Setup
from headrace_scale_bench.tables import document, markdown
from headrace_scale_bench.verdicts import Verdict, by_service, dimension, verdict_of

IDLE = {"1 of each": 0.1, "2 of each": 0.2}


def window(size: str, number: int, answered: int, **cpu: float) -> MeasuredWindow:
    return MeasuredWindow(
        setup=Setup("plain", 16, size),
        round=number,
        seconds=2.0,
        milliseconds=[10.0] * answered,
        first_milliseconds=[5.0] * answered,
        errors={},
        cpu_seconds={part.replace("_", "-"): used for part, used in cpu.items()},
        upstream_cpu_seconds=0.1,
        load_cpu_seconds=0.1,
        others_cpu_seconds=0.0,
        elsewhere_cpu_seconds=1.0,
    )


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Spread(1.15, 0.9, 1.4), Verdict.FLAT),
        (Spread(0.7, 0.6, 0.8), Verdict.FLAT),
        (Spread(1.2, 1.1, 1.4), Verdict.UNCERTAIN),
        (Spread(1.2, 1.16, 1.4), Verdict.GROWS),
    ],
)
def test_a_cost_grows_only_if_no_round_contradicts(ratio: Spread, verdict: Verdict) -> None:
    assert verdict_of(ratio) is verdict


def test_instances_of_a_service_are_added_up() -> None:
    merged = by_service(window("2 of each", 1, 100, router=0.4, router_2=0.6, cloud_worker=0.1, cloud_worker_2=0.2))

    assert merged.cpu_seconds == pytest.approx({"router": 1.0, "cloud-worker": 0.3})


def test_sizes_are_compared_with_the_first_one_within_each_round() -> None:
    # The second round ran on a machine twice as slow.
    windows = [
        window("1 of each", 1, 100, router=0.5, kafka=0.5), window("2 of each", 1, 100, router=1.0, kafka=0.5),
        window("2 of each", 2, 50, router=1.0, kafka=0.5), window("1 of each", 2, 50, router=0.5, kafka=0.5),
    ]  # fmt: skip

    found = dimension("partitions", windows, IDLE)

    assert found is not None
    first, second = found.sizes
    assert (first.name, first.cpu_ratio, first.verdict) == ("1 of each", None, None)
    assert second.cpu_ratio == Spread(1.5, 1.5, 1.5)
    assert second.verdict is found.verdict is Verdict.GROWS
    # 15 ms for a task at 37.5 tasks/s, of which the idle platform takes 0.1 processors.
    assert first.busy_ms == pytest.approx(15.0 - 1000 * 0.1 / 37.5)
    assert second.grown == {"router": Spread(2.0, 2.0, 2.0)}


def test_what_is_too_little_to_matter_is_not_told() -> None:
    found = dimension(
        "agents",
        [window("1 of each", 1, 100, router=0.001, kafka=1.0), window("2 of each", 1, 100, router=0.009, kafka=1.1)],
        IDLE,
    )

    assert found is not None
    assert found.sizes[1].grown == {}


def test_a_dimension_has_no_verdict_without_answers_of_its_first_size() -> None:
    assert dimension("tenants", [], IDLE) is None
    assert dimension("tenants", [window("1 of each", 1, 0, router=0.1)], IDLE) is None


def test_a_size_without_answers_is_left_out() -> None:
    windows = [window("1 of each", 1, 100, router=0.5), window("2 of each", 1, 0, router=0.5)]

    found = dimension("tenants", windows, IDLE)

    assert found is not None
    assert [size.name for size in found.sizes] == ["1 of each"]
    assert found.verdict is Verdict.FLAT


def test_tables_have_the_verdict_and_every_service() -> None:
    windows = [window("1 of each", 1, 100, router=0.5), window("2 of each", 1, 100, router=0.5, router_2=0.5)]
    found = dimension("partitions", windows, IDLE)
    assert found is not None

    text = markdown([found])

    assert text.startswith(
        "**partitions: grows** (at most 2.00 times the processor time for a task, up to 1.15 counts as flat). "
        "Services above it: 2 of each: router 2.00 (2.00–2.00)."
    )
    assert "| 2 of each | 50.0 | 10.0 | 10.0 | 0 | 10.00 | 6.00 | 0.20 | 1.00 (1.00–1.00) | 2.00 (2.00–2.00) |" in text
    assert "| router | 5.00 | 10.00 |" in text
    (told,) = document([found])
    assert (told["dimension"], told["verdict"]) == ("partitions", "grows")
    assert [size["verdict"] for size in told["sizes"]] == [None, "grows"]
