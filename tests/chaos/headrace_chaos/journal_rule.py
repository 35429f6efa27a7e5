"""Which journal entries count: the checker's own reading of the rule that the schema of JournalEntry states.

An entry counts when it stands at offset epoch + sequence, behind the epoch start at offset epoch, and nothing
before it in that epoch was out of place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace_chaos.evidence import Seen


@dataclass(frozen=True, slots=True)
class Reading:
    """The entries of a journal, told apart."""

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
            # Whatever stands out of its place ends the epoch: what follows from the same owner counts no more.
            intact[record.partition] = None
            ignored.append(record)
    return Reading(counting, ignored, epoch_starts)
