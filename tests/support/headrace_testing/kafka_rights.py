"""What each Kafka user may really do: every operation is tried on a secure broker, and compared with `rights`.

Run it as a program for the whole table, on a broker of its own::

    PYTHONPATH=tests/support python -m headrace_testing.kafka_rights
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
    admin,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from headrace_contracts.groups import GROUPS
from headrace_contracts.topics import TOPICS
from headrace_contracts.users import PROVISIONER
from headrace_devstack.provision import provision_stack
from headrace_streams.rights import USERS, Right, allows, rights

from headrace_testing.raw_kafka import append, fetch
from headrace_testing.up import RunningStack, open_folder, running_up

OPERATIONS: Final = ("Read", "Write", "Describe", "DescribeConfigs", "Create", "Alter", "AlterConfigs", "Delete")
"""What is tried with every topic."""
CLUSTER: Final = (
    "list permissions", "grant permissions", "change passwords", "change a broker", "make any topic",
    "begin a transaction", "delete a group",
)  # fmt: skip
"""What is tried with the cluster; no user may do any of it."""
SECONDS: Final = 15.0

_REFUSALS: Final = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
})  # fmt: skip
_TRANSACTIONAL: Final = "headrace.rights"
_QUIET: Final = logging.getLogger("headrace_testing.kafka_rights")
_QUIET.disabled = True  # every refusal is in an answer
_ADMIN: Any = admin
_GROUP_PARTITIONS: Any = ConsumerGroupTopicPartitions
_Topics = Sequence[str]
_Answers = Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Tried:
    """One operation of one user.

    Attributes:
        what: Name of a topic or group; "" for the cluster.
        expected: Whether `rights` allow it.
        allowed: Whether the broker let it happen.
    """

    user: str
    what: str
    operation: str
    expected: bool
    allowed: bool


class KafkaUser:
    """Tries operations as one user.

    Args:
        properties: How it logs in, with bootstrap.servers.
        prefix: Of the installation.
    """

    def __init__(self, user: str, properties: Mapping[str, str], prefix: str) -> None:
        self.user = user
        self._properties: dict[str, Any] = dict(properties)
        self._prefix = prefix
        self._admin = AdminClient(self._properties, logger=_QUIET)

    def try_all(self, granted: Sequence[Right], topics: _Topics) -> list[Tried]:
        """Everything with these topics (which have a record each in partition 0), all groups, and the cluster."""
        found = []
        ways: dict[str, Callable[[_Topics], _Answers]] = {
            "Read": self.read, "Write": self.write, "Describe": self.describe, "DescribeConfigs": self.describe_configs,
            "Create": self.create, "Alter": self.alter, "AlterConfigs": self.alter_configs, "Delete": self.delete,
        }  # fmt: skip
        for operation in OPERATIONS:
            answers = ways[operation](topics)
            found += [
                Tried(self.user, name, operation, allows(granted, "topic", name, operation), answers[name])
                for name in topics
            ]
        groups = [self._prefix + name for name in dict.fromkeys((*GROUPS, *USERS))]
        for operation, asked in (("Read", self.commit(groups, topics)), ("Describe", self.describe_groups(groups))):
            found += [
                Tried(self.user, name, f"group {operation}", allows(granted, "group", name, operation), asked[name])
                for name in groups
            ]
        found += [Tried(self.user, "", name, False, self.cluster(name)) for name in CLUSTER]
        return found

    def read(self, topics: _Topics) -> _Answers:
        """Fetch the record of each, without asking first."""
        return {name: _allows(code) for name, code in fetch(self._properties, topics).items()}

    def write(self, topics: _Topics) -> _Answers:
        """Append a record to each, without asking first."""
        return {name: _allows(code) for name, code in append(self._properties, topics).items()}

    def describe(self, topics: _Topics) -> _Answers:
        return _answers(self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=SECONDS))

    def describe_configs(self, topics: _Topics) -> _Answers:
        found = self._admin.describe_configs(
            [_ADMIN.ConfigResource(_ADMIN.ConfigResource.Type.TOPIC, name) for name in topics], request_timeout=SECONDS
        )
        return {resource.name: _allowed(future) for resource, future in found.items()}

    def create(self, topics: _Topics) -> _Answers:
        """They exist: who may create them is told so."""
        new = [NewTopic(name, 1, 1) for name in topics]
        return _answers(self._admin.create_topics(new, validate_only=True, request_timeout=SECONDS))

    def alter(self, topics: _Topics) -> _Answers:
        more = [NewPartitions(name, 100) for name in topics]
        return _answers(self._admin.create_partitions(more, validate_only=True, request_timeout=SECONDS))

    def alter_configs(self, topics: _Topics) -> _Answers:
        changing = self._admin.incremental_alter_configs(
            [_with_config(_ADMIN.ConfigResource.Type.TOPIC, name, "retention.ms", "3600000") for name in topics],
            validate_only=True, request_timeout=SECONDS,
        )  # fmt: skip
        return {resource.name: _allowed(future) for resource, future in changing.items()}

    def delete(self, topics: _Topics) -> _Answers:
        """In earnest: Kafka has no dry run of it."""
        return _answers(self._admin.delete_topics(list(topics), request_timeout=SECONDS))

    def commit(self, groups: Sequence[str], topics: _Topics) -> _Answers:
        """Commit an offset as a member would. What the group allows, the topic may still refuse."""
        found = {}
        for group in groups:
            offsets = _GROUP_PARTITIONS(group, [TopicPartition(topics[0], 0, 1)])
            asked = self._admin.alter_consumer_group_offsets([offsets], request_timeout=SECONDS)
            (future,) = asked.values()
            try:
                error = future.result(SECONDS).topic_partitions[0].error
            except KafkaException as exception:
                error = exception.args[0]
            found[group] = error is None or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED
        return found

    def describe_groups(self, groups: Sequence[str]) -> _Answers:
        return _answers(self._admin.describe_consumer_groups(list(groups), request_timeout=SECONDS))

    def cluster(self, what: str) -> bool:
        """Try one of `CLUSTER`."""
        acl = _ADMIN.AclBinding(
            _ADMIN.ResourceType.TOPIC, self._prefix, _ADMIN.ResourcePatternType.PREFIXED, f"User:headrace-{self.user}",
            "*", _ADMIN.AclOperation.ALL, _ADMIN.AclPermissionType.ALLOW,
        )  # fmt: skip
        every = _ADMIN.AclBindingFilter(
            _ADMIN.ResourceType.ANY, None, _ADMIN.ResourcePatternType.ANY, None, None, _ADMIN.AclOperation.ANY,
            _ADMIN.AclPermissionType.ANY,
        )  # fmt: skip
        scram = _ADMIN.UserScramCredentialUpsertion(
            "intruder", _ADMIN.ScramCredentialInfo(_ADMIN.ScramMechanism.SCRAM_SHA_512, 4096), b"intruder"
        )
        broker = _with_config(_ADMIN.ConfigResource.Type.BROKER, "1", "log.cleaner.threads", "1")
        ask = self._admin
        options = {"request_timeout": SECONDS}
        ways: dict[str, Callable[[], Any]] = {
            "grant permissions": lambda: ask.create_acls([acl], **options),
            "change passwords": lambda: ask.alter_user_scram_credentials([scram], **options),
            "change a broker": lambda: ask.incremental_alter_configs([broker], **options),
            "make any topic": lambda: ask.create_topics([NewTopic("other.topic", 1, 1)], **options),
            "delete a group": lambda: ask.delete_consumer_groups([f"{self._prefix}router"], **options),
        }
        if what == "begin a transaction":
            return self._begins_transaction()
        if what == "list permissions":  # the client passes a refusal on as an empty list
            return bool(ask.describe_acls(every, **options).result(2 * SECONDS))
        asked = ways[what]()
        futures = [asked] if isinstance(asked, Future) else list(asked.values())
        return all(_allowed(future) for future in futures)

    def _begins_transaction(self) -> bool:
        producer = Producer({**self._properties, "transactional.id": _TRANSACTIONAL}, logger=_QUIET)
        try:
            producer.init_transactions(SECONDS)
        except KafkaException as exception:
            return _done(exception.args[0])
        return True


def _with_config(kind: Any, name: str, key: str, value: str) -> Any:
    entry = _ADMIN.ConfigEntry(key, value, incremental_operation=_ADMIN.AlterConfigOpType.SET)
    return _ADMIN.ConfigResource(kind, name, incremental_configs=[entry])


def _answers(futures: Mapping[str, Future[Any]]) -> _Answers:
    return {name: _allowed(future) for name, future in futures.items()}


def _allowed(future: Future[Any]) -> bool:
    try:
        future.result(2 * SECONDS)
    except KafkaException as exception:
        return _done(exception.args[0])
    return True


def _done(error: KafkaError) -> bool:
    """Whether the broker refused it for another reason than the user's permissions. Raises what is no answer."""
    if error.code() < 0:
        raise KafkaException(error)
    return error.code() not in _REFUSALS


def _allows(code: int) -> bool:
    """The same of an operation that succeeds wherever it is allowed. Raises for any other answer."""
    if code != 0 and code not in _REFUSALS:
        raise KafkaException(KafkaError(code))
    return code == 0


def try_everything(
    properties: Callable[[str], Mapping[str, str]], prefix: str, users: Sequence[str] = USERS, *, threads: int = 4
) -> list[Tried]:
    """All operations of all these users with all topics, which must exist and are not changed by what is allowed.

    Args:
        properties: How a user logs in; asked for "admin" as well, who writes a record to each topic first.
    """
    topics = [prefix + name for name in TOPICS]
    deadline = time.monotonic() + SECONDS
    # Partitions that were just made have no leader for a moment.
    while any(append(properties("admin"), topics).values()):
        assert time.monotonic() < deadline, "the administrator cannot write"
    granted = rights(prefix)

    def one(user: str) -> list[Tried]:
        return KafkaUser(user, properties(user), prefix).try_all(granted[user], topics)

    with ThreadPoolExecutor(threads) as pool:
        return [tried for found in pool.map(one, users) for tried in found]


_LETTERS: Final = dict(zip(OPERATIONS, "rwdcCaAx", strict=True))


def table(tried: Sequence[Tried], prefix: str) -> Iterator[str]:
    """What each user may do, in one line for each topic; what differs from `rights` is marked."""
    users = list(dict.fromkeys(each.user for each in tried))
    rows: dict[str, dict[str, str]] = {}
    for each in tried:
        kind, _, operation = each.operation.rpartition(" ")
        mark = _LETTERS.get(operation, "") if each.what else ""
        name = each.what.removeprefix(prefix) if each.what else each.operation
        row = rows.setdefault(f"group {name}" if kind == "group" else name, {})
        shown = (mark or "y") if each.allowed else "-"
        row[each.user] = row.get(each.user, "") + (shown if each.allowed == each.expected else f"!{shown}!")
    yield "operations: " + ", ".join(f"{letter} {operation}" for operation, letter in _LETTERS.items())
    width = max(map(len, rows)) + 2
    columns = {user: max(len(user), 8) + 2 for user in users}
    yield " " * width + "".join(user.ljust(columns[user]) for user in users)
    for name, row in rows.items():
        yield name.ljust(width) + "".join(row.get(user, "").ljust(columns[user]) for user in users)


@contextlib.contextmanager
def running_secure_kafka() -> Iterator[RunningStack]:
    """Kafka, registry and Postgres with logins, and all topics, for as long as the block lasts."""
    with open_folder("secure") as folder, running_up(folder, "--secure", "--backing-only", "--port-base", "0") as stack:
        asyncio.run(
            provision_stack(
                stack.bootstrap_servers, stack.registry_url, stack.topic_prefix, seconds=60,
                login=stack.kafka_properties(PROVISIONER), registry_access=stack.registry_access(PROVISIONER),
            )
        )  # fmt: skip
        yield stack


def main() -> int:
    with running_secure_kafka() as stack:
        began = time.monotonic()
        tried = try_everything(stack.kafka_properties, stack.topic_prefix)
        for line in table(tried, stack.topic_prefix):
            print(line)
        print(f"{time.monotonic() - began:.1f} s")
        wrong = [each for each in tried if each.allowed != each.expected]
        print(f"\n{len(tried)} operations tried, {sum(each.allowed for each in tried)} allowed, {len(wrong)} wrongly")
        for each in wrong:
            print(f"  {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
