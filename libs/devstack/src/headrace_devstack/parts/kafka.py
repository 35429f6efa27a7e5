"""Apache Kafka in KRaft mode on loopback: one broker, or three, each of which is also a controller."""

import base64
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from headrace_contracts.limits import MOST_REQUEST_BYTES, record_bytes

from headrace_devstack.errors import ReadThePartLog
from headrace_devstack.layout import DataFolder, write_private
from headrace_devstack.logins import ADMIN_MECHANISM, MECHANISM, PROTOCOL
from headrace_devstack.parts.java import QUICK, java_command, java_environment
from headrace_devstack.parts.java_archive import RECORDING_SECONDS, JavaArchive
from headrace_devstack.parts.part import Process, ProcessCommand, nothing_to_finish
from headrace_devstack.parts.probes import kafka_serves
from headrace_devstack.parts.sizes import ROOMY, Sizes
from headrace_devstack.ports import LOOPBACK, PortPlan
from headrace_devstack.processes import run_tool

Login = tuple[str, str]
"""Name and password."""
FORMAT_HEAP_MEGABYTES = 64
# For topics without a limit of their own; those of Headrace have one.
MAX_MESSAGE_BYTES = record_bytes(MOST_REQUEST_BYTES)

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


def server_properties(
    ports: PortPlan, data: Path, node: int = 1, admin: Login | None = None, sizes: Sizes = ROOMY
) -> str:
    """The configuration of one of the brokers. With the login of its own user, it requires everyone to log in."""
    broker, controller = f"{LOOPBACK}:{ports.broker(node)}", f"{LOOPBACK}:{ports.controller(node)}"
    copies, in_sync = str(ports.brokers), "1" if ports.brokers == 1 else str(ports.brokers - 1)
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(node),
        **_quorum(ports),
        "listeners": f"BROKER://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"BROKER://{broker},CONTROLLER://{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "BROKER",
        **(_OPEN if admin is None else _secure(admin)),
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
        **sizes.broker,
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


_OPEN = {"listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"}


def _secure(admin: Login) -> dict[str, str]:
    """Everyone logs in, brokers and controllers at each other included, and may do what ACLs allow."""
    name, password = admin
    login = (
        f"org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="{name}" password="{password}" user_{name}="{password}";'
    )
    plain = f"{ADMIN_MECHANISM.lower()}.sasl.jaas.config"
    return {
        "listener.security.protocol.map": f"BROKER:{PROTOCOL},CONTROLLER:{PROTOCOL}",
        "sasl.enabled.mechanisms": f"{ADMIN_MECHANISM},{MECHANISM}",
        "sasl.mechanism.inter.broker.protocol": ADMIN_MECHANISM,
        "sasl.mechanism.controller.protocol": ADMIN_MECHANISM,
        "listener.name.controller.sasl.enabled.mechanisms": ADMIN_MECHANISM,
        f"listener.name.broker.{plain}": login,
        f"listener.name.controller.{plain}": login,
        f"listener.name.broker.{MECHANISM.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"User:{name}",
    }


def _quorum(ports: PortPlan) -> dict[str, str]:
    """How the controllers find each other."""
    if ports.brokers == 1:
        return {"controller.quorum.bootstrap.servers": f"{LOOPBACK}:{ports.controller(1)}"}
    # Named here and not in the metadata, the voters may have other ports at the next start.
    voters = ",".join(f"{node}@{LOOPBACK}:{ports.controller(node)}" for node in ports.nodes)
    return {"controller.quorum.voters": voters}


def kafka_parts(
    folder: DataFolder,
    ports: PortPlan,
    jars: Sequence[Path],
    admin: Login | None = None,
    sizes: Sizes = ROOMY,
    archive: JavaArchive | None = None,
    *,
    options: tuple[str, ...] = (),
) -> tuple[Process, ...]:
    """The brokers on the given data folder; formatted on the first start.

    With the login of their own user, they require everyone to log in. What they have stored is the same either way.
    `options` are more of the Java runtime's, such as `QUICK`.
    """
    # One of several brokers is enough to record it.
    others = archive if archive is not None and archive.exists else None
    return tuple(
        _broker(folder, ports, jars, node, admin, sizes, archive if node == 1 else others, options)
        for node in ports.nodes
    )


def _broker(
    folder: DataFolder,
    ports: PortPlan,
    jars: Sequence[Path],
    node: int,
    admin: Login | None,
    sizes: Sizes,
    archive: JavaArchive | None,
    options: tuple[str, ...],
) -> Process:
    name = "kafka" if ports.brokers == 1 else f"kafka-{node}"
    home = folder.part(name)
    data, properties, logging = home / "data", home / "server.properties", home / "log4j2.properties"
    class_path = ":".join(str(jar) for jar in jars)
    of_the_broker = (*options, *sizes.java, *(archive.options if archive else ()))

    def java(main: str, *arguments: str, heap: int, more: tuple[str, ...]) -> tuple[str, ...]:
        all_options = (*more, f"-Dlog4j2.configurationFile={logging}", "-cp", class_path)
        return (*java_command(heap_megabytes=heap, tmp=folder.tmp, options=all_options), main, *arguments)

    async def prepare() -> None:
        if archive:
            archive.prepare()
        write_private(properties, server_properties(ports, data, node, admin, sizes))
        logging.write_text(LOGGING)
        if data.exists():
            return
        unfinished = home / "data.new"  # renamed at the end: an interrupted start leaves no partial one
        shutil.rmtree(unfinished, ignore_errors=True)
        for_format = home / "format.properties"
        write_private(for_format, server_properties(ports, unfinished, node, admin))
        quorum = ("--standalone",) if ports.brokers == 1 else ()  # several are those of controller.quorum.voters
        command = java(
            "kafka.tools.StorageTool", "format", *quorum,
            "--cluster-id", folder.kafka_cluster_id(new_cluster_id), "--config", str(for_format),
            heap=FORMAT_HEAP_MEGABYTES, more=QUICK,
        )  # fmt: skip
        code = await run_tool(command, java_environment(), folder.log(name))
        if code != 0:
            raise ReadThePartLog(
                f"Formatting Kafka's data folder {data} failed with exit code {code}.",
                f"read the end of {folder.log(name)}.",
            )
        for_format.unlink()
        unfinished.rename(data)

    return Process(
        name=name,
        command=ProcessCommand(
            argv=java("kafka.Kafka", str(properties), heap=sizes.kafka_heap_megabytes, more=of_the_broker),
            environment=java_environment(sizes.environment),
            log=folder.log(name),
            folder=home,
            stop_seconds=RECORDING_SECONDS if archive and archive.records else 15.0,
        ),
        ended=archive.finish if archive else nothing_to_finish,
        prepare=prepare,
        check=lambda: kafka_serves(LOOPBACK, ports.broker(node), admin),
        address=f"{LOOPBACK}:{ports.broker(node)}",
    )


def new_cluster_id() -> str:
    """A random cluster id in Kafka's format: a UUID in 22 characters, not starting with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        continue
    return text
