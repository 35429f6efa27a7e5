"""The live tasks that an intake knows of: never more than there are, and none for good."""

from __future__ import annotations

from collections import Counter

from headrace_contracts.topics import TASKS_REPLIES
from headrace_intake.decide.backlogs import asked_for
from headrace_intake.decide.live_tasks import LiveTasksHere
from hypothesis import given
from hypothesis import strategies as st

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("ended"), st.integers(0, 5)),
        st.tuples(st.just("clear"), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 1_000_000, 3_600_000])),
    ),
    max_size=40,
)
TENANTS = ("acme", "globex")
WEIGHTS = {"acme": 3, "globex": 1}
ASKED = tuple(asked_for("m", role, None, None) for role in (None, "a", "b"))


@given(steps=STEPS)
def test_live_tasks_are_what_a_recount_finds(steps: list[tuple[str, int]]) -> None:
    found, model, now = LiveTasksHere(WEIGHTS.__getitem__), dict[bytes, tuple[str, int]](), 1_000
    for what, number in steps:
        key, tenant = b"%d" % number, TENANTS[number % 2]
        match what:
            case "add":
                found.add(key, tenant, ASKED[number % 3], now)
                model[key] = tenant, now
            case "remove":
                found.remove(key)
                model.pop(key, None)
            case "ended":
                found.ended(key, now, served=True)
                model.pop(key, None)
            case "clear":
                found.clear()
                model.clear()
            case _:
                now += number
        assert TASKS_REPLIES.retention_ms is not None
        recount = Counter(name for name, since in model.values() if since > now - TASKS_REPLIES.retention_ms)
        assert [found.of(name, now) for name in TENANTS] == [recount[name] for name in TENANTS]
        assert sum(backlog.live for backlog in found._backlogs.values()) == recount.total()
        weights = sum(WEIGHTS[name] for name in recount)
        for name in recount:
            assert found.has_its_share(name) == (recount[name] * weights >= recount.total() * WEIGHTS[name])
