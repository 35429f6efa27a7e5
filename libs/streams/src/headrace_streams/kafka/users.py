"""Gives a cluster the users of an installation: their passwords (SCRAM-SHA-512) and their permissions (ACLs)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, admin
from confluent_kafka.admin import AdminClient
from headrace_contracts.users import PRINCIPAL_PREFIX, principal

from headrace_streams.errors import LeaveGroup, TransientError
from headrace_streams.kafka import errors
from headrace_streams.kafka.properties import Properties, admin_properties
from headrace_streams.rights import Right

_ITERATIONS: Final = 4096
"""Of the password's hash: the fewest that Kafka takes. Random passwords need no more, and each login pays for them."""
_PLAIN: Final = "PLAIN"
_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.05
_ACL_PREFIX: Final = f"User:{PRINCIPAL_PREFIX}"
_LOGGER = logging.getLogger("headrace_streams.kafka")
# confluent-kafka does not export them all for type checkers.
_ADMIN: Any = admin


@dataclass(frozen=True, slots=True)
class UsersChanged:
    """What `apply_users` did: the number of users, of permissions added, and of those taken back."""

    users: int
    added: int
    removed: int

    def __str__(self) -> str:
        return f"{self.users} users, {self.added} permissions added, {self.removed} removed"


async def apply_users(
    properties: Properties, passwords: Mapping[str, str], rights: Mapping[str, Sequence[Right]]
) -> UsersChanged:
    """Make the users of the installation those of `rights`, with these passwords, and no others.

    The administrator's own password is in Kafka's configuration: one that its name has here is removed.

    It can be repeated: what is right already stays. Users and permissions whose names start with ``headrace-`` belong
    to the installation, and those that `rights` does not name are removed; all others are left alone.

    Args:
        properties: Of an administrator's client.
        passwords: Of all users in `rights`.

    Raises:
        TransientError: the cluster does not answer.
        LeaveGroup: it does not accept the administrator.
        ValueError: a user has no password.
    """
    missing = sorted(user for user in rights if not passwords.get(user))
    if missing:
        raise ValueError(f"these users have no password: {', '.join(missing)}")
    client = AdminClient({**admin_properties(properties)}, logger=_LOGGER)
    wanted = {acl for user, granted in rights.items() for right in granted for acl in _acls(user, right)}
    present = await _present(client)
    # Permissions before passwords: a broker that knows a new password then knows the permissions too.
    await _all(client.create_acls(sorted(wanted - present, key=str)) if wanted - present else {}, "permissions")
    stale = present - wanted
    if stale:
        await _all(client.delete_acls([_exactly(acl) for acl in stale]), "stale permissions")
    known = await _users(client)
    ours = set(map(principal, rights))
    gone = [name for name in known if name.startswith(PRINCIPAL_PREFIX) and name not in ours]
    if properties.get("sasl.mechanism") == _PLAIN and (own := str(properties.get("sasl.username"))) in known:
        gone.append(own)
    scram = _ADMIN.ScramMechanism.SCRAM_SHA_512
    changes = [_ADMIN.UserScramCredentialDeletion(name, mechanism) for name in gone for mechanism in known[name]]
    changes += [
        _ADMIN.UserScramCredentialUpsertion(
            principal(user), _ADMIN.ScramCredentialInfo(scram, _ITERATIONS), passwords[user].encode()
        )
        for user in rights
    ]
    # Kafka takes one change of a user at a time.
    await _all(client.alter_user_scram_credentials(changes, request_timeout=_SECONDS), "passwords")
    return UsersChanged(len(rights), len(wanted - present), len(stale))


async def until_accepted(servers: Collection[str], properties: Properties, seconds: float) -> None:
    """Wait until each of these brokers (host:port) accepts a login, as all do once they know the newest users.

    Raises TransientError after `seconds`.
    """
    for server in servers:
        client = AdminClient(
            {**admin_properties(properties), "bootstrap.servers": server, "log_level": 2}, logger=_LOGGER
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            try:
                await asyncio.to_thread(client.list_topics, timeout=1.0)
                break
            except KafkaException as exception:
                if loop.time() > deadline:
                    raise TransientError(
                        f"{server} does not accept a login: {errors.error_of(exception)}"
                    ) from exception
                await asyncio.sleep(_PAUSE_SECONDS)


def _acls(user: str, right: Right) -> Iterable[Any]:
    kinds = {"topic": _ADMIN.ResourceType.TOPIC, "group": _ADMIN.ResourceType.GROUP}
    pattern = _ADMIN.ResourcePatternType
    for operation in right.operations:
        yield _ADMIN.AclBinding(
            kinds[right.kind],
            right.name,
            pattern.PREFIXED if right.is_prefix else pattern.LITERAL,
            f"User:{principal(user)}",
            "*",
            getattr(_ADMIN.AclOperation, _snake(operation)),
            _ADMIN.AclPermissionType.ALLOW,
        )


def _snake(operation: str) -> str:
    """Kafka's name of an operation as the client spells it: DescribeConfigs is DESCRIBE_CONFIGS."""
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in operation).removeprefix("_").upper()


async def _present(client: AdminClient) -> set[Any]:
    """The permissions of all users of ours."""
    every = _ADMIN.AclBindingFilter(
        _ADMIN.ResourceType.ANY, None, _ADMIN.ResourcePatternType.ANY, None, None, _ADMIN.AclOperation.ANY,
        _ADMIN.AclPermissionType.ANY,
    )  # fmt: skip
    found = await _answer(client.describe_acls(every, request_timeout=_SECONDS), "permissions")
    return {acl for acl in found if acl.principal.startswith(_ACL_PREFIX)}


def _exactly(acl: Any) -> Any:
    return _ADMIN.AclBindingFilter(
        acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type
    )


async def _users(client: AdminClient) -> dict[str, list[Any]]:
    """All users that log in with SCRAM, and the mechanisms of their passwords."""
    described = await _answer(client.describe_user_scram_credentials(request_timeout=_SECONDS), "users")
    return {name: [info.mechanism for info in each.scram_credential_infos] for name, each in described.items()}


async def _all(futures: Mapping[Any, Future[Any]], what: str) -> None:
    for future in futures.values():
        await _answer(future, what)


async def _answer(future: Any, what: str) -> Any:
    try:
        return await asyncio.wrap_future(future)
    except KafkaException as exception:
        error = errors.error_of(exception)
        if error.code() == KafkaError.SECURITY_DISABLED:
            raise LeaveGroup(f"{what}: the cluster has no authorizer, so everyone may do everything") from exception
        raise errors.asking(error, what) from exception
