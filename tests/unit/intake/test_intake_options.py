"""The fields that tasks and chats share: reading them, and refusing what is meant otherwise than it would be read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from headrace_intake.decide.options import (
    HEADER_FIELDS,
    AtTime,
    InSeconds,
    SubmitOptions,
    deadline_at,
    nanodollars,
    parse_time,
    with_headers,
)
from headrace_intake.decide.refusals import Refusal
from multidict import CIMultiDict, MultiDict
from pydantic import ValidationError

NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (30, InSeconds(30.0)),
        (0.5, InSeconds(0.5)),
        ("45", InSeconds(45.0)),
        ("2027-01-15T08:00:00Z", AtTime(1_800_000_000_000)),
        ("2027-01-15T09:00:00.250+01:00", AtTime(1_800_000_000_250)),
        ("2027-01-15t08:00:00z", AtTime(1_800_000_000_000)),
    ],
)
def test_a_deadline_is_seconds_from_now_or_a_time(given: object, expected: object) -> None:
    assert SubmitOptions.model_validate({"deadline": given}).deadline == expected


@pytest.mark.parametrize(
    "given", [0, -1, True, [], "soon", "2027-01-15", "2027-01-15T08:00:00", float("inf"), "nan", 2_592_001]
)
def test_what_is_no_deadline_is_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="deadline"):
        SubmitOptions.model_validate({"deadline": given})


def test_a_deadline_counts_from_the_moment_of_acceptance() -> None:
    assert deadline_at(InSeconds(1.5), NOW) == NOW + 1_500
    assert deadline_at(InSeconds(0.0001), NOW) == NOW + 1
    assert deadline_at(AtTime(NOW + 1), NOW) == NOW + 1
    assert deadline_at(None, NOW) is None


@pytest.mark.parametrize("at", [NOW, NOW - 1, NOW + 31 * 86_400_000])
def test_a_deadline_that_is_past_or_absurdly_far_is_refused(at: int) -> None:
    with pytest.raises(Refusal) as refused:
        deadline_at(AtTime(at), NOW)
    assert refused.value.param == "deadline"


@pytest.mark.parametrize(
    ("given", "nano"),
    [
        (0.05, 50_000_000),
        ("0.05", 50_000_000),
        (1, 1_000_000_000),
        (0, 0),
        (0.1 + 0.2, 300_000_000),
        ("0.0000000019", 1),
    ],
)
def test_a_budget_in_dollars_becomes_whole_nanodollars_and_never_more_than_was_said(given: object, nano: int) -> None:
    budget = SubmitOptions.model_validate({"budget": given}).budget
    assert budget is not None
    assert nanodollars(budget) == nano


@pytest.mark.parametrize("given", [-0.01, "much", float("nan"), 1_000_001])
def test_what_is_no_budget_is_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="budget"):
        SubmitOptions.model_validate({"budget": given})


def test_nanodollars_are_exact_where_floats_are_not() -> None:
    assert nanodollars(Decimal("0.1")) * 3 == nanodollars(Decimal("0.3"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("privacy", "secret"),
        ("priority", "urgent"),
        ("mode", "moon"),
        ("session", ""),
        ("session", "a\nb"),
        ("session", "s" * 201),
        ("subject", "\0"),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", -0.1),
        ("max_tokens", 0),
        ("seed", 2**63),
        ("stop", ["x"] * 17),
        ("stop", ["\ud800"]),
        ("session", "\ud800"),
    ],
)
def test_a_field_out_of_its_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        SubmitOptions.model_validate({field: value})
    assert error.value.errors()[0]["loc"][0] == field


def test_a_misspelt_limit_is_refused_rather_than_lost() -> None:
    with pytest.raises(ValidationError, match="buget"):
        SubmitOptions.model_validate({"buget": 0.01})


def test_headers_fill_in_what_the_body_does_not_say() -> None:
    body: dict[str, Any] = {"privacy": "sensitive", "session": None}
    merged = with_headers(
        body,
        {
            "X-Headrace-Privacy": "sensitive",
            "x-headrace-session": "s1",
            "X-HEADRACE-PREFERRED-PROVIDER": "groq",
            "X-Request-Id": "r",
        },
    )
    assert merged == {"privacy": "sensitive", "session": "s1", "preferred_provider": "groq"}
    assert body == {"privacy": "sensitive", "session": None}


SAID = {
    "privacy": ("sensitive", "public"), "priority": ("batch", "interactive"), "budget": (0.05, "0.5"),
    "deadline": (60, "61"), "session": ("a", "A"), "subject": ("p", "q"), "role": ("tester", "general"),
    "kind": ("x", "y"), "user": ("ann", "bob"), "mode": ("local", "cloud"), "preferred_provider": ("groq", "ollama"),
    "allow_cached": (False, "true"),
}  # fmt: skip


def test_all_headers_are_looked_at() -> None:
    assert SAID.keys() == set(HEADER_FIELDS)


@pytest.mark.parametrize("field", HEADER_FIELDS)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_header_that_contradicts_the_body_is_refused_with_both_places(field: str, swapped: bool) -> None:
    one, other = reversed(SAID[field]) if swapped else SAID[field]
    header = f"X-Headrace-{field.replace('_', '-').title()}"
    with pytest.raises(Refusal) as refused:
        with_headers({field: one}, {header: str(other)})
    assert (refused.value.status, refused.value.kind, refused.value.param) == (400, "contradiction", header)
    assert header in refused.value.detail
    assert f"`{field}` in the body" in refused.value.detail


@pytest.mark.parametrize(
    ("field", "body", "text"),
    [
        ("privacy", "public", "public"),
        ("budget", 0.05, "0.050"),
        ("budget", "1", "1.0"),
        ("deadline", 60, "60.0"),
        ("deadline", "2027-01-15T08:00:00Z", "2027-01-15T09:00:00+01:00"),
        ("allow_cached", True, "true"),
        ("allow_cached", False, "0"),
        ("user", "", ""),
    ],
)
def test_the_same_may_be_said_in_header_body_and_query(field: str, body: object, text: str) -> None:
    headers = {f"X-Headrace-{field}": text}
    assert with_headers({field: body}, headers, {field: text}) == {field: body}


@pytest.mark.parametrize("text", ["secret", "", "PUBLIC", "sensitive, public"])
def test_a_header_that_means_nothing_contradicts_the_body_too(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        with_headers({"privacy": "public"}, {"X-Headrace-Privacy": text})
    assert refused.value.kind == "contradiction"


@pytest.mark.parametrize(
    ("body", "headers", "query", "places"),
    [
        ({"privacy": "sensitive"}, {}, [("privacy", "public")], ("query", "`privacy` in the body")),
        ({}, {"X-Headrace-Mode": "local"}, [("mode", "cloud")], ("query", "the header X-Headrace-Mode")),
        ({"model": "ollama/phi3"}, {}, [("model", "groq/llama")], ("query", "`model` in the body")),
        ({"privacy": "public"}, {}, [("privacy", "public"), ("privacy", "internal")], ("query", "body")),
        ({"max_tokens": 5}, {}, [("max-tokens", "6")], ("query", "`max_tokens` in the body")),
        ({"user": "ann"}, {}, [("X-Headrace-User", "bob")], ("query", "`user` in the body")),
    ],
)
def test_a_query_that_contradicts_the_rest_is_refused(
    body: dict[str, Any], headers: dict[str, str], query: list[tuple[str, str]], places: tuple[str, str]
) -> None:
    with pytest.raises(Refusal) as refused:
        with_headers(body, headers, MultiDict(query))
    assert (refused.value.status, refused.value.kind) == (400, "contradiction")
    assert all(place in refused.value.detail for place in places)


@pytest.mark.parametrize("parameter", ["privacy", "mode", "user", "model", "Preferred-Provider"])
def test_a_field_in_the_query_alone_would_be_lost_and_is_refused(parameter: str) -> None:
    with pytest.raises(Refusal) as refused:
        with_headers({}, {}, {parameter: "sensitive"})
    assert (refused.value.kind, refused.value.param) == ("unsupported-parameter", parameter)


def test_other_parameters_of_the_query_mean_nothing_here() -> None:
    assert with_headers({"privacy": "public"}, {}, {"api-version": "2024-10-21", "x": "y"}) == {"privacy": "public"}


@pytest.mark.parametrize("name", ["labels", "metadata"])
@pytest.mark.parametrize(
    ("label", "value", "field", "said"),
    [
        ("privacy", "sensitive", "privacy", "public"),
        ("X-Headrace-Privacy", "public", "privacy", "sensitive"),
        ("mode", "local", "mode", "cloud"),
        ("preferred-provider", "ollama", "preferred_provider", "groq"),
    ],
)
def test_a_label_that_names_another_level_is_refused(name: str, label: str, value: str, field: str, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        with_headers({name: {label: value}, field: said}, {})
    assert (refused.value.kind, refused.value.param) == ("contradiction", f"{name}.{label}")
    assert f"`{field}` in the body" in refused.value.detail
    with pytest.raises(Refusal):
        with_headers({name: {label: value}}, {f"X-Headrace-{field}": said})


@pytest.mark.parametrize(
    "labels", [{"privacy": "team-a"}, {"privacy": "public"}, {"user": "x", "kind": "y"}, {"level": "sensitive"}, []]
)
def test_other_labels_are_free(labels: Any) -> None:
    body = {"labels": labels, "privacy": "public", "user": "ann"}
    assert with_headers(body, {}) == body


def test_an_unknown_header_of_ours_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        with_headers({}, {"X-Headrace-Privcy": "sensitive"})
    assert refused.value.kind == "unsupported-parameter"
    assert refused.value.param == "X-Headrace-Privcy"


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Headrace-Privacy", "sensitive"), ("X-Headrace-Privacy", "public")],
        [("X-Headrace-Privacy", "public"), ("x-headrace-privacy", "public")],
        [("X-Headrace-Preferred-Provider", "groq"), ("X-Headrace-Preferred_Provider", "openai")],
    ],
)
@pytest.mark.parametrize("body", [{}, {"privacy": "internal", "preferred_provider": "groq"}])
def test_a_header_that_is_there_twice_is_refused(headers: list[tuple[str, str]], body: dict[str, str]) -> None:
    with pytest.raises(Refusal, match="twice") as refused:
        with_headers(body, CIMultiDict(headers))
    assert refused.value.param == headers[1][0]


@pytest.mark.parametrize("text", ["2027-13-01T00:00:00Z", "2027-01-01T25:00:00Z", "now", "", 5])
def test_what_is_no_time_is_refused_in_words(text: object) -> None:
    with pytest.raises(ValueError, match=r"must be|month|hour"):
        parse_time(text)
