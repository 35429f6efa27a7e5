"""Further instances of services beside a running ``headrace up``, which starts one of each."""

import sys
from collections.abc import Mapping
from pathlib import Path

from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.ports import LOOPBACK
from headrace_devstack.services import SERVICES

from headrace_testing.services_on_kafka import free_port
from headrace_testing.up import RunningStack, clean_environment


def another_instance(
    folder: Path, stack: RunningStack, name: str, number: int, variables: Mapping[str, str]
) -> Process:
    """One more process of a service, as a part for a `Supervisor`, with the settings of the stack's own.

    Args:
        folder: Where it runs and logs.
        number: Its instance is `<name>-<number>`; the stack's own has number 1.
        variables: What its first instance is told beside the addresses, such as a worker's providers.
    """
    port = free_port()
    instance = f"{name}-{number}"
    environment = clean_environment(
        HEADRACE_BOOTSTRAP_SERVERS=stack.bootstrap_servers,
        HEADRACE_REGISTRY_URL=stack.registry_url,
        HEADRACE_TOPIC_PREFIX=stack.topic_prefix,
        HEADRACE_OPS_PORT=str(port),
        HEADRACE_INSTANCE_ID=instance,
        HEADRACE_STATIC_MEMBER="true",
        HEADRACE_DRAIN_SECONDS="8",
        PYTHONUNBUFFERED="1",
        **({"HEADRACE_KAFKA_PROPERTIES_FILE": str(stack.kafka_users[name])} if stack.secure else {}),
        **_secrets(stack, name),
    )
    return Process(
        name=instance,
        command=ProcessCommand(
            argv=(sys.executable, "-m", f"headrace_{name.replace('-', '_')}"),
            environment={**environment, **variables},
            log=folder / f"{instance}.log",
            folder=folder,
            stop_seconds=20.0,
        ),
        check=lambda: http_ok(f"http://{LOOPBACK}:{port}/readyz"),
        start_seconds=120.0,
    )


def _secrets(stack: RunningStack, name: str) -> dict[str, str]:
    """What the first instance has as well: another one that took what it refuses would undo that."""
    service = next(each for each in SERVICES if each.name == name)
    # Without the secret, intake would pass none of a router's replies on.
    return {
        **({"HEADRACE_KEY_PEPPER": stack.key_pepper} if service.holds_secret else {}),
        **({"HEADRACE_UNSIGNED_SUBMISSIONS": "refuse"} if stack.secure and service.takes_submissions else {}),
    }
