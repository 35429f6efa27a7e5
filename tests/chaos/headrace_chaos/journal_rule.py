"""Which journal entries count: the checker's own implementation of the rule in the schema of JournalEntry.

An entry counts when its offset is epoch + sequence, after the epoch start at offset epoch, and no earlier entry of that
epoch was at another offset.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace_chaos.evidence import Seen


@dataclass(frozen=True, slots=True)
class Reading:
    """The entries of a journal, classified."""

    counting: Sequence[Seen]
    ignored: Sequence[Seen]
    epoch_starts: int


def read(records: Iterable[Seen]) -> Reading:
    """All partitions of the journal, each in the order of its offsets."""
    counting: list[Seen] = []
    ignored: list[Seen] = []
    epoch_starts = 0
    intact: dict[int, int | None] = {}
    for record in records:
        entry = record.value
        if entry is not None and entry["kind"] == "barrier":
            epoch_starts += 1
            intact[record.partition] = record.offset
            continue
        epoch = intact.get(record.partition)
        if (
            entry is not None
            and epoch is not None
            and entry["generation"] == epoch
            and record.offset == epoch + entry["sequence"]
        ):
            counting.append(record)
        else:
            # An entry at any other offset ends the epoch: later entries of the same owner no longer count.
            intact[record.partition] = None
            ignored.append(record)
    return Reading(counting, ignored, epoch_starts)
