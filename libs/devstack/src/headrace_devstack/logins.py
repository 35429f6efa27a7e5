"""The users of a secure stack: made once, kept in its secrets, and found there by services and commands.

::

    .headrace/secrets/kafka-<user>             password of a Kafka user
    .headrace/secrets/kafka/<user>.properties  how a client logs in as this user, for librdkafka and Java
    .headrace/secrets/registry-<user>          password of a user of the schema registry
    .headrace/secrets/signing-key              signs what is written to Kafka for the tenant of the first API key
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.registry_access import RegistryAccess
from headrace_contracts.users import NO_SERVICES, OPERATOR, PROVISIONER, principal
from headrace_runtime.access import parse_key

from headrace_devstack.errors import CorrectTheSetting
from headrace_devstack.layout import DataFolder, make_password, write_private
from headrace_devstack.services import NAMES

ADMIN: Final = "admin"
"""The brokers' own user, and that of the step that makes all others. No ACL limits it. It logs in under a name that
nobody can guess: while a stack is open, anyone may give any name a password, which would still be there afterwards."""
MECHANISM: Final = "SCRAM-SHA-512"
ADMIN_MECHANISM: Final = "PLAIN"
"""Controllers cannot check SCRAM: its passwords are in the metadata that they themselves serve."""
PROTOCOL: Final = "SASL_PLAINTEXT"
"""Without TLS: the stack listens on loopback alone, where nothing passes that root could not read anyway."""
USERS: Final = (*NAMES, *NO_SERVICES)
"""All of Kafka's users but `ADMIN`."""
REGISTRY_ROLES: Final[Mapping[str, str]] = {PROVISIONER: "sr-developer", OPERATOR: "sr-admin"}
"""Users of the registry, and Apicurio's roles: who registers schemas, and who brings lost ids back. All may read."""


@dataclass(frozen=True, slots=True)
class Logins:
    """All users of a stack, with their passwords.

    Attributes:
        admin: Name and password of `ADMIN`.
        kafka: Passwords of all other Kafka users.
        registry: Passwords of the registry's users.
        files: The properties files of all Kafka users.
        registry_files: The files with the passwords of the registry's users.
    """

    admin: tuple[str, str] = field(repr=False)
    kafka: Mapping[str, str] = field(repr=False)
    registry: Mapping[str, str] = field(repr=False)
    files: Mapping[str, Path]
    registry_files: Mapping[str, Path]

    def properties(self, user: str) -> dict[str, str]:
        """librdkafka properties of a user."""
        if user == ADMIN:
            return _properties(*self.admin, ADMIN_MECHANISM)
        return _properties(principal(user), self.kafka[user], MECHANISM)

    def registry_access(self, user: str) -> RegistryAccess:
        """The login of a user of the registry."""
        return RegistryAccess(username=user, password=self.registry[user])


def open_logins(folder: DataFolder) -> Logins:
    """The users of this data folder; those that have no password yet get one."""
    secrets = folder.secrets / "kafka"
    secrets.mkdir(mode=0o700, exist_ok=True)
    logins = Logins(
        admin=(folder.secret(f"kafka-{ADMIN}-name", _unguessable_name), folder.secret(f"kafka-{ADMIN}")),
        kafka={user: folder.secret(f"kafka-{user}") for user in USERS},
        registry={user: folder.secret(f"registry-{user}") for user in REGISTRY_ROLES},
        files={user: secrets / f"{user}.properties" for user in (ADMIN, *USERS)},
        registry_files={user: folder.secrets / f"registry-{user}" for user in REGISTRY_ROLES},
    )
    for user, file in logins.files.items():
        write_private(file, "".join(f"{name}={value}\n" for name, value in logins.properties(user).items()))
    return logins


def write_signing_key(folder: DataFolder, api_key: str, pepper: str) -> Path:
    """The file with the signing key of this API key; written at each start, since it follows from both.

    Raises:
        CorrectTheSetting: what is in the API key's file is none.
    """
    key = parse_key(api_key)
    if key is None:
        raise CorrectTheSetting(
            f"{folder.api_key_file} does not hold an API key.",
            "remove it: the next start makes another one.",
        )
    write_private(folder.signing_key_file, f"{SigningKey.of(pepper, key.key_id)}\n")
    return folder.signing_key_file


def _unguessable_name() -> str:
    return f"{ADMIN}-{make_password()[:16]}"


def _properties(user_name: str, password: str, mechanism: str) -> dict[str, str]:
    return {
        "security.protocol": PROTOCOL,
        "sasl.mechanism": mechanism,
        "sasl.username": user_name,
        "sasl.password": password,
    }
