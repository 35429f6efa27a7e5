"""Which journal entries count: the checker's own reading of the rule that the schema of JournalEntry states.

An entry counts when it stands at offset generation + sequence, behind the barrier at offset generation, and nothing
before it in that generation was out of place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace_chaos.evidence import Seen


@dataclass(frozen=True, slots=True)
class Reading:
    """The entries of a journal, told apart."""

    counting: Sequence[Seen]
    ignored: Sequence[Seen]
    barriers: int


def read(records: Iterable[Seen]) -> Reading:
    """All partitions of the journal, each in the order of its offsets."""
    counting: list[Seen] = []
    ignored: list[Seen] = []
    barriers = 0
    intact: dict[int, int | None] = {}
    for record in records:
        entry = record.value
        if entry is not None and entry["kind"] == "barrier":
            barriers += 1
            intact[record.partition] = record.offset
            continue
        generation = intact.get(record.partition)
        if (
            entry is not None
            and generation is not None
            and entry["generation"] == generation
            and record.offset == generation + entry["sequence"]
        ):
            counting.append(record)
        else:
            # Whatever stands out of its place ends the generation: what follows from the same owner counts no more.
            intact[record.partition] = None
            ignored.append(record)
    return Reading(counting, ignored, barriers)
