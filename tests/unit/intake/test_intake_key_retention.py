"""Which revoked keys are forgotten, and when."""

from __future__ import annotations

from headrace_contracts.events import AccessKey
from headrace_intake.decide.keys import past_retention
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_760_000_000_000
DAY = 86_400_000


def key(key_id: str, revoked_at: int | None, name: str = "") -> AccessKey:
    return AccessKey(key_id=key_id, tenant="acme", name=name, secret_hash="x", created_at=1, revoked_at=revoked_at)


def test_keys_are_forgotten_when_they_have_been_revoked_for_long_enough() -> None:
    keys = {
        each.key_id: each
        for each in (
            key("valid", None),
            key("today", NOW),
            key("ahead", NOW + DAY),
            key("almost", NOW - 30 * DAY + 1),
            key("just", NOW - 30 * DAY),
            key("long", NOW - 900 * DAY),
            key("stored-again", NOW - 900 * DAY, name="bootstrap"),
            key("of-the-settings", NOW - 900 * DAY, name="ci"),
        )
    }
    assert past_retention(keys, NOW, 30 * DAY, {"of-the-settings"}) == ["just", "long"]


@given(
    revoked=st.lists(st.one_of(st.none(), st.integers(NOW - 90 * DAY, NOW + DAY)), max_size=8),
    sweeps=st.lists(st.integers(0, 40 * DAY), max_size=5),
)
def test_no_sweep_forgets_a_valid_key_and_enough_of_them_forget_all_others(
    revoked: list[int | None], sweeps: list[int]
) -> None:
    keys = {f"k{number}": key(f"k{number}", at) for number, at in enumerate(revoked)}
    valid = {key_id for key_id, each in keys.items() if each.revoked_at is None}
    now = NOW
    for later in [*sweeps, 32 * DAY]:
        now += later
        for key_id in past_retention(keys, now, 30 * DAY, ()):
            forgotten = keys.pop(key_id)
            assert forgotten.revoked_at is not None
            assert forgotten.revoked_at + 30 * DAY <= now
        # A second intake, or one that starts again, finds nothing more to do.
        assert past_retention(keys, now, 30 * DAY, ()) == []
    assert keys.keys() == valid
