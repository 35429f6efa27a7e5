"""Shows that an announcement of a node was written by the agent that was made responsible for it.

Whoever can announce a node draws prompts to an address, so the records of nodes.announced are signed. Agents run on
machines that nobody would trust with the installation's secret; each gets a key that follows from the secret and the
name of its node. It signs with that key as services sign with the secret (`record_mac`): who has the secret can check
every announcement, and who has one node's key can announce this node only.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from headrace_contracts.record_mac import RecordMac

_PURPOSE: Final = b"headrace node key 1 "
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
NODE_NAME: Final = re.compile(_NAME)
"""Names that a node with an agent may have, whole."""
_NODE_KEY: Final = re.compile(rf"({_NAME}):([0-9a-f]{{64}})")


class NodeKeyInvalid(ValueError):
    """Use the key as `headrace nodes key` gave it: `<node>:<64 hexadecimal digits>`."""

    def __init__(self) -> None:
        super().__init__(
            "a node's key is <node>:<64 hexadecimal digits>, as `headrace nodes key NODE` prints it; a node's name is "
            "letters, digits, dots, dashes and underscores"
        )


@dataclass(frozen=True, slots=True)
class NodeKey:
    """The key with which a node's agent signs; `str` gives the form in which it is handed out.

    Attributes:
        node: Name of the node.
        code: The secret part, 64 hexadecimal digits.
    """

    node: str
    code: str

    def __str__(self) -> str:
        return f"{self.node}:{self.code}"

    def __repr__(self) -> str:
        return f"NodeKey(node={self.node!r})"

    @classmethod
    def of(cls, secret: str, node: str) -> Self:
        """The key of a node of the installation with this secret. Raises NodeKeyInvalid for a name that is none."""
        if NODE_NAME.fullmatch(node) is None:
            raise NodeKeyInvalid
        return cls(node, hmac.digest(secret.encode(), _PURPOSE + node.encode(), "sha256").hex())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key in its form `<node>:<code>`. Raises NodeKeyInvalid."""
        match = _NODE_KEY.fullmatch(text.strip())
        if match is None:
            raise NodeKeyInvalid
        return cls(match[1], match[2])

    def signer(self) -> RecordMac:
        """What signs the records of this node."""
        return RecordMac(self.code)


def is_of_its_node(
    secret: str,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]],
) -> bool:
    """Whether a record, or a tombstone, carries the code of the agent of the node that is its key.

    Args:
        topic: With its prefix.
    """
    name = (key or b"").decode("utf-8", "replace")
    if NODE_NAME.fullmatch(name) is None:
        return False
    return NodeKey.of(secret, name).signer().fits(topic, key, value, headers)
