"""The page of the fleet: readable without scripts, and nothing that a node says can do more than stand there."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from headrace_contracts.events import ModelStatus, NodeStatus, Place, PlacementAction, PlacementPhase, PlacementStatus
from headrace_intake.decide.fleet_page import fleet_page
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_780_000_000_000


def node(name: str, *models: ModelStatus, **fields: Any) -> NodeStatus:
    found = {"node": name, "place": Place.LOCAL, "provider": "ollama", "healthy": True, "models": models, "slots": 4}
    return NodeStatus(**{**found, "reported_at": NOW - 1_000, **fields})


def placement(phase: PlacementPhase = PlacementPhase.RUNNING, **fields: Any) -> PlacementStatus:
    found = {"request_id": "r1", "model": "llama3:8b", "action": PlacementAction.PULL, "phase": phase}
    return PlacementStatus(**{**found, "updated_at": NOW - 3_000, **fields})


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(page: str) -> _Elements:
    found = _Elements()
    found.feed(page)
    return found


def words(*reports: NodeStatus) -> str:
    return " ".join(" ".join(read(fleet_page(reports, NOW)).texts).split())


def test_it_shows_nodes_their_models_and_what_is_being_pulled() -> None:
    big = node(
        "big", ModelStatus(name="a-model", size_bytes=2_000_000_000), ModelStatus(name="z-model", loaded=True), busy=3,
        site="berlin", tokens_per_second=41.26,
        placements=(placement(completed_bytes=1_200_000_000, total_bytes=4_800_000_000, reason="pulling layers"),),
    )  # fmt: skip
    shown = words(big, node("groq", provider="groq", place=Place.CLOUD))
    assert "2 of 2 nodes and providers accept work, 3 of 8 slots are busy" in shown
    assert "25% of 4.8 GB" in shown
    assert "pulling layers" in shown
    assert "3 s ago" in shown
    assert shown.index("z-model") < shown.index("a-model"), "those in memory first"
    assert "berlin" in shown
    assert "41.3" in shown
    assert shown.index("big") < shown.index("groq, cloud")


def test_what_is_wrong_is_said() -> None:
    silent = node("gone", reported_at=NOW - 10 * 60_000, placements=(placement(),))
    sick = node(
        "sick",
        healthy=False,
        reason="drained: new fans",
        placements=(placement(PlacementPhase.FAILED, request_id="r2", reason="no room"),),
    )
    shown = words(silent, sick, node("forgotten", reported_at=NOW - 2 * 86_400_000))
    assert "0 of 2 nodes" in shown
    assert "silent for 10 min" in shown
    assert "its worker is silent" in shown
    assert "drained: new fans" in shown
    assert "failed: no room" in shown
    assert "forgotten" not in shown
    assert "No worker has reported a node yet." in words()


def test_of_a_node_that_several_workers_report_the_newest_report_counts() -> None:
    done = replace(placement(PlacementPhase.DONE), updated_at=NOW - 1)
    reports = [
        node("a", busy=1, reported_at=NOW - 5_000, placements=(placement(),)),
        node("a", busy=2, placements=(done,)),
    ]
    for ordered in (reports, reports[::-1]):
        shown = words(*ordered)
        assert "2 of 4" in shown
        assert shown.count("llama3:8b") == 1
        assert "done" in shown


def test_long_lists_are_cut_with_a_word() -> None:
    many = node("many", *(ModelStatus(name=f"m{number:03}") for number in range(100)))
    assert "and 60 more" in words(many)
    assert "and 20 more" in words(*(node(f"n{number}") for number in range(520)))


HOSTILE = "<script>alert(1)</script>\"'><img src=//x onerror=y>\x1b[2J"


@pytest.mark.parametrize("where", ["node", "provider", "site", "reason", "model", "placed", "said"])
def test_nothing_that_a_node_says_becomes_part_of_the_page(where: str) -> None:
    status = placement(model=HOSTILE if where == "placed" else "m", reason=HOSTILE if where == "said" else "")
    fields: dict[str, Any] = {where: HOSTILE} if where in ("node", "provider", "site", "reason") else {}
    model = ModelStatus(name=HOSTILE if where == "model" else "m")
    report = replace(node("n", model, placements=(status,), healthy=where != "reason"), **fields)
    page = fleet_page([report], NOW)
    found = read(page)
    assert found.tags.isdisjoint({"script", "img", "link", "iframe", "object", "a"})
    assert found.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "max", "value"}
    assert "<script>alert(1)</script>" in "".join(found.texts)
    assert "\x1b" not in page


@given(st.builds(
    PlacementStatus, request_id=st.text(), model=st.text(), action=st.sampled_from(PlacementAction),
    phase=st.sampled_from(PlacementPhase), completed_bytes=st.none() | st.integers(-(2**63), 2**63 - 1),
    total_bytes=st.none() | st.integers(-(2**63), 2**63 - 1), reason=st.text(), updated_at=st.integers(0, 2 * NOW),
), st.integers(0, 2 * NOW), st.integers(-(2**31), 2**31 - 1), st.floats())  # fmt: skip
def test_any_report_gives_a_page(status: PlacementStatus, at: int, number: int, speed: float) -> None:
    report = node("n", reported_at=at, busy=number, slots=number, tokens_per_second=speed, placements=(status,))
    assert fleet_page([report], NOW).endswith("</html>")
