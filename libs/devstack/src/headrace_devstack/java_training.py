"""Runs Kafka and the registry once, so that Java writes its caches: then even the first start is a fast one."""

import tempfile
from pathlib import Path

from headrace_devstack.artifacts import Bundles
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.java_archive import JavaArchive
from headrace_devstack.parts.kafka import kafka_parts
from headrace_devstack.parts.registry import registry_part, registry_program, registry_url
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.supervisor import Supervisor

PROVISION_SECONDS = 60.0


def kafka_archive(bundles: Bundles) -> JavaArchive:
    """Kafka's."""
    return JavaArchive(bundles.java_archives, "kafka", bundles.kafka_jars)


def registry_archive(bundles: Bundles) -> JavaArchive:
    """The registry's."""
    return JavaArchive(bundles.java_archives, "registry", [registry_program(bundles.registry_home)])


async def train(bundles: Bundles) -> bool:
    """Write what is missing, in some seconds; False if nothing was.

    Raises:
        DevstackError: Kafka or the registry cannot run here.
    """
    archives = kafka_archive(bundles), registry_archive(bundles)
    if not any(archive.records for archive in archives):
        return False
    from headrace_devstack.provision import provision_stack

    with (
        tempfile.TemporaryDirectory(prefix="headrace-training-") as temporary,
        open_data_folder(Path(temporary) / "data") as folder,
    ):
        ports = PortPlan(choose_base())
        supervisor = Supervisor(
            [
                *kafka_parts(folder, ports, bundles.kafka_jars, archive=archives[0]),
                registry_part(folder, ports, bundles.registry_home, archive=archives[1]),
            ],
            lambda event: None,
        )
        try:
            await supervisor.start()
            # The work of a first start: what it needs is what the next ones need.
            await provision_stack(
                ports.bootstrap_servers, registry_url(ports), "headrace.", replication=1, seconds=PROVISION_SECONDS
            )
        finally:
            await supervisor.stop()
    return True
