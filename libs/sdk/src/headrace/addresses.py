"""Addresses of Headrace: from arguments, the environment, or the `.headrace/stack.json` of a running embedded stack."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from headrace_contracts.property_files import Property, read_properties
from headrace_contracts.registry_access import (
    ANONYMOUS,
    CA_FILE,
    CLIENT_CERTIFICATE_FILE,
    CLIENT_KEY_FILE,
    PASSWORD,
    TOKEN,
    USERNAME,
    RegistryAccess,
)

from headrace.errors import Misconfigured

STACK_FILE: Final = Path(".headrace") / "stack.json"
_LOGIN_PROPERTIES: Final = frozenset({"sasl.username", "sasl.oauthbearer.config", "ssl.key.location", "ssl.key.pem"})
"""A Kafka client with one of these has a login already."""
_KAFKA_VARIABLES: Final = "HEADRACE_KAFKA_"
_KAFKA_FILE_VARIABLE: Final = "HEADRACE_KAFKA_PROPERTIES_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Addresses of one installation. Those that were not given anywhere are None.

    Attributes:
        url: Intake: tasks, chat, keys, preferences (HEADRACE_URL). This one and the next two are taken with `/v1` at
            their end as well, as OpenAI's clients write them, and kept without.
        skills_url: Skill broadcaster (HEADRACE_SKILLS_URL).
        costs_url: Cost accountant (HEADRACE_COSTS_URL).
        api_key: Key for all of them (HEADRACE_API_KEY).
        signing_key: Signs what is written to Kafka, `<key id>:<code>` (HEADRACE_SIGNING_KEY); a secure stack has one.
        signs_for: The only tenant for which the stack's signing key signs; None if it is not the stack's.
        bootstrap_servers: Kafka (HEADRACE_BOOTSTRAP_SERVERS).
        registry_url: Schema registry, the root of its Confluent API (HEADRACE_REGISTRY_URL).
        registry_access: How to log in to it (HEADRACE_REGISTRY_USERNAME and _PASSWORD, or _TOKEN; _CA_FILE,
            _CLIENT_CERTIFICATE_FILE and _CLIENT_KEY_FILE).
        topic_prefix: Start of all topic names (HEADRACE_TOPIC_PREFIX).
        kafka_properties: Further librdkafka properties (HEADRACE_KAFKA_<NAME_WITH_UNDERSCORES>).
        kafka_users: Users of a secure stack, and the properties files with which they log in to Kafka.
        registry_users: Those who may write to its registry, and the files with their passwords.
        stack_file: The stack.json that supplied what arguments and environment did not.
        stack: Its whole content.
    """

    url: str | None = None
    skills_url: str | None = None
    costs_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    signing_key: str | None = field(default=None, repr=False)
    signs_for: str | None = None
    bootstrap_servers: str | None = None
    registry_url: str | None = None
    registry_access: RegistryAccess = ANONYMOUS
    topic_prefix: str = "headrace."
    kafka_properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    kafka_users: Mapping[str, Path] = field(default_factory=dict)
    registry_users: Mapping[str, Path] = field(default_factory=dict)
    stack_file: Path | None = None
    stack: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, resource in _APIS.items():
            if (url := getattr(self, name)) is not None:
                object.__setattr__(self, name, _api_root(url, resource))

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

    @property
    def needs_login(self) -> bool:
        """Whether Kafka requires a login that nothing has given yet."""
        return bool(self.kafka_users) and not _LOGIN_PROPERTIES & self.kafka_properties.keys()

    def as_user(self, user: str) -> Self:
        """The same, with the logins that a secure stack has for this user of Kafka and the registry.

        Where variables say how to log in, that stays; where nobody needs to, nothing changes.

        Raises Misconfigured if the stack has no such user, or this one may not read its secrets.
        """
        changed = self
        if self.needs_login:
            file = self.kafka_users.get(user)
            if file is None:
                raise Misconfigured(f"{self.stack_file} names no Kafka user {user}: start the stack again")
            found = {entry.name: entry.value for entry in _properties_in(file)}
            changed = replace(changed, kafka_properties={**found, **self.kafka_properties})
        password = self.registry_users.get(user)
        if password is not None and not self.registry_access.headers():
            access = replace(self.registry_access, username=user, password=_secret_in(password))
            changed = replace(changed, registry_access=access)
        return changed


VARIABLES: Final[Mapping[str, str]] = {
    "url": "HEADRACE_URL",
    "skills_url": "HEADRACE_SKILLS_URL",
    "costs_url": "HEADRACE_COSTS_URL",
    "api_key": "HEADRACE_API_KEY",
    "signing_key": "HEADRACE_SIGNING_KEY",
    "bootstrap_servers": "HEADRACE_BOOTSTRAP_SERVERS",
    "registry_url": "HEADRACE_REGISTRY_URL",
    "topic_prefix": "HEADRACE_TOPIC_PREFIX",
}

_MEANINGS: Final[Mapping[str, str]] = {
    "url": "the address of Headrace's intake",
    "skills_url": "the address of the skill broadcaster",
    "costs_url": "the address of the cost accountant",
    "api_key": "the API key",
    "signing_key": "the signing key",
    "bootstrap_servers": "the address of Kafka",
    "registry_url": "the address of the schema registry",
    "topic_prefix": "the topic prefix",
}


_APIS: Final[Mapping[str, str]] = {"url": "", "skills_url": "/skills", "costs_url": "/costs"}
"""Addresses below which `/v1` is, and what `headrace up` prints behind it."""


def _api_root(url: str, resource: str) -> str:
    """The address without `/v1`, or `/v1` and the resource, at its end: paths of requests begin with them."""
    scheme, between, rest = url.strip().partition("://")
    root = re.sub(r"//+", "/", rest).rstrip("/")
    root = root.removesuffix(resource) if root.endswith(f"/v1{resource}") else root
    return f"{scheme}{between}{root.removesuffix('/v1')}"


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
    for name in (*_APIS, "registry_url"):
        value = named[name]
        if value is not None and not value.startswith(("http://", "https://")):
            raise Misconfigured(f"{VARIABLES[name]} must start with http:// or https://, not {value[:40]!r}")
    addresses = Addresses(
        **{name: value for name, value in named.items() if value is not None},  # type: ignore[arg-type]
        registry_access=registry_access(environ),
        kafka_properties=kafka_properties(environ),
    )
    if stack_file is None and _names_an_installation(addresses):
        return addresses
    found = stack_file or find_stack_file(folder or Path.cwd())
    return addresses if found is None else _filled_in(addresses, found, prefix_given=named["topic_prefix"] is not None)


def kafka_properties(environ: Mapping[str, str]) -> dict[str, str]:
    """librdkafka properties in variables: HEADRACE_KAFKA_SASL_USERNAME is sasl.username; those in a file, too.

    Raises Misconfigured if that file cannot be read.
    """
    file = environ.get(_KAFKA_FILE_VARIABLE)
    found = {entry.name: entry.value for entry in _properties_in(Path(file))} if file else {}
    return found | {
        variable.removeprefix(_KAFKA_VARIABLES).lower().replace("_", "."): value
        for variable, value in environ.items()
        if variable.startswith(_KAFKA_VARIABLES) and variable != _KAFKA_FILE_VARIABLE and value
    }


def _properties_in(file: Path) -> list[Property]:
    try:
        return [entry for entry in read_properties(file) if entry.name]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Misconfigured(f"{file}, which says how to log in to Kafka, cannot be read: {reason}") from error


def _secret_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Misconfigured(f"{file}, a password of the registry, cannot be read: {error.strerror}") from error


def registry_access(environ: Mapping[str, str]) -> RegistryAccess:
    """How the variables say to log in to the registry."""

    def file(variable: str) -> Path | None:
        return Path(environ[variable]) if environ.get(variable) else None

    return RegistryAccess(
        username=environ.get(USERNAME) or None,
        password=environ.get(PASSWORD) or None,
        token=environ.get(TOKEN) or None,
        ca_file=file(CA_FILE),
        client_certificate_file=file(CLIENT_CERTIFICATE_FILE),
        client_key_file=file(CLIENT_KEY_FILE),
    )


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
    # The stack's logins and its signing key are for the stack's servers, and no others.
    if "bootstrap_servers" in missing and addresses.signing_key is None:
        missing["signing_key"] = _secret_named(document, "signing_key_file")
        missing["signs_for"] = document.get("tenant") if missing["signing_key"] else None
    for name, server in (("kafka_users", "bootstrap_servers"), ("registry_users", "registry_url")):
        if server in missing:
            missing[name] = _files_in(document, name)
    return replace(addresses, **missing, stack_file=file, stack=document)


def _files_in(document: Mapping[str, Any], name: str) -> dict[str, Path]:
    users = document.get(name)
    return {str(user): Path(str(file)) for user, file in users.items()} if isinstance(users, dict) else {}


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
    api_key = _secret_named(document, "api_key_file")
    return known if api_key is None else {**known, "api_key": api_key}


def _secret_named(document: Mapping[str, Any], name: str) -> str | None:
    file = document.get(name)
    if not isinstance(file, str):
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        # Another user's stack: its topics may still be open to us, and asking for the key will report this error.
        if not isinstance(error, PermissionError | FileNotFoundError):
            raise Misconfigured(f"{file} cannot be read: {error.strerror}") from error
        return None
