"""What cascades have saved, and how much ensembles agree."""

from __future__ import annotations

import pytest
from headrace import Cascade, Ensemble, Task, TeamMember
from headrace.cli.output import several_models
from headrace.parsing import task_of
from headrace.savings import savings_of

PAID = (TeamMember(part="rung", cost_nanodollars=30), TeamMember(part="self_rating", cost_nanodollars=20))


def cascade(rung: int, *, sufficient: bool = True, saved: int = 100, served: str = "attempt", role: str = "r") -> Task:
    told = Cascade(members=PAID, rungs=3, rung=rung, sufficient=sufficient, saved_nanodollars=saved, reason="sure")
    return Task(id="t", status="succeeded", role=role, served_from=served, cascade=told)


def ensemble(coherence: float | None, goal: float = 0.85, by: str = "vote") -> Task:
    told = Ensemble(members=PAID, answered=2, combined_by=by, coherence=coherence, goal=goal)
    return Task(id="t", status="succeeded", role="e", served_from="attempt", ensemble=told)


def test_shares_and_sums_by_role() -> None:
    report = savings_of(
        [
            cascade(1), cascade(1), cascade(2), cascade(1, sufficient=False, saved=-70), cascade(3, role="a"),
            # Neither a shared answer nor none has saved anything.
            cascade(1, served="cache"), cascade(0), Task(id="t", status="succeeded", served_from="attempt"),
        ]
    )  # fmt: skip
    first, second = report.cascades
    assert (first.role, first.tasks, first.at_first_rung) == ("a", 1, 0)
    assert (second.tasks, second.at_first_rung, second.insufficient) == (4, 2, 1)
    assert (second.share_small, second.spent_nanodollars, second.saved_nanodollars) == (0.5, 200, 230)
    assert report.ensembles == ()


def test_agreement() -> None:
    (found,) = savings_of([ensemble(0.9), ensemble(0.8), ensemble(None, by="only"), ensemble(0.5, by="")]).ensembles
    assert (found.tasks, found.compared, found.at_goal, found.cost_nanodollars) == (3, 2, 1, 150)
    assert found.mean_coherence == pytest.approx(0.85)
    (alone,) = savings_of([ensemble(None, by="only")]).ensembles
    assert alone.mean_coherence is None


def test_a_line_says_it() -> None:
    assert several_models(Task(id="t", status="succeeded")) is None
    assert several_models(cascade(0)) is None
    assert "rung 1 of 3, sure; saved $" in str(several_models(cascade(1)))
    assert "cost more than the last rung by" in str(several_models(cascade(1, saved=-1)))
    assert several_models(ensemble(0.9)) == "ensemble: 2 of 2 answered, chosen by vote; coherence 0.90 (goal 0.85)"


def test_documents_are_read_whatever_is_not_there() -> None:
    bare = task_of({"id": "t", "status": "failed", "cascade": {}, "ensemble": {"members": [{"part": "primary"}]}})
    assert bare.cascade == Cascade()
    assert bare.ensemble == Ensemble(members=(TeamMember(part="primary"),))
    assert task_of({"id": "t", "status": "failed"}).cascade is None
