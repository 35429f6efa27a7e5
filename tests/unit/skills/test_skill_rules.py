"""What a submission must look like to become a skill."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import Content, SkillAction, SkillSubmitted
from headrace_skill_broadcaster.decide.rules import SkillLimits, flaw_in, flaw_in_interest

GOOD = SkillSubmitted(
    submission_id="s-1",
    tenant="acme",
    name="retry-with-jitter",
    title="Retry without stampedes",
    summary="Spread retries over time.",
    body=plain("Add a random delay."),
    interests=("testing", "back-end", "ci.cd"),
    submitted_at=1,
)


def test_a_good_submission_has_no_flaw() -> None:
    assert flaw_in(GOOD, SkillLimits()) is None


def test_the_digest_may_be_in_capitals_and_must_match() -> None:
    right = hashlib.sha256(b"Add a random delay.").hexdigest()
    assert flaw_in(replace(GOOD, digest=right.upper()), SkillLimits()) is None
    flaw = flaw_in(replace(GOOD, digest="0" * 64), SkillLimits())
    assert flaw is not None
    assert flaw.field == "digest"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"submission_id": ""}, "submission_id"),
        ({"tenant": ""}, "tenant"),
        ({"name": ""}, "name"),
        ({"name": "Retry"}, "name"),
        ({"name": "retry--twice"}, "name"),
        ({"name": "retry/twice"}, "name"),
        ({"name": "retry\n"}, "name"),
        ({"name": "feed"}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"title": "x" * 201}, "title"),
        ({"title": "two\nlines"}, "title"),
        ({"summary": "x" * 2001}, "summary"),
        ({"author": "x" * 201}, "author"),
        ({"body": None}, "body"),
        ({"body": plain(" \n\t")}, "body"),
        ({"body": Content(cipher="none", data=b"x" * 262_145)}, "body"),
        ({"interests": tuple(f"i{n}" for n in range(21))}, "interests"),
        ({"interests": ("Testing",)}, "interests"),
        ({"interests": ("a/b",)}, "interests"),
        ({"interests": ("",)}, "interests"),
        ({"interests": ("x" * 65,)}, "interests"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    flaw = flaw_in(replace(GOOD, **change), SkillLimits())
    assert flaw is not None
    assert flaw.field == field


def test_a_revocation_needs_no_content() -> None:
    revocation = SkillSubmitted(
        submission_id="s-2", tenant="acme", name="retry-with-jitter", action=SkillAction.REVOKE, submitted_at=1
    )
    assert flaw_in(revocation, SkillLimits()) is None


def test_an_interest_is_checked_by_itself_as_well() -> None:
    assert flaw_in_interest("front-end", SkillLimits()) is None
    assert flaw_in_interest("front end", SkillLimits()) is not None


def test_a_flaw_never_repeats_the_content() -> None:
    flaw = flaw_in(replace(GOOD, title="secret\nvalue"), SkillLimits())
    assert "secret" not in str(flaw)
