"""The memory limit of a process and the shares of its buffers."""

from __future__ import annotations

from pathlib import Path

import pytest
from headrace_runtime.memory import MIB, MemoryBudget, available_bytes
from headrace_runtime.settings import ApiSettings, ServiceSettings, SettingsInvalid

GIB = 1024 * MIB


def files(root: Path, **contents: str) -> Path:
    for place, content in contents.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_container_of_cgroup_v2_has_the_limit_of_its_group(tmp_path: Path) -> None:
    root = files(tmp_path, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{64 * MIB}\n"})
    assert available_bytes(root) == 64 * MIB


def test_the_smallest_limit_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/pods.slice/pod/container\n",
            "sys/fs/cgroup/pods.slice/memory.max": f"{90 * MIB}\n",
            "sys/fs/cgroup/pods.slice/pod/memory.max": f"{70 * MIB}\n",
            "sys/fs/cgroup/pods.slice/pod/container/memory.max": "max\n",
        },
    )
    assert available_bytes(root) == 70 * MIB


def test_a_container_of_cgroup_v1_names_its_group_as_the_host_does(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        **{
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n1:name=systemd:/docker/1\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{80 * MIB}\n",
        },
    )
    assert available_bytes(root) == 80 * MIB


@pytest.mark.parametrize("limit", ["max\n", f"{2**63 - 4096}\n", ""])
def test_without_a_limit_it_is_the_memory_of_the_machine(tmp_path: Path, limit: str) -> None:
    machine = available_bytes(tmp_path / "nothing")
    root = files(tmp_path, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": limit})
    assert available_bytes(root) == machine > 64 * MIB


def test_shares_follow_from_the_limit_up_to_a_bound() -> None:
    small, large = MemoryBudget(512 * MIB), MemoryBudget(512 * GIB)
    assert (small.held_records, large.held_records) == (64 * MIB, 256 * MIB)
    assert (small.kafka_queue, large.kafka_queue) == (8 * MIB, 16 * MIB)
    assert (small.replies, large.replies) == (512 * MIB // 12, 64 * MIB)
    assert (small.request_bodies, large.request_bodies) == (512 * MIB // 3, 256 * MIB)
    assert (small.live_tasks, large.live_tasks) == (512 * MIB // 3, 1024 * MIB)


def test_a_service_is_given_less_by_its_setting() -> None:
    class Example(ServiceSettings, ApiSettings):
        service_name = "example"

    given = {"HEADRACE_MEMORY_LIMIT_BYTES": str(300 * MIB), "HEADRACE_KEY_PEPPER": "p" * 16}
    assert Example.load(given).request_limits().body_bytes == 100 * MIB
    chosen = Example.load({**given, "HEADRACE_BODY_MEMORY_BYTES": str(7 * MIB)})
    assert chosen.request_limits().body_bytes == 7 * MIB
    with pytest.raises(SettingsInvalid, match="HEADRACE_MEMORY_LIMIT_BYTES"):
        Example.load({**given, "HEADRACE_MEMORY_LIMIT_BYTES": "1"})
