"""The memory budget of a process: one limit, and what each buffer may take of it.

A process that reaches its container's limit is killed, starts again, and reads the same again. So every buffer has a
limit in bytes that follows from the one of the process, as a share with an upper bound: what more memory would buy is
taken from other processes of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

MIB: Final = 1024 * 1024


def available_bytes(root: Path = Path("/")) -> int:
    """The memory limit of this process's container (cgroup v2 or v1), or the machine's memory if that is less.

    Args:
        root: The file system to look in.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The limits of the cgroups that this process is in, and of those around them."""
    try:
        entries = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for entry in entries:
        _, controllers, place = entry.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be that on the host, and the container's own group is what is mounted.
        inner = PurePosixPath(place.lstrip("/"))
        for group in (inner, *inner.parents):
            try:
                written = (base / group / name).read_text().strip()
            except OSError:
                continue
            if written.isdecimal():
                yield int(written)


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What the buffers of a process may hold; all in bytes.

    Attributes:
        limit: Memory of the process.
    """

    limit: int

    @property
    def held_records(self) -> int:
        """An eighth, at most 256 MiB: records that a worker has received and not finished.

        While one is handled, its decoded values and the provider's request take up to four times its size besides.
        """
        return self._share(8, 256)

    @property
    def kafka_queue(self) -> int:
        """A 64th, at most 16 MiB: what librdkafka queues for one consumer or reader. The client buffers twice as much
        again, and each broker may send as much once more at a time."""
        return self._share(64, 16)

    @property
    def request_bodies(self) -> int:
        """A third, at most 256 MiB: bodies of all open requests."""
        return self._share(3, 256)

    @property
    def replies(self) -> int:
        """A twelfth, at most 64 MiB: what intake keeps of answers for callers."""
        return self._share(12, 64)

    @property
    def live_tasks(self) -> int:
        """A third, at most 1 GiB: tasks that a router has in flight."""
        return self._share(3, 1024)

    def _share(self, part: int, most_mib: int) -> int:
        return min(self.limit // part, most_mib * MIB)
