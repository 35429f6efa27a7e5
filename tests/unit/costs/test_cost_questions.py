"""Questions about costs, and their answers."""

import csv
import io
from dataclasses import replace

import pytest
from headrace_contracts.events import SpendWindows
from headrace_cost_accountant.decide.answers import (
    ReportGroup,
    Sums,
    dollars,
    live_document,
    report_csv,
    report_document,
)
from headrace_cost_accountant.decide.questions import (
    CostQuery,
    CostQueryInvalid,
    TenantForbidden,
    ask,
    said_once,
    whose,
)
from headrace_cost_accountant.decide.windows import LENGTHS, Live, Spend, current_windows, spend_windows, window_start

DAY = 86_400_000


def test_a_question_with_everything() -> None:
    question = ask(
        {"since": "2026-01-02", "until": "2026-01-03T12:00:00+01:00", "group_by": "model, day", "tenant": "acme"},
        "acme",
        is_admin=False,
    )
    assert question == CostQuery("acme", 1_767_312_000_000, 1_767_438_000_000, ("model", "day"))
    assert not question.balances_suffice
    assert replace(question, until=1_767_398_400_000).balances_suffice
    assert not replace(question, until=None, group_by=("role",)).balances_suffice
    assert CostQuery("acme").balances_suffice


def test_times_may_be_milliseconds_and_a_plus_may_have_become_a_blank() -> None:
    assert ask({"since": "86400000"}, "acme", is_admin=False).since == DAY
    assert ask({"since": "1970-01-02T01:00:00 01:00"}, "acme", is_admin=False).since == DAY


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-13-01"}, "until"),
        ({"since": "2026-01-02", "until": "2026-01-02"}, "until"),
        ({"group_by": "subject"}, "group_by"),
        ({"group_by": "day,hour,model,role"}, "group_by"),
        ({"from": "2026-01-02"}, "from"),
    ],
)
def test_what_is_unclear_is_named(query: dict[str, str], parameter: str) -> None:
    with pytest.raises(CostQueryInvalid) as caught:
        ask(query, "acme", is_admin=True)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    ("pairs", "groups"),
    [
        ([("group_by", "model"), ("group_by", "day")], ("model", "day")),
        ([("group_by", "role,user"), ("group_by", "role"), ("group_by", " hour ")], ("role", "user", "hour")),
        ([("group_by", ""), ("group_by", "session")], ("session",)),
    ],
)
def test_groups_may_come_in_several_parameters(pairs: list[tuple[str, str]], groups: tuple[str, ...]) -> None:
    assert ask(said_once(pairs), "acme", is_admin=False).group_by == groups


@pytest.mark.parametrize("name", ["since", "until", "tenant"])
def test_what_can_be_said_once_is_not_said_twice(name: str) -> None:
    with pytest.raises(CostQueryInvalid) as refused:
        said_once([(name, "1"), ("group_by", "day"), (name, "2")])
    assert refused.value.parameter == name


def test_only_admins_see_other_tenants() -> None:
    assert whose(None, "acme", is_admin=False) == "acme"
    assert whose("acme", "acme", is_admin=False) == "acme"
    assert whose("umbra", "acme", is_admin=True) == "umbra"
    assert whose("*", "acme", is_admin=True) is None
    for asked in ("umbra", "*"):
        with pytest.raises(TenantForbidden):
            whose(asked, "acme", is_admin=False)


GROUPS = [
    ReportGroup(
        {"user": "=1+1"},
        False,
        Sums(
            executions=2,
            input_tokens=10,
            output_tokens=20,
            cached_input_tokens=5,
            searches=1,
            cost_nanodollars=1_500_000_001,
            cache_write_5m_tokens=3,
            cache_write_1h_tokens=2,
            internal_value_nanodollars=7,
            unpriced_executions=1,
        ),
    ),
    ReportGroup(
        {"user": "=1+1"},
        True,
        Sums(executions=1, input_tokens=1, output_tokens=2, cost_nanodollars=500_000_000, cache_write_1h_tokens=1),
    ),
]


def test_a_report_adds_up_and_shows_the_simulated_part() -> None:
    document = report_document(CostQuery("acme", group_by=("user",)), GROUPS)
    assert document["total"]["cost_nanodollars"] == 2_000_000_001
    assert document["total"]["cost_usd"] == "2.000000001"
    assert document["total"]["executions"] == 3
    assert document["simulated"]["cost_nanodollars"] == 500_000_000
    assert [group["simulated"] for group in document["groups"]] == [False, True]
    assert document["groups"][0]["unpriced_executions"] == 1
    assert (document["total"]["cached_input_tokens"], document["total"]["searches"]) == (5, 1)
    written = [
        (sums["cache_write_5m_tokens"], sums["cache_write_1h_tokens"])
        for sums in (document["total"], document["simulated"], *document["groups"])
    ]
    assert written == [(3, 3), (0, 1), (3, 2), (0, 1)]


def test_without_grouping_there_is_only_the_total() -> None:
    document = report_document(CostQuery("acme"), [ReportGroup({}, False, Sums(1))])
    assert document["groups"] == []
    assert document["total"]["executions"] == 1


def test_csv_is_whole_and_harmless_in_a_spreadsheet() -> None:
    rows = list(csv.DictReader(io.StringIO(report_csv(CostQuery("acme", group_by=("user",)), GROUPS))))
    assert [row["user"] for row in rows] == ["'=1+1", "'=1+1"]
    assert [row["simulated"] for row in rows] == ["false", "true"]
    assert rows[0]["cost_nanodollars"] == "1500000001"
    assert [(row["cache_write_5m_tokens"], row["cache_write_1h_tokens"]) for row in rows] == [("3", "2"), ("0", "1")]


def test_dollars_are_exact() -> None:
    assert dollars(9_007_199_254_740_993) == "9007199.254740993"
    assert dollars(0) == "0.000000000"


def test_windows_follow_one_another_from_the_epoch_on() -> None:
    assert window_start(DAY + 61_999, 60) == DAY + 60_000
    assert window_start(DAY - 1, 86_400) == 0


def test_an_older_window_does_not_replace_a_newer_one() -> None:
    live = Live({}).with_window(60, 120_000, Spend(2)).with_window(60, 60_000, Spend(9))
    assert live.windows == {60: (120_000, Spend(2))}
    assert live.with_window(60, 120_000, Spend(3)).windows == {60: (120_000, Spend(3))}


def test_windows_that_are_over_show_as_nothing_spent() -> None:
    now = DAY + 3_600_000 + 61_000
    live = Live({})
    for seconds in LENGTHS:
        live = live.with_window(seconds, window_start(now, seconds), Spend(1, 2, 3, 4, 5, 6, 7, 8))
    event = spend_windows("acme", live, now)
    assert [window.cost_nanodollars for window in current_windows(event, now)] == [6, 6, 6]
    shown = live_document("acme", event, now)["windows"]
    assert [(window["cache_write_5m_tokens"], window["cache_write_1h_tokens"]) for window in shown] == [(7, 8)] * 3
    later = current_windows(event, now + 60_000)
    assert [(window.seconds, window.cost_nanodollars) for window in later] == [(60, 0), (3600, 6), (86400, 6)]
    assert later[0].start == window_start(now + 60_000, 60)


def test_a_tenant_that_never_spent_has_empty_windows() -> None:
    document = live_document("acme", None, DAY)
    assert document["updated_at"] is None
    assert [window["cost_usd"] for window in document["windows"]] == ["0.000000000"] * 3
    told = live_document("acme", SpendWindows(tenant="acme", updated_at=DAY), DAY)
    assert told["updated_at"] == "1970-01-02T00:00:00.000Z"


@pytest.mark.parametrize("asked", ["a\0b", "a b", "ä", "x" * 65, "a/b", "\udcff"])
def test_what_no_tenant_can_be_called_is_not_asked_of_the_ledger(asked: str) -> None:
    with pytest.raises(CostQueryInvalid, match="tenant"):
        whose(asked, "acme", is_admin=True)
