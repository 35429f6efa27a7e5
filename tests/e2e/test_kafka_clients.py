"""How many clients of Kafka each service has: each costs about five threads, connections, a login, and fetches."""

import contextlib
import sys

import pytest
from headrace_testing.kafka_clients import clients_of
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

ALLOWED = {
    # A producer, a member of a group, the followers' shared one, and one for questions.
    "intake": 4,
    # And a second member, so that each worker has partitions of both lanes, and a third one, for batches at providers.
    "cloud-worker": 6,
    # And a third one, for requests to place models: long ones, of another group.
    "local-worker": 6,
    "skill-broadcaster": 4,
    # And a reader of usage that lets the broker gather it, which tables must not wait for; besides these, Faust's own,
    # which is not librdkafka's.
    "cost-accountant": 5,
    # And a second producer, so that trouble of other topics does not reach the journal, and a member of the group that
    # forgets stored answers when the history does.
    "router": 6,
}
"""At rest. More than that needs a reason, here and in docs/performance.md."""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted by their names in /proc")
async def test_no_service_has_more_clients_of_kafka_than_it_needs(platform: RunningStack) -> None:
    assert ALLOWED.keys() == platform.ops_urls.keys()
    counted: dict[str, int] = {}

    async def at_rest() -> bool:
        # Partitions are taken over, and callers resume, with clients that are closed afterwards.
        counted.update({name: clients_of(platform.pid(name)) for name in ALLOWED})
        return counted == ALLOWED

    with contextlib.suppress(TimeoutError):
        await eventually(at_rest, 60)
    assert counted == ALLOWED
