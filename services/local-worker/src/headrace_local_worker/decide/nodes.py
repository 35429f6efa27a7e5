"""The list of nodes in the settings: `name=http://host:11434;slots=4;gpu=rtx4060, http://other:11434`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

_USUAL_PORT: Final = 11434
_SLOTS: Final = "slots"


class NodesInvalid(ValueError):
    """The list of nodes is invalid; the message names the entry and the reason."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One Ollama node.

    Attributes:
        slots: Number of concurrent calls.
        hardware: Labels that a routing policy can require.
    """

    name: str
    url: str
    slots: int
    hardware: Mapping[str, str] = field(default_factory=dict)


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
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.strip():
            raise NodesInvalid(f"{option!r} of {entry!r} must read slots=<number> or <label>=<value>")
        given[key.strip()] = value.strip()
    slots, hardware = split_slots(given)
    if slots is None:
        raise NodesInvalid(f"slots of {entry!r} must be a number above 0")
    return NodeSpec(name or name_of(url), url.rstrip("/"), slots or default_slots, hardware)


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
