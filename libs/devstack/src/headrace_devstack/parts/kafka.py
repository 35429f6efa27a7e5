"""Apache Kafka in KRaft mode on loopback: one broker, or three, each of which is also a controller."""

import base64
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from headrace_devstack.errors import ReadThePartLog
from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.java import java_command, java_environment
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import kafka_serves
from headrace_devstack.ports import LOOPBACK, PortPlan
from headrace_devstack.processes import run_tool

HEAP_MEGABYTES = 256
MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # a task may have 1 MiB; its journal record contains it and the state

LOGGING = """\
rootLogger.level=info
rootLogger.appenderRefs=out
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %-5p %c{1.} %m%n
logger.configs.name=org.apache.kafka.common.config.AbstractConfig
logger.configs.level=warn
"""


def server_properties(ports: PortPlan, data: Path, node: int = 1) -> str:
    """The configuration of one of the brokers."""
    broker, controller = f"{LOOPBACK}:{ports.broker(node)}", f"{LOOPBACK}:{ports.controller(node)}"
    copies, in_sync = str(ports.brokers), "1" if ports.brokers == 1 else str(ports.brokers - 1)
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(node),
        **_quorum(ports),
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        # Every broker has a replica of everything; of three, one may be missing.
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "4",
        # Topics come from the specifications in code; a misspelt name must be an error.
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "message.max.bytes": str(MAX_MESSAGE_BYTES),
        "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES),
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "4",
        # By default half of the heap, for a cleaner that has little to do here.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _quorum(ports: PortPlan) -> dict[str, str]:
    """How the controllers find each other."""
    if ports.brokers == 1:
        return {"controller.quorum.bootstrap.servers": f"{LOOPBACK}:{ports.controller(1)}"}
    # Named here and not in the metadata, the voters may have other ports at the next start.
    voters = ",".join(f"{node}@{LOOPBACK}:{ports.controller(node)}" for node in ports.nodes)
    return {"controller.quorum.voters": voters}


def kafka_parts(folder: DataFolder, ports: PortPlan, jars: Sequence[Path]) -> tuple[Process, ...]:
    """The brokers on the given data folder; formatted on the first start."""
    return tuple(_broker(folder, ports, jars, node) for node in ports.nodes)


def _broker(folder: DataFolder, ports: PortPlan, jars: Sequence[Path], node: int) -> Process:
    name = "kafka" if ports.brokers == 1 else f"kafka-{node}"
    home = folder.part(name)
    data, properties, logging = home / "data", home / "server.properties", home / "log4j2.properties"
    class_path = ":".join(str(jar) for jar in jars)

    def java(main: str, *arguments: str, heap: int = HEAP_MEGABYTES) -> tuple[str, ...]:
        options = (f"-Dlog4j2.configurationFile={logging}", "-cp", class_path)
        return (*java_command(heap_megabytes=heap, tmp=folder.tmp, options=options), main, *arguments)

    async def prepare() -> None:
        properties.write_text(server_properties(ports, data, node))
        logging.write_text(LOGGING)
        if data.exists():
            return
        unfinished = home / "data.new"  # renamed at the end: an interrupted start leaves no partial one
        shutil.rmtree(unfinished, ignore_errors=True)
        for_format = home / "format.properties"
        for_format.write_text(server_properties(ports, unfinished, node))
        quorum = ("--standalone",) if ports.brokers == 1 else ()  # several are those of controller.quorum.voters
        command = java(
            "kafka.tools.StorageTool", "format", *quorum,
            "--cluster-id", folder.kafka_cluster_id(new_cluster_id), "--config", str(for_format), heap=64,
        )  # fmt: skip
        code = await run_tool(command, java_environment(), folder.log(name))
        if code != 0:
            raise ReadThePartLog(
                f"Formatting Kafka's data folder {data} failed with exit code {code}.",
                f"read the end of {folder.log(name)}.",
            )
        unfinished.rename(data)

    return Process(
        name=name,
        command=ProcessCommand(
            argv=java("kafka.Kafka", str(properties)),
            environment=java_environment(),
            log=folder.log(name),
            folder=home,
            stop_seconds=15.0,
        ),
        prepare=prepare,
        check=lambda: kafka_serves(LOOPBACK, ports.broker(node)),
        address=f"{LOOPBACK}:{ports.broker(node)}",
    )


def new_cluster_id() -> str:
    """A random cluster id in Kafka's format: a UUID in 22 characters, not starting with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        continue
    return text
