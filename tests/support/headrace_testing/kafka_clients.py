"""How many librdkafka clients a process has (Linux only)."""

from pathlib import Path

MAIN_THREAD = "rdk:main"
"""Each client has exactly one of these; librdkafka names its threads."""


def thread_names(pid: int) -> list[str]:
    """The names of a process's threads."""
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            # It has ended meanwhile.
            continue
    return names


def clients_of(pid: int) -> int:
    """The number of a process's librdkafka clients."""
    return thread_names(pid).count(MAIN_THREAD)
