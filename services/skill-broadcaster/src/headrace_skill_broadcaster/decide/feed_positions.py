"""Positions in the feed, as the ids with which an agent resumes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PLACE = re.compile(r"(\d{1,6})\.(\d{1,19})")


class FeedPositionMalformed(Exception):
    """The id was not issued by a feed."""


def encode_places(positions: Mapping[int, int], partitions: Iterable[int]) -> str:
    """The next offsets of these partitions of the feed, for example `2.1042-5.77`."""
    return "-".join(f"{partition}.{positions[partition]}" for partition in partitions)


def decode_places(text: str) -> dict[int, int]:
    """Next offset by partition.

    Raises FeedPositionMalformed.
    """
    positions: dict[int, int] = {}
    for part in text.split("-"):
        match = _PLACE.fullmatch(part)
        if match is None or int(match[1]) in positions:
            raise FeedPositionMalformed(text)
        positions[int(match[1])] = int(match[2])
    return positions


def places_to_resume(asked: Mapping[int, int] | None, current: Mapping[int, int]) -> dict[int, int]:
    """Where an agent resumes in the partitions of its interests.

    `asked` is the agent's last position, None for a new agent; `current` is the position of all agents that are up to
    date. A partition that its interests did not include before starts with the events to come.
    """
    return {partition: now if asked is None else asked.get(partition, now) for partition, now in current.items()}


def are_gone(places: Mapping[int, int], bounds: Mapping[int, tuple[int, int]]) -> bool:
    """Whether events after these positions are missing from the log: it begins later, or ends before."""
    return any(not bounds[partition][0] <= place <= bounds[partition][1] for partition, place in places.items())
