"""Which topics an installation should have, by the sites that it has topics of."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_contracts.topics import WORK_LOCAL, TopicSpec, sites_in, topics_with

from headrace_streams.ports import Admin


async def expected_topics(admin: Admin, prefix: str) -> Mapping[str, TopicSpec]:
    """The specifications of all topics, by name without the prefix: those of sites included of which there is a topic
    of at least one lane. Raises TransientError."""
    names = await admin.topic_names(prefix + WORK_LOCAL)
    return topics_with(sites_in(name.removeprefix(prefix) for name in names))
