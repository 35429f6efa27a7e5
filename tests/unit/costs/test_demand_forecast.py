"""The forecast of demand: its method, what callers and autoscalers get of it, and what nobody may break it with."""

from __future__ import annotations

import math

import pytest
from headrace_cost_accountant.decide.demand import (
    MOST_MODELS,
    DemandKey,
    ForecastQuery,
    HourOfDemand,
    PastDemand,
    ask_forecast,
    forecast_document,
    soon_busy,
)
from headrace_cost_accountant.decide.forecast import (
    HISTORY_HOURS,
    HOUR_SECONDS,
    HOURS_OF_WEEK,
    LONGEST_AHEAD,
    forecast,
    same_hour_yesterday,
)
from headrace_cost_accountant.decide.questions import CostQueryInvalid
from headrace_devstack.models.forecast_check import METHODS, PATTERNS, errors
from hypothesis import given
from hypothesis import strategies as st

NOW = 3_000 * HOURS_OF_WEEK
"""The first hour of a week, as weeks are counted from the epoch."""
GEMMA, PHI = DemandKey("ollama", "gemma2:2b", "scribe"), DemandKey("ollama", "phi3:3.8b", "reviewer")
CLOUD = DemandKey("groq", "llama-3.3-70b-versatile", "scribe")


def weekly(hour: int) -> float:
    """Two hours each day, and twice as much on the third day of the week."""
    busy = 3_600.0 if hour % 24 in (9, 10) else 0.0
    return busy * (2 if hour % HOURS_OF_WEEK // 24 == 2 else 1)


def past(key: DemandKey = GEMMA, hours: int = 4 * HOURS_OF_WEEK) -> PastDemand:
    found = [HourOfDemand(hour, key, weekly(hour)) for hour in range(NOW - hours, NOW)]
    return PastDemand().with_hours(NOW - hours, NOW, found)


def test_what_repeats_each_week_is_expected_again() -> None:
    history = {hour: weekly(hour) for hour in range(NOW - 5 * HOURS_OF_WEEK, NOW)}
    made = forecast(history, NOW, HOURS_OF_WEEK)
    for hour in range(NOW, NOW + HOURS_OF_WEEK):
        assert made.seconds[hour - NOW] == pytest.approx(weekly(hour), abs=700), hour % HOURS_OF_WEEK
    assert made.busy_calls(NOW + 9) == pytest.approx(1.0, abs=0.2)
    assert made.busy_calls(NOW + 2 * 24 + 9) > 1.6, "the third day is known from others"
    assert (made.busy_calls(NOW - 1), made.busy_calls(NOW + HOURS_OF_WEEK)) == (0.0, 0.0)


def test_after_one_day_the_next_is_expected_to_be_like_it() -> None:
    history = {NOW - 24 + hour: weekly(hour) for hour in range(24)}
    assert forecast(history, NOW, 24).seconds == pytest.approx(same_hour_yesterday(history, NOW, 24))


def test_growth_is_followed_within_bounds() -> None:
    def grown(factor: float) -> float:
        weeks = range(NOW - 4 * HOURS_OF_WEEK, NOW)
        history = {hour: weekly(hour) * (factor if hour >= NOW - HOURS_OF_WEEK else 1.0) for hour in weeks}
        return sum(forecast(history, NOW, HOURS_OF_WEEK).seconds)

    usual = grown(1.0)
    assert 1.2 < grown(1.4) / usual < 1.7
    assert grown(50.0) / usual < 1.5 * 50
    assert 0.3 < grown(0.2) / usual < 0.7


def test_without_history_nothing_is_expected() -> None:
    made = forecast({}, NOW, 24)
    assert (made.seconds, made.history_hours) == ((0.0,) * 24, 0)
    assert forecast({NOW: 5.0, NOW + 1: 5.0}, NOW, 24).history_hours == 0, "what is still to come is no history"


@given(
    st.dictionaries(
        st.integers(NOW - 2 * HISTORY_HOURS, NOW + 50), st.floats(-1e9, 1e12, allow_nan=False), max_size=50
    ),
    st.integers(-5, 3 * LONGEST_AHEAD),
)
def test_any_history_gives_finite_expectations_that_are_not_negative(history: dict[int, float], hours: int) -> None:
    made = forecast(history, NOW, hours)
    assert len(made.seconds) == max(0, min(hours, LONGEST_AHEAD))
    assert all(math.isfinite(seconds) and seconds >= 0 for seconds in made.seconds)
    assert made.history_hours <= HISTORY_HOURS


def test_it_is_better_than_simple_baselines_wherever_hours_differ() -> None:
    found = {(error.pattern, error.method): error.share for error in errors(1)}
    for pattern in PATTERNS:
        shares = [found[pattern.name, method] for method in METHODS]
        if pattern.night < 1.0:
            assert shares[0] == min(shares), pattern
        else:
            assert shares[0] < min(shares) + 0.03, "where all hours are alike the mean is best, and it is near"


def test_hours_are_replaced_and_old_ones_forgotten() -> None:
    found = past()
    again = found.with_hours(NOW - 24, NOW, [HourOfDemand(NOW - 1, PHI, 60.0), HourOfDemand(NOW + 5, PHI, 9e9)])
    document = forecast_document(ForecastQuery(), again, NOW)
    assert [one["model"] for one in document["forecasts"]] == [GEMMA.model, PHI.model]
    much_later = again.with_hours(NOW + HISTORY_HOURS - 1, NOW + HISTORY_HOURS, [])
    assert not much_later.forecasts(ForecastQuery(), NOW + HISTORY_HOURS)


def test_a_caller_gets_it_by_model_or_by_role_that_with_most_first() -> None:
    both = past().with_hours(NOW - 24, NOW - 23, [HourOfDemand(NOW - 24, CLOUD, 7.2)])
    by_model = forecast_document(ForecastQuery(hours=2), both, NOW)
    assert (by_model["by"], by_model["hours"], len(by_model["forecasts"][0]["busy_calls"])) == ("model", 2, 2)
    assert by_model["from"].endswith(":00:00.000Z")
    assert {one["provider"] for one in by_model["forecasts"]} == {"ollama", "groq"}
    by_role = forecast_document(ForecastQuery("role", 12), both, NOW)
    assert [one["role"] for one in by_role["forecasts"]] == ["scribe"]
    assert by_role["forecasts"][0]["busy_calls"][9] == pytest.approx(1.0, abs=0.2)


def test_autoscalers_hear_of_an_hour_before_it_comes() -> None:
    made = past().forecasts(ForecastQuery(hours=26), NOW)
    at = ("local", "ollama", GEMMA.model)

    def busy(minutes: int, lead: float = 900.0) -> float:
        return soon_busy(made, (NOW * HOUR_SECONDS + minutes * 60) * 1000, lead)[at]

    assert busy(8 * 60 + 44) == 0
    assert busy(8 * 60 + 46) == pytest.approx(1.0, abs=0.2)
    assert busy(10 * 60 + 59) == pytest.approx(1.0, abs=0.2), "the present hour counts to its end"
    assert busy(11 * 60) == 0
    assert busy(8 * 60 + 59, lead=0.0) == 0


def test_the_models_in_metrics_are_bounded_and_their_place_is_known() -> None:
    found = [HourOfDemand(NOW - 24, DemandKey("groq", f"m{n}", ""), 60.0 + n) for n in range(3 * MOST_MODELS)]
    made = PastDemand().with_hours(NOW - 24, NOW, found).forecasts(ForecastQuery(), NOW)
    told = soon_busy(made, NOW * HOUR_SECONDS * 1000, 0.0)
    assert len(told) == MOST_MODELS + 1
    assert ("cloud", "groq", "other") in told


@pytest.mark.parametrize(
    ("query", "parameter"),
    [({"by": "tenant"}, "by"), ({"hours": "0"}, "hours"), ({"hours": "169"}, "hours"), ({"hours": "-1"}, "hours"),
     ({"hours": "٢"}, "hours"), ({"hours": "1" * 5000}, "hours"), ({"until": "1"}, "until")],
)  # fmt: skip
def test_a_wrong_question_is_refused_by_its_parameter(query: dict[str, str], parameter: str) -> None:
    with pytest.raises(CostQueryInvalid) as told:
        ask_forecast(query)
    assert told.value.parameter == parameter
    assert ask_forecast({"by": "role", "hours": "168"}) == ForecastQuery("role", 168)
    assert ask_forecast({}) == ForecastQuery("model", 24)
