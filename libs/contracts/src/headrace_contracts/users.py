"""Names of Kafka's users that are no services. What each may do follows from the topics: `headrace_streams.rights`."""

from __future__ import annotations

from typing import Final

PRINCIPAL_PREFIX: Final = "headrace-"
"""Start of the name under which a user logs in."""
OBSERVER: Final = "observer"
"""Reads topics open to anyone whose records hold no content: usage, spend, fleet, audit."""
CONTENT_READER: Final = "content-reader"
"""Reads all topics open to anyone, those with prompts, answers and skills included."""
AGENT: Final = "agent"
"""Writes to topics open to anyone: other teams' agents that produce to Kafka themselves."""
OPERATOR: Final = "operator"
"""An operator who handles failures (`headrace dlq`, `headrace journal`): reads all dead letters, including sensitive
ones, and topics open to anyone, and writes records back to their topics."""
PROVISIONER: Final = "provisioner"
"""Creates topics, extends them and changes their settings; neither reads nor writes."""
NODE_AGENT: Final = "node-agent"
"""Agents of nodes (`headrace node`), outside of the services' machines: write announcements, and read nothing else."""
NO_SERVICES: Final = (OBSERVER, CONTENT_READER, AGENT, OPERATOR, PROVISIONER, NODE_AGENT)
"""All users that are no services."""


def principal(user: str) -> str:
    """The name under which a user logs in to Kafka."""
    return PRINCIPAL_PREFIX + user
