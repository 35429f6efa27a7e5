"""The passwords of Kafka's users, as the program that makes them takes them."""

from __future__ import annotations

import pytest
from headrace_runtime.provision_users import UsersSettings
from headrace_runtime.settings import SettingsInvalid
from headrace_streams.rights import USERS

LONG = "0123456789abcdef"
ALL = {user: f"{LONG}{number}" for number, user in enumerate(USERS)}


def listed(**changed: str | None) -> str:
    given: dict[str, str | None] = {**ALL, **{name.replace("_", "-"): value for name, value in changed.items()}}
    return ",\n ".join(f"{user} = {password}" for user, password in given.items() if password is not None)


def test_every_user_has_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_USER_PASSWORDS", listed())
    settings = UsersSettings.load()
    assert {user: password.get_secret_value() for user, password in settings.user_passwords.items()} == ALL
    assert LONG not in repr(settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "is required"),
        (listed(router=None), "no password for router"),
        (listed(router=None, content_reader=None), "no password for router, content-reader"),
        (listed(intruder=LONG), "there is no user intruder"),
        (listed(agent="0123456789"), "the password of agent has fewer than 16 characters"),
        (listed() + ",0123456789-secret", "must be a list"),
    ],
)
def test_what_is_wrong_is_named_and_no_password_shown(monkeypatch: pytest.MonkeyPatch, given: str, said: str) -> None:
    monkeypatch.setenv("HEADRACE_USER_PASSWORDS", given)
    with pytest.raises(SettingsInvalid, match=said) as refused:
        UsersSettings.load()
    assert "0123456789" not in str(refused.value)
