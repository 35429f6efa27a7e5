"""Apache Kafka: one broker in KRaft mode on loopback."""

import base64
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from headrace_devstack.errors import ReadThePartLog
from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.java import java_command, java_environment
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import kafka_answers
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


def server_properties(ports: PortPlan, data: Path) -> str:
    """The broker's configuration."""
    broker, controller = f"{LOOPBACK}:{ports.kafka}", f"{LOOPBACK}:{ports.kafka_controller}"
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": controller,
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        # A single node has the only replica of everything.
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
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


def kafka_part(folder: DataFolder, ports: PortPlan, jars: Sequence[Path]) -> Process:
    """Kafka on the given data folder; formatted on the first start."""
    home = folder.part("kafka")
    data, properties, logging = home / "data", home / "server.properties", home / "log4j2.properties"
    class_path = ":".join(str(jar) for jar in jars)

    def java(main: str, *arguments: str, heap: int = HEAP_MEGABYTES) -> tuple[str, ...]:
        options = (f"-Dlog4j2.configurationFile={logging}", "-cp", class_path)
        return (*java_command(heap_megabytes=heap, tmp=folder.tmp, options=options), main, *arguments)

    async def prepare() -> None:
        properties.write_text(server_properties(ports, data))
        logging.write_text(LOGGING)
        if data.exists():
            return
        unfinished = home / "data.new"  # renamed at the end: an interrupted start leaves no partial one
        shutil.rmtree(unfinished, ignore_errors=True)
        for_format = home / "format.properties"
        for_format.write_text(server_properties(ports, unfinished))
        command = java(
            "kafka.tools.StorageTool", "format", "--standalone",
            "--cluster-id", new_cluster_id(), "--config", str(for_format), heap=64,
        )  # fmt: skip
        code = await run_tool(command, java_environment(), folder.log("kafka"))
        if code != 0:
            raise ReadThePartLog(
                f"Formatting Kafka's data folder {data} failed with exit code {code}.",
                f"read the end of {folder.log('kafka')}.",
            )
        unfinished.rename(data)

    return Process(
        name="kafka",
        command=ProcessCommand(
            argv=java("kafka.Kafka", str(properties)),
            environment=java_environment(),
            log=folder.log("kafka"),
            folder=home,
            stop_seconds=15.0,
        ),
        prepare=prepare,
        check=lambda: kafka_answers(LOOPBACK, ports.kafka),
        address=f"{LOOPBACK}:{ports.kafka}",
    )


def new_cluster_id() -> str:
    """A random cluster id in Kafka's format: a UUID in 22 characters, not starting with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        continue
    return text
