"""The figures that the benchmarks report."""

from __future__ import annotations

import pytest
from headrace_bench.ratios import Spread, percentile, ratios, spread


def test_ratios_are_taken_within_each_round() -> None:
    # The second round ran on a machine four times slower: of medians the ratio would be 1.6.
    ours, theirs = [200.0, 50.0, 300.0], [100.0, 25.0, 125.0]

    assert ratios(ours, theirs) == Spread(2.0, 2.0, 2.4)


def test_rounds_must_pair_up() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_spread_is_median_and_extremes() -> None:
    assert spread([9.0, 1.0, 4.0, 6.0]) == Spread(5.0, 1.0, 9.0)


def test_spread_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0), (0.001, 1.0)])
def test_percentile_is_by_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(rank) for rank in range(1, 101)], share) == expected


def test_percentile_of_one_figure_is_that_figure() -> None:
    assert percentile([7.0], 0.5) == 7.0


@pytest.mark.parametrize(("figures", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.1)])
def test_percentile_refuses_what_has_none(figures: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(figures, share)
