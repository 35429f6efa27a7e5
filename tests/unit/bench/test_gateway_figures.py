"""What `make bench-gateway` makes of its windows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_bench.ratios import Spread
from headrace_gateway_bench.figures import MeasuredWindow, Setup, busy_elsewhere, order, rows, settled, unanswered
from headrace_gateway_bench.measuring import Measured
from headrace_gateway_bench.processes import Memory
from headrace_gateway_bench.tables import document, markdown


def window(system: str, number: int, answered: int, cpu: float, **more: object) -> MeasuredWindow:
    plain = MeasuredWindow(
        setup=Setup("plain", 16, system),
        round=number,
        seconds=2.0,
        milliseconds=[float(rank) for rank in range(1, answered + 1)],
        first_milliseconds=[0.5] * answered,
        errors={},
        cpu_seconds={"router": cpu, "kafka": cpu / 2},
        upstream_cpu_seconds=0.1,
        load_cpu_seconds=0.2,
        others_cpu_seconds=0.0,
        elsewhere_cpu_seconds=1.0,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def test_ratios_are_taken_within_each_round() -> None:
    # The second round ran on a machine four times slower: of medians the ratio of rates would be 0.4.
    windows = [
        window("ours", 1, 200, 1.0), window("peer", 1, 400, 0.5),
        window("peer", 2, 100, 0.5), window("ours", 2, 50, 1.0),
        window("ours", 3, 160, 1.0), window("peer", 3, 400, 0.5),
    ]  # fmt: skip

    ours, peer = rows(windows, "peer")

    assert ours.rate_ratio == Spread(0.5, 0.4, 0.5)
    assert ours.cpu_ratio == Spread(4.0, 4.0, 5.0)
    assert peer.rate_ratio == Spread(1.0, 1.0, 1.0)


def test_a_row_has_medians_over_the_rounds() -> None:
    (row,) = rows([window("ours", 1, 100, 0.2), window("ours", 2, 200, 0.2), window("ours", 3, 300, 0.3)], "peer")

    assert (row.rounds, row.answered) == (3, 600)
    assert row.rate == Spread(100.0, 50.0, 150.0)
    assert (row.p50, row.p99, row.first_p50) == (100.0, 198.0, 0.5)
    assert row.cpu_ms.median == pytest.approx(1.5)
    assert row.cpu_ms_by_part == pytest.approx({"router": 1.0, "kafka": 0.5})
    assert row.cores == pytest.approx(0.15)
    assert (row.upstream_cpu_ms, row.load_cpu_ms) == pytest.approx((0.5, 1.0))
    assert row.rate_ratio is None
    assert row.cpu_ratio is None


def test_failures_of_all_rounds_are_added_up() -> None:
    windows = [
        window("ours", 1, 10, 1.0, errors={"status 503": 2}),
        window("ours", 2, 10, 1.0, errors={"status 503": 1, "TimeoutError": 1}),
    ]

    (row,) = rows(windows, "peer")

    assert row.errors == {"status 503": 3, "TimeoutError": 1}


def test_a_round_without_answers_has_no_row_and_no_part_in_ratios() -> None:
    none = window("peer", 2, 0, 1.0)
    windows = [window("ours", 1, 10, 1.0), window("peer", 1, 20, 1.0), window("ours", 2, 10, 1.0), none]

    (row,) = rows(windows, "peer")

    assert none.cpu_ms is None
    assert row.setup.system == "ours"
    assert row.rate_ratio == Spread(0.5, 0.5, 0.5)
    assert unanswered(windows) == [none.setup]
    told = markdown([row], unanswered(windows), {"ours": Measured(), "peer": Measured()}, "peer")
    assert "Left out, since in a whole window nothing was answered: peer, plain, 16 callers." in told.splitlines()


def test_loads_and_modes_have_rows_of_their_own() -> None:
    windows = [
        window("ours", 1, 10, 1.0),
        window("ours", 1, 10, 1.0, setup=Setup("streamed", 16, "ours")),
        window("ours", 1, 10, 1.0, setup=Setup("plain", 64, "ours")),
    ]

    assert [row.setup for row in rows(windows, "peer")] == [one.setup for one in windows]


def test_the_order_turns() -> None:
    assert [order(["a", "b", "c"], turn) for turn in (0, 1, 5)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


@pytest.mark.parametrize(
    ("rates", "at_rest"),
    [([], False), ([0.2], False), ([0.2, 0.2], True), ([1.0, 0.2, 0.2], True), ([0.2, 0.2, 0.3], False)],
)
def test_a_system_is_at_rest_when_it_takes_as_little_as_idle_twice_in_a_row(rates: list[float], at_rest: bool) -> None:
    assert settled(rates, 0.1) is at_rest


def test_other_work_on_the_machine_is_told() -> None:
    windows = [window("ours", 1, 1, 1.0), window("ours", 2, 1, 1.0, elsewhere_cpu_seconds=3.0)]

    assert busy_elsewhere(windows) == Spread(1.0, 0.5, 1.5)


def test_tables_name_every_system_even_one_that_cannot_run() -> None:
    windows = [window("ours", 1, 200, 1.0), window("peer", 1, 400, 0.5, errors={"status 500": 7})]
    systems = {
        "ours": Measured(
            settings="its defaults", memory={"router": Memory(2 << 20, 1 << 20)}, idle_cpu={"router": 0.1}
        ),
        "peer": Measured(settings="its own"),
        "third": Measured(missing="its database is not here"),
    }

    text = markdown(rows(windows, "peer"), [], systems, "peer")

    lines = text.splitlines()
    assert "| 16 | ours | 100.0 | 100.0 | 198.0 | 0 | 7.50 | 0.75 | 0.50 (0.50–0.50) | 4.00 (4.00–4.00) |" in lines
    assert "| 16 | peer | 200.0 | 200.0 | 396.0 | 7 | 1.88 | 0.38 | – | – |" in lines
    assert "| router | 5.00 |" in lines
    assert "| ours | router | 2 | 1 | 0.100 |" in lines
    assert "- third: left out. its database is not here" in lines
    widths = {line.count(" | ") for line in lines if line.startswith("| 16")}
    assert widths == {9}


def test_windows_too_short_for_their_callers_are_marked() -> None:
    short, enough = window("ours", 1, 31, 1.0), window("ours", 1, 32, 1.0, setup=Setup("streamed", 16, "ours"))
    found = rows([short, enough], "peer")

    assert [row.too_short for row in found] == [True, False]
    text = markdown(found, [], {"ours": Measured()}, "peer")
    assert text.startswith("† ")
    assert "| 16 | ours | 15.5† |" in text
    assert "| 16 | ours | 16.0 |" in text


def test_the_document_has_no_times_of_single_requests() -> None:
    windows = [window("ours", 1, 200, 1.0)]

    told = document(rows(windows, "peer"), windows, {"ours": Measured()})

    assert told["windows"][0]["answered"] == 200
    assert told["windows"][0]["system"] == "ours"
    assert "milliseconds" not in told["windows"][0]
