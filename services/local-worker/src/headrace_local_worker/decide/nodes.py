"""The list of nodes in the settings: `name=http://host:11434;slots=4;num_ctx=8192;gpu=rtx4060, http://other:8000;server=vllm`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from headrace_contracts.model_settings import (
    NO_DEFAULTS,
    ModelSettingInvalid,
    NodeDefaults,
    is_of_a_node,
    node_defaults,
)
from headrace_models.local_servers import (
    INSIDE,
    LOCAL_PROVIDERS,
    OLLAMA,
    OPENAI_COMPATIBLE_SERVERS,
    SEARXNG,
    WEB,
    is_a_clouds,
)

_USUAL_PORT: Final = 11434
_SLOTS: Final = "slots"
_SERVER: Final = "server"
_REACH: Final = "reach"
API_PATH: Final = "/v1"
"""Of the OpenAI-compatible API, where an address does not say."""
_TOKEN: Final = "token_env"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NodesInvalid(ValueError):
    """The list of nodes is invalid; the message names the entry and the reason."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One machine that runs models.

    Attributes:
        url: Base address of its API.
        slots: Number of concurrent calls.
        hardware: Labels that a routing policy can require.
        server: What runs there, one of LOCAL_PROVIDERS; as a provider it has this name.
        reach: Of a search engine: `inside` if no query that it gets leaves our network, else `web`; empty for others.
        token_env: Variable that holds the token which the node asks for; empty for that of all nodes, if there is one.
        drained: Why it gets no new calls, in its agent's words; empty if it does.
        silent: Whether its agent has said nothing for too long: another machine may have its address by now.
        defaults: How its models are loaded and asked where nobody says otherwise.
        slots_told: Whether somebody told the slots of this node; else they are the default of all.
    """

    name: str
    url: str
    slots: int
    hardware: Mapping[str, str] = field(default_factory=dict)
    server: str = OLLAMA
    token_env: str = ""
    reach: str = ""
    drained: str = ""
    silent: bool = False
    defaults: NodeDefaults = NO_DEFAULTS
    slots_told: bool = field(default=False, compare=False)

    @property
    def withheld(self) -> str | None:
        """Why it gets no new calls; None if it does."""
        if self.drained:
            return f"drained: {self.drained}"
        return "its agent has fallen silent" if self.silent else None


def parse_nodes(entries: Sequence[str], default_slots: int) -> tuple[NodeSpec, ...]:
    """Parse a list of nodes. Raises NodesInvalid."""
    nodes = tuple(_parse(entry, default_slots) for entry in entries)
    if not nodes:
        raise NodesInvalid("name at least one node, such as http://127.0.0.1:11434")
    names = [node.name for node in nodes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NodesInvalid(f"two nodes are named {', '.join(twice)}: give them names, as in name=http://host:11434")
    return nodes


def _parse(entry: str, default_slots: int) -> NodeSpec:
    address, *options = (part.strip() for part in entry.split(";"))
    name, url = _named(address)
    parsed = urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise NodesInvalid(f"{entry!r} is not an address such as http://127.0.0.1:11434 or name=http://host:11434")
    if is_a_clouds(parsed.hostname):
        raise NodesInvalid(f"{entry!r} is the address of a cloud: what is sent there does not stay with us")
    given = parse_options(entry, options)
    token_env = given.pop(_TOKEN, "")
    server = given.pop(_SERVER, OLLAMA)
    if server not in LOCAL_PROVIDERS:
        raise NodesInvalid(f"server of {entry!r} must be one of {', '.join(sorted(LOCAL_PROVIDERS))}")
    defaults = split_defaults(entry, given)
    reach = ""
    if server == SEARXNG:
        reach = given.pop(_REACH, WEB)
        if reach not in (WEB, INSIDE):
            raise NodesInvalid(f"{_REACH} of {entry!r} must be {WEB}, or {INSIDE} if no query leaves your network")
    slots, hardware = split_slots(given)
    if slots is None:
        raise NodesInvalid(f"slots of {entry!r} must be a number above 0")
    url = url.rstrip("/")
    if server in OPENAI_COMPATIBLE_SERVERS:
        named = name_of(url.removesuffix(API_PATH))
        url = url if parsed.path.rstrip("/") else url + API_PATH
    else:
        named = name_of(url)
    return NodeSpec(
        name or named, url, slots or default_slots, hardware, server, token_env, reach, defaults=defaults,
        slots_told=slots > 0,
    )  # fmt: skip


def parse_options(entry: str, options: Sequence[str]) -> dict[str, str]:
    """The options behind an entry's address, by name. Raises NodesInvalid."""
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not key:
            raise NodesInvalid(f"{option!r} of {entry!r} must read slots=<number>, server=<name> or <label>=<value>")
        if key == _TOKEN and not _VARIABLE.fullmatch(value):
            raise NodesInvalid(f"{_TOKEN} of {entry!r} must name a variable that holds the token, not the token itself")
        given[key] = value
    return given


def split_defaults(entry: str, given: dict[str, str]) -> NodeDefaults:
    """What an entry's options say of its models; they are taken out of `given`. Raises NodesInvalid."""
    said = {name: given.pop(name) for name in tuple(given) if is_of_a_node(name)}
    try:
        return node_defaults(said)
    except ModelSettingInvalid as error:
        raise NodesInvalid(f"{entry!r}: {error}") from None


def split_slots(options: Mapping[str, str]) -> tuple[int | None, dict[str, str]]:
    """The slots in a node's options, and the remaining options, its hardware.

    0 slots if none are given, None if they are not a number above 0.
    """
    hardware = {key: value for key, value in options.items() if key != _SLOTS}
    named = options.get(_SLOTS)
    if named is None:
        return 0, hardware
    return (int(named) if named.isdecimal() and int(named) > 0 else None), hardware


def _named(address: str) -> tuple[str, str]:
    before, equals, after = address.partition("=")
    # An address may itself contain an equals sign.
    return (before.strip(), after.strip()) if equals and "://" not in before else ("", address)


def name_of(url: str) -> str:
    """Name of a node without a configured one, from its address."""
    parsed = urlsplit(url)
    last = parsed.path.rstrip("/").rpartition("/")[2]
    if last:
        return last
    port = parsed.port
    return f"{parsed.hostname}" if port in (None, _USUAL_PORT) else f"{parsed.hostname}:{port}"
