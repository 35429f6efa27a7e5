"""The partition of a key: murmur2 as computed by Java's client and by librdkafka's murmur2_random."""

from __future__ import annotations

from collections.abc import Mapping

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash, unsigned."""
    length = len(data)
    state = _SEED ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK
        state = state * _MULTIPLIER & _MASK ^ word
    rest = data[whole:]
    if rest:
        state = (state ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _MASK
    state = (state ^ state >> 13) * _MULTIPLIER & _MASK
    return state ^ state >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key in a topic with this many partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def static_member_id(instance_id: str, partitions: Mapping[str, int]) -> str:
    """The instance id of a static member of a group, for topics with these numbers of partitions.

    A static member that comes back gets its former partitions without a rebalance. After partitions were added it would
    never get those, so it comes back as another member then.
    """
    return f"{instance_id}.p{'-'.join(str(count) for _, count in sorted(partitions.items()))}"
