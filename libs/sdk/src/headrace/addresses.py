"""Addresses of Headrace: from arguments, the environment, or the `.headrace/stack.json` of a running embedded stack."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from headrace.errors import Misconfigured

STACK_FILE: Final = Path(".headrace") / "stack.json"
_KAFKA_VARIABLES: Final = "HEADRACE_KAFKA_"
_KAFKA_FILE_VARIABLE: Final = "HEADRACE_KAFKA_PROPERTIES_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Addresses of one installation. Those that were not given anywhere are None.

    Attributes:
        url: Intake: tasks, chat, keys, preferences (HEADRACE_URL).
        skills_url: Skill broadcaster (HEADRACE_SKILLS_URL).
        costs_url: Cost accountant (HEADRACE_COSTS_URL).
        api_key: Key for all of them (HEADRACE_API_KEY).
        bootstrap_servers: Kafka (HEADRACE_BOOTSTRAP_SERVERS).
        registry_url: Schema registry, the root of its Confluent API (HEADRACE_REGISTRY_URL).
        topic_prefix: Start of all topic names (HEADRACE_TOPIC_PREFIX).
        kafka_properties: Further librdkafka properties (HEADRACE_KAFKA_<NAME_WITH_UNDERSCORES>).
        stack_file: The stack.json that supplied what arguments and environment did not.
        stack: Its whole content.
    """

    url: str | None = None
    skills_url: str | None = None
    costs_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    bootstrap_servers: str | None = None
    registry_url: str | None = None
    topic_prefix: str = "headrace."
    kafka_properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    stack_file: Path | None = None
    stack: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def require(self, name: str) -> str:
        """The address of that name. Raises Misconfigured if there is none."""
        value = getattr(self, name)
        if not value:
            if self.stack_file is not None:
                remedy = f"set {VARIABLES[name]} ({self.stack_file} does not name it)"
            elif _names_an_installation(self):
                remedy = f"set {VARIABLES[name]} as well"
            else:
                remedy = f"set {VARIABLES[name]}, or run `headrace up` in this folder or a parent folder"
            raise Misconfigured(f"{_MEANINGS[name]} is unknown: {remedy}")
        return str(value)


VARIABLES: Final[Mapping[str, str]] = {
    "url": "HEADRACE_URL",
    "skills_url": "HEADRACE_SKILLS_URL",
    "costs_url": "HEADRACE_COSTS_URL",
    "api_key": "HEADRACE_API_KEY",
    "bootstrap_servers": "HEADRACE_BOOTSTRAP_SERVERS",
    "registry_url": "HEADRACE_REGISTRY_URL",
    "topic_prefix": "HEADRACE_TOPIC_PREFIX",
}

_MEANINGS: Final[Mapping[str, str]] = {
    "url": "the address of Headrace's intake",
    "skills_url": "the address of the skill broadcaster",
    "costs_url": "the address of the cost accountant",
    "api_key": "the API key",
    "bootstrap_servers": "the address of Kafka",
    "registry_url": "the address of the schema registry",
    "topic_prefix": "the topic prefix",
}


def find_stack_file(folder: Path) -> Path | None:
    """The stack.json of the nearest data folder, in `folder` or a parent."""
    for place in (folder, *folder.parents):
        candidate = place / STACK_FILE
        if candidate.is_file():
            return candidate
    return None


def locate(
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stack_file: Path | None = None,
    **given: str | None,
) -> Addresses:
    """Addresses by argument, else by variable, else from stack.json (the one given, or found upward from `folder`).

    stack.json is not searched for when arguments and variables name both intake and key, or Kafka and registry: they
    then refer to another installation. Raises Misconfigured.
    """
    environ = os.environ if environ is None else environ
    unknown = given.keys() - VARIABLES.keys()
    if unknown:
        raise TypeError(f"unknown addresses: {', '.join(sorted(unknown))}")
    named = {name: given.get(name) or environ.get(variable) or None for name, variable in VARIABLES.items()}
    for name in ("url", "skills_url", "costs_url", "registry_url"):
        value = named[name]
        if value is not None and not value.startswith(("http://", "https://")):
            raise Misconfigured(f"{VARIABLES[name]} must start with http:// or https://, not {value[:40]!r}")
    addresses = Addresses(
        **{name: value for name, value in named.items() if value is not None},  # type: ignore[arg-type]
        kafka_properties=kafka_properties(environ),
    )
    if stack_file is None and _names_an_installation(addresses):
        return addresses
    found = stack_file or find_stack_file(folder or Path.cwd())
    return addresses if found is None else _filled_in(addresses, found, prefix_given=named["topic_prefix"] is not None)


def kafka_properties(environ: Mapping[str, str]) -> dict[str, str]:
    """librdkafka properties in variables: HEADRACE_KAFKA_SASL_USERNAME is sasl.username."""
    return {
        variable.removeprefix(_KAFKA_VARIABLES).lower().replace("_", "."): value
        for variable, value in environ.items()
        if variable.startswith(_KAFKA_VARIABLES) and variable != _KAFKA_FILE_VARIABLE and value
    }


def _names_an_installation(addresses: Addresses) -> bool:
    return bool(addresses.url or addresses.bootstrap_servers)


def _filled_in(addresses: Addresses, file: Path, *, prefix_given: bool) -> Addresses:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"{file} cannot be read: {error.strerror}; is the stack running?") from error
    except ValueError as error:
        raise Misconfigured(f"{file} is not JSON: {error}; stop the stack and start it again") from error
    if not isinstance(document, dict):
        raise Misconfigured(f"{file} does not hold the addresses of a stack; stop the stack and start it again")
    known: dict[str, Any] = dict(_addresses_in(document))
    names = {entry.name for entry in fields(Addresses)}
    missing: dict[str, Any] = {
        name: value
        for name, value in known.items()
        if name in names and value and (not getattr(addresses, name) or (name == "topic_prefix" and not prefix_given))
    }
    return replace(addresses, **missing, stack_file=file, stack=document)


def _addresses_in(document: Mapping[str, Any]) -> dict[str, str]:
    names = {
        "url": "intake_url",
        "skills_url": "skills_url",
        "costs_url": "costs_url",
        "bootstrap_servers": "bootstrap_servers",
        "registry_url": "registry_url",
        "topic_prefix": "topic_prefix",
    }
    known = {name: value for name, entry in names.items() if isinstance(value := document.get(entry), str)}
    key_file = document.get("api_key_file")
    if isinstance(key_file, str):
        try:
            known["api_key"] = Path(key_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            # Another user's stack: its topics may still be open to us, and asking for the key will report this error.
            if not isinstance(error, PermissionError | FileNotFoundError):
                raise Misconfigured(f"{key_file} cannot be read: {error.strerror}") from error
    return known
