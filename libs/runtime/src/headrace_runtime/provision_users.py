"""`python -m headrace_runtime.provision_users`: make Kafka's users, their passwords and their permissions.

For a Kafka with SCRAM-SHA-512 and an authorizer whose users no other tool makes. Run it as an administrator, before
`headrace_runtime.provision`; it can run before every start. Users and permissions that start with ``headrace-`` and are
not Headrace's are removed. Exit codes: 0 done, 1 refused or out of time, 2 bad settings.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Final

from headrace_streams.errors import LeaveGroup, TransientError
from headrace_streams.kafka.users import UsersChanged, apply_users
from headrace_streams.rights import USERS, rights
from pydantic import BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from headrace_runtime.main import run_job
from headrace_runtime.settings import ServiceSettings, setting
from headrace_runtime.waiting import wait_until

SHORTEST: Final = 16
"""Characters of a password: with SCRAM, whoever sees a login can try to guess it."""


def parse_passwords(value: object) -> object:
    """Parse `intake=…,router=…`. Raises ValueError, which names users but no passwords."""
    if not isinstance(value, str):
        return value
    found = {}
    for item in filter(None, (item.strip() for item in value.split(","))):
        user, equals, password = item.partition("=")
        if not equals:
            raise ValueError("must be a list like intake=...,router=...")
        if user.strip() not in USERS:
            raise ValueError(f"there is no user {user.strip()[:40]}; the users are {', '.join(USERS)}")
        if len(password.strip()) < SHORTEST:
            raise ValueError(f"the password of {user.strip()} has fewer than {SHORTEST} characters")
        found[user.strip()] = SecretStr(password.strip())
    missing = [user for user in USERS if user not in found]
    if missing:
        raise ValueError(f"no password for {', '.join(missing)}")
    return found


class UsersSettings(ServiceSettings):
    """Settings of this program; of the registry's, none is used."""

    service_name = "runtime"

    user_passwords: Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(parse_passwords)] = setting(
        unit="user=secret, ...", reason="Passwords of all users, without a comma in them: intake=...,router=..."
    )
    provision_seconds: float = setting(120.0, unit="s", reason="How long to wait for Kafka before giving up.", gt=0)


async def users_within(settings: UsersSettings) -> UsersChanged:
    """Make the users, waiting for Kafka for as long as the settings say. Raises TimeoutError, LeaveGroup."""
    passwords = {user: password.get_secret_value() for user, password in settings.user_passwords.items()}
    async with asyncio.timeout(settings.provision_seconds):
        return await wait_until(
            f"Kafka at {settings.bootstrap_servers}",
            lambda: apply_users(settings.kafka_config(), passwords, rights(settings.topic_prefix)),
            not_yet=(TransientError,),
        )


def main() -> int:
    """Returns the exit code."""
    return run_job(
        UsersSettings,
        users_within,
        name="provision-users",
        doing="making users",
        seconds=lambda settings: settings.provision_seconds,
        refused=(LeaveGroup,),
    )


if __name__ == "__main__":
    sys.exit(main())
