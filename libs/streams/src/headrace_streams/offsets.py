"""Offset tracking for one partition whose records finish out of order.

A tracker knows which records were received and which of those are still open (received, not finished). From these
follow the two things a commit carries:

- the *position*: the lowest open offset. Every received record below it is finished, so it is safe to commit;
- the *map*: the finished ranges above the position, as a compact text in the commit's metadata, so that the next owner
  of the partition does not process them again. Before it stands a fingerprint of the topic's id: offsets mean nothing
  in another log of the same name.

Invariants. Breaking the first loses records; breaking any other processes records twice or stops the partition.

1. The position never passes an open offset.
2. The map never names an open offset. What does not fit is left out from the top, never approximated.
3. Only received offsets are tracked. Compaction and transaction markers leave holes in a log; a hole is never waited
   for, otherwise the position would stop at an offset that no record will ever have.
4. A record is received only if the map will fit the metadata limit in whatever order the open records finish (`fits`).
   Otherwise it waits in the backlog. A broker refuses metadata that is too long, and with it the whole commit.
"""

from __future__ import annotations

import base64
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence

from headrace_streams.errors import StreamsError
from headrace_streams.log_identity import FINGERPRINT_CHARS
from headrace_streams.records import OffsetAndMetadata

METADATA_LIMIT = 4_095
"""Most characters a broker takes as commit metadata; 4,096 are refused already."""

Range = tuple[int, int]
"""A half-open range of offsets: the first included, the second not."""

_STAMP = "i1"
_STAMP_CHARS = len(_STAMP) + FINGERPRINT_CHARS
_VERSION = "h1"
_RUNS, _RUNS_DEFLATED, _BITS, _BITS_DEFLATED = "r", "R", "b", "B"
_PREFIX_CHARS = len(_VERSION) + 1
_CHECKSUM_BYTES = 4
_OVERHEAD_BYTES = 10 + _CHECKSUM_BYTES
"""A map begins with the position it belongs to (a varint of at most 10 bytes for a 64-bit offset) and ends with a
checksum."""
_LARGEST_PAYLOAD = 1 << 20
_WORTH_DEFLATING = 48


class OffsetMetadataUnreadable(StreamsError):
    """Start at the committed offset and assume that nothing above it is finished: the metadata is not a map of ours."""


class OffsetTracker:
    """Received and finished offsets of one partition, from its assignment to its revocation.

    Args:
        next_offset: Committed offset to start at; None if the group has committed none.
        finished: Finished ranges above it, ascending, as returned by `decode`.
        limit: Maximum length of the commit metadata, in characters.
        log: Fingerprint of the topic's id, for the commit metadata; None while it is not known.
    """

    __slots__ = (
        "_base", "_carried", "_fresh", "_gaps", "_highest", "_limit", "_open", "_safe_span", "_stamp", "changes",
    )  # fmt: skip

    def __init__(
        self,
        next_offset: int | None = None,
        finished: Iterable[Range] = (),
        *,
        limit: int = METADATA_LIMIT,
        log: str | None = None,
    ) -> None:
        self._base = next_offset
        # Highest offset received so far; the one before the start until a record has been received.
        self._highest = -1 if next_offset is None else next_offset - 1
        # Ascending, since offsets are received in ascending order: the first key is the position, at O(1).
        self._open: OrderedDict[int, None] = OrderedDict()
        # Holes between received offsets, above the position. The map names received offsets only (invariant 3), so
        # holes are encoded as unfinished; the next owner finds no records there either way.
        self._gaps: deque[Range] = deque()
        # The committed map: finished by an earlier owner, and not yet received here. Ranges are dropped as the records
        # arrive. Until then they stay in every map that is committed, or a second rebalance would forget them.
        self._carried: deque[Range] = deque(finished)
        # Whether no record has been received since the assignment; see `received`.
        self._fresh = True
        # Its room is kept free while it is not known.
        self._limit = limit - _STAMP_CHARS
        self._safe_span = 8 * (_raw_bytes_in(self._limit) - _OVERHEAD_BYTES)
        self._stamp = "" if log is None else _STAMP + log
        self.changes = 0
        """Increases whenever the result of `committable` may have changed, so that an unchanged one is not committed
        again."""

    @property
    def log(self) -> str | None:
        """Fingerprint of the topic's id; None while it is not known."""
        return self._stamp[len(_STAMP) :] or None

    def belongs_to(self, log: str) -> None:
        """The topic's identity has become known: commit it from now on."""
        self._stamp = _STAMP + log
        self.changes += 1

    @property
    def position(self) -> int | None:
        """Lowest offset that is not finished: what to commit. None while neither a committed offset nor a record is
        known."""
        if self._open:
            return next(iter(self._open))
        if self._highest < 0:
            return self._base
        return self._highest + 1

    @property
    def received_to(self) -> int | None:
        """Offset after the last record received, or the one to start at; None if neither is known."""
        return self._base if self._highest < 0 else self._highest + 1

    @property
    def open_count(self) -> int:
        """Records received and not finished."""
        return len(self._open)

    @property
    def span(self) -> int:
        """Number of offsets from the position to the end of what the map covers."""
        position = self.position
        if position is None:
            return 0
        last = self._carried[-1][1] if self._carried else 0
        return max(0, max(self._highest + 1, last) - position)

    def fits(self, offset: int) -> bool:
        """Whether the map stays within the limit if this record is received too, in whatever order records finish.

        If not, keep the record in the backlog until others have finished. With nothing open it always fits, so that a
        partition can never block itself: the position then moves past everything received.
        """
        if not self._open:
            return True
        position = next(iter(self._open))
        last = self._carried[-1][1] if self._carried else 0
        span = max(offset + 1, last) - position
        # One bit for each offset fits, so any pattern does: the common case, at the cost of two subtractions.
        if span <= self._safe_span:
            return True
        # The worst case for runs: every open record is separated from the next by finished ones.
        gap = 0 if offset == self._highest + 1 else 1
        pieces = len(self._open) + 1 + len(self._gaps) + gap + len(self._carried)
        return _most_chars(pieces, span) <= self._limit

    def received(self, offset: int) -> bool:
        """Track a record as received. False if it must not be processed: it is finished, or it is already open."""
        if offset <= self._highest:
            if not self._fresh:
                # A client delivers records again after a seek or a reconnect.
                return False
            # The first record after the assignment is below the committed offset: the topic was deleted and created
            # again. The map speaks of records of the old log; applied to the new one it would skip records.
            self._carried.clear()
        self._fresh = False
        # With nothing open the position is behind the hole anyway, and no map covers it.
        if self._open and offset != self._highest + 1:
            self._gaps.append((self._highest + 1, offset))
        self._highest = offset
        self.changes += 1
        # Carried ranges that end at or below this offset were passed over: their records no longer exist.
        while self._carried and self._carried[0][1] <= offset:
            self._carried.popleft()
        if self._carried and self._carried[0][0] <= offset:
            start, end = self._carried.popleft()
            if offset + 1 < end:
                self._carried.appendleft((max(start, offset + 1), end))
            return False
        self._open[offset] = None
        return True

    def passes(self, offset: int) -> bool:
        """Whether this record and all later ones may be finished by `pass_to`: none is open, no map covers them."""
        return not self._open and not self._carried and offset > self._highest

    def pass_to(self, offset: int) -> None:
        """Track all records up to this one as received and finished, without opening them one by one.

        Only after `passes` was true for the first of them: an open record below would be passed by the position.
        """
        self._fresh = False
        self._highest = offset
        self.changes += 1

    def finished(self, offset: int) -> None:
        """Track a record as finished. Raises KeyError if it is not open: it would be counted twice."""
        del self._open[offset]
        self.changes += 1
        if self._gaps:
            position = next(iter(self._open)) if self._open else self._highest + 1
            while self._gaps and self._gaps[0][1] <= position:
                self._gaps.popleft()

    def committable(self) -> OffsetAndMetadata | None:
        """What to commit now; None while nothing is known of the partition."""
        position = self.position
        if position is None:
            return None
        return OffsetAndMetadata(position, self._stamp + encode(position, self.finished_beyond(), self._limit))

    def finished_beyond(self) -> list[Range]:
        """Finished ranges above the position, ascending, with at least one offset between any two."""
        found: list[Range] = []
        if self._open:
            done_from: int | None = None
            for start, end in self._unfinished():
                if done_from is not None and done_from < start:
                    found.append((done_from, start))
                done_from = end
            if done_from is not None and done_from <= self._highest:
                found.append((done_from, self._highest + 1))
        for carried in self._carried:
            # The carried ranges lie above everything received; the first may touch the last of those found.
            if found and found[-1][1] == carried[0]:
                found[-1] = (found[-1][0], carried[1])
            else:
                found.append(carried)
        return found

    def _unfinished(self) -> Iterator[Range]:
        """Open offsets and holes, ascending: both sequences are, so this merges them."""
        gaps = iter(self._gaps)
        gap = next(gaps, None)
        for offset in self._open:
            while gap is not None and gap[0] < offset:
                yield gap
                gap = next(gaps, None)
            yield offset, offset + 1
        while gap is not None:
            yield gap
            gap = next(gaps, None)


def encode(position: int, finished: Sequence[Range], limit: int = METADATA_LIMIT) -> str:
    """Finished ranges above a position, as text of at most `limit` characters; empty if there are none.

    If they do not fit, the highest ranges are left out: the next owner would process their records again, and skip
    none. `fits` makes this rare; it can happen when the limit is lowered between two releases.
    """
    if not finished:
        return ""
    text = _shortest(position, finished)
    if len(text) <= limit:
        return text
    # Binary search for the longest prefix that fits. Compression makes the length not strictly monotonic in the number
    # of ranges; a prefix that is a little too short costs repeated work only.
    fitting, too_many = 0, len(finished)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if len(_shortest(position, finished[:middle])) <= limit:
            fitting = middle
        else:
            too_many = middle
    return _shortest(position, finished[:fitting]) if fitting else ""


def decode(progress: OffsetAndMetadata) -> tuple[Range, ...]:
    """The finished ranges above a committed position. Raises OffsetMetadataUnreadable."""
    text = progress.metadata
    if text.startswith(_STAMP):
        text = text[_STAMP_CHARS:]
    if not text:
        return ()
    if not text.startswith(_VERSION):
        raise OffsetMetadataUnreadable(f"commit metadata does not start with {_VERSION}: {text[:16]!r}")
    kind = text[len(_VERSION) : _PREFIX_CHARS]
    try:
        payload = _unsealed(kind, base64.b85decode(text[_PREFIX_CHARS:]))
        if kind in (_RUNS_DEFLATED, _BITS_DEFLATED):
            payload = _inflate(payload)
    except (ValueError, zlib.error) as error:
        raise OffsetMetadataUnreadable(f"commit metadata of kind {kind!r} is damaged: {error}") from error
    numbers = _varints(payload)
    try:
        position, used = next(numbers)
        # A foreign tool may have reset the group's offset and kept the metadata.
        if position != progress.next_offset:
            raise OffsetMetadataUnreadable(
                f"commit metadata belongs to offset {position}, not to {progress.next_offset}"
            )
        if kind in (_RUNS, _RUNS_DEFLATED):
            return _from_runs(position, [value for value, _ in numbers])
        if kind in (_BITS, _BITS_DEFLATED):
            return _from_bits(position, payload[used:])
    except (IndexError, StopIteration) as error:
        raise OffsetMetadataUnreadable(f"commit metadata of kind {kind!r} ends too early") from error
    raise OffsetMetadataUnreadable(f"commit metadata of unknown kind {kind!r}: written by a newer version?")


def log_of(progress: OffsetAndMetadata) -> str | None:
    """Fingerprint of the id of the topic that was committed for; None if an older version, or another tool, did."""
    text = progress.metadata
    if not text.startswith(_STAMP) or len(text) < _STAMP_CHARS:
        return None
    return text[len(_STAMP) : _STAMP_CHARS]


def _raw_bytes_in(chars: int) -> int:
    """Number of bytes that always fit into `chars` characters of base 85, prefix included."""
    return max(0, (chars - _PREFIX_CHARS - 4) * 4 // 5)


def _most_chars(pieces: int, span: int) -> int:
    """Upper bound of the text's length: `pieces` unfinished stretches, each followed by a finished one, within a span.

    The encoder takes the shorter of runs and bits, so the bound is the smaller of the two bounds. It deflates only if
    that makes the text shorter.
    """
    runs = 2 * pieces
    run_bytes = runs
    longer = span >> 7
    while longer:
        # A run of 2^7 offsets needs a second varint byte, one of 2^14 a third. The span has room for this many of them.
        run_bytes += min(runs, longer)
        longer >>= 7
    raw = _OVERHEAD_BYTES + min(run_bytes, (span + 7) // 8)
    return _PREFIX_CHARS + (raw * 5 + 3) // 4 + 1


def _shortest(position: int, finished: Sequence[Range]) -> str:
    head = _varint(position)
    runs = bytearray(head)
    at = position
    for start, end in finished:
        runs += _varint(start - at)
        runs += _varint(end - start)
        at = end
    kinds = {_RUNS: bytes(runs)}
    if (at - position) // 8 < len(runs):
        kinds[_BITS] = head + _bits(position, finished)
    kind = min(kinds, key=lambda name: len(kinds[name]))
    payload = kinds[kind]
    if len(payload) > _WORTH_DEFLATING:
        deflated = zlib.compress(payload, 6)
        if len(deflated) < len(payload):
            kind, payload = (_RUNS_DEFLATED if kind == _RUNS else _BITS_DEFLATED), deflated
    return _VERSION + kind + base64.b85encode(payload + _checksum(kind, payload)).decode("ascii")


def _checksum(kind: str, payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(kind.encode())).to_bytes(_CHECKSUM_BYTES, "big")


def _unsealed(kind: str, sealed: bytes) -> bytes:
    """The payload without its checksum. Raises ValueError if it is damaged: a damaged map could name an open record."""
    payload = sealed[:-_CHECKSUM_BYTES]
    if sealed[-_CHECKSUM_BYTES:] != _checksum(kind, payload):
        raise ValueError("the checksum does not match")
    return payload


def _bits(position: int, finished: Sequence[Range]) -> bytes:
    bits = 0
    for start, end in finished:
        bits |= ((1 << (end - start)) - 1) << (start - position)
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _from_bits(position: int, payload: bytes) -> tuple[Range, ...]:
    bits = int.from_bytes(payload, "little")
    found: list[Range] = []
    at = position
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        at += skip
        run = (~bits & (bits + 1)).bit_length() - 1
        bits >>= run
        found.append((at, at + run))
        at += run
    return tuple(found)


def _from_runs(position: int, runs: Sequence[int]) -> tuple[Range, ...]:
    found: list[Range] = []
    at = position
    for index in range(0, len(runs), 2):
        start = at + runs[index]
        at = start + runs[index + 1]
        found.append((start, at))
    return tuple(found)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varints(payload: bytes) -> Iterator[tuple[int, int]]:
    """Each number, with the index after it. Raises IndexError if the last one is cut off."""
    index = 0
    while index < len(payload):
        value = shift = 0
        while True:
            byte = payload[index]
            index += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                break
        yield value, index


def _inflate(payload: bytes) -> bytes:
    # Bounded: the metadata may come from anyone who can commit for the group.
    inflater = zlib.decompressobj()
    data = inflater.decompress(payload, _LARGEST_PAYLOAD)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("not one complete deflated value of a sensible size")
    return data
