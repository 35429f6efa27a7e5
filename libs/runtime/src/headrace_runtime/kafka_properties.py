"""librdkafka properties set by the operator: from variables and from a mounted file.

Every librdkafka property with a text value is spelt with dots only (those with an underscore are callbacks and
in-memory objects, which text cannot express), so variables map back unambiguously: `HEADRACE_KAFKA_SASL_USERNAME` is
`sasl.username`. Variables take precedence over the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from headrace_contracts.property_files import read_properties

VARIABLE_PREFIX: Final = "HEADRACE_KAFKA_"
FILE_VARIABLE: Final = "HEADRACE_KAFKA_PROPERTIES_FILE"

RESERVED: Final[Mapping[str, str]] = {
    "bootstrap.servers": "set HEADRACE_BOOTSTRAP_SERVERS instead",
    "client.id": "set HEADRACE_INSTANCE_ID instead",
    "group.id": "groups follow from the service and HEADRACE_TOPIC_PREFIX",
    "group.protocol": "the services rely on the protocol they choose",
    "partition.assignment.strategy": "co-partitioned topics must land on the same member",
    "enable.auto.commit": "offsets are committed when the work is done, never by time",
    "enable.auto.offset.store": "offsets are stored when the work is done",
    "auto.offset.reset": "where to start is part of each service's guarantee",
    "partitioner": "all producers must agree on it, or keys land elsewhere",
    "enable.idempotence": "ordering and exactly-once appends rely on it",
    "acks": "an accepted record must be on all in-sync replicas",
    "transactional.id": "the services do not use Kafka transactions",
}
"""Properties that Headrace sets itself because its guarantees depend on them, with the reason or the alternative."""


class KafkaPropertiesInvalid(Exception):
    """A property cannot be used; each problem names the variable or the file's line, never a value."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def collect(environ: Mapping[str, str]) -> dict[str, str]:
    """All properties in `environ` and in the file that it names.

    Raises KafkaPropertiesInvalid.
    """
    file_name = environ.get(FILE_VARIABLE, "")
    found = from_file(Path(file_name)) if file_name else {}
    found |= from_environment(environ)
    return found


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Properties in variables `HEADRACE_KAFKA_*`; empty ones count as absent.

    Raises KafkaPropertiesInvalid for a reserved property.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for variable in sorted(environ):
        if not variable.startswith(VARIABLE_PREFIX) or variable == FILE_VARIABLE or not environ[variable]:
            continue
        name = variable.removeprefix(VARIABLE_PREFIX).lower().replace("_", ".")
        if name in RESERVED:
            problems.append(f"{variable}: Headrace sets {name} itself; {RESERVED[name]}")
        else:
            found[name] = environ[variable]
    if problems:
        raise KafkaPropertiesInvalid(tuple(problems))
    return found


def from_file(path: Path) -> dict[str, str]:
    """Properties in a file of `name=value` or `name: value` lines.

    `#` and `!` start comments, a trailing `\\` continues a line.

    Raises KafkaPropertiesInvalid.
    """
    try:
        read = read_properties(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise KafkaPropertiesInvalid((f"{FILE_VARIABLE}: cannot read {path}: {reason}",)) from None
    found: dict[str, str] = {}
    problems: list[str] = []
    for line, name, value in read:
        where = f"{FILE_VARIABLE}: {path} line {line}"
        if not name:
            problems.append(f"{where}: expected name=value")
        elif name in RESERVED:
            problems.append(f"{where}: Headrace sets {name} itself; {RESERVED[name]}")
        else:
            found[name] = value
    if problems:
        raise KafkaPropertiesInvalid(tuple(problems))
    return found
