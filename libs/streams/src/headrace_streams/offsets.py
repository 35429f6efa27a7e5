"""How far a partition is worked off when its records finish out of order.

A tracker knows which records of one partition were received and which of them are still open. From that follow the
position to commit (everything received below it is done) and a compact text that names the finished records beyond it,
so that whoever takes the partition over does not do them again. Only received offsets count: an offset that compaction
or a transaction marker has left a hole at is never waited for.
"""

from __future__ import annotations

import base64
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence

from headrace_streams.errors import StreamsError
from headrace_streams.records import OffsetAndMetadata

METADATA_LIMIT = 4_095
"""Most characters a broker takes as commit metadata; 4,096 are refused already."""

Range = tuple[int, int]
"""Offsets from the first up to, not including, the second."""

_VERSION = "h1"
_RUNS, _RUNS_DEFLATED, _BITS, _BITS_DEFLATED = "r", "R", "b", "B"
_PREFIX_CHARS = len(_VERSION) + 1
_CHECKSUM_BYTES = 4
_OVERHEAD_BYTES = 10 + _CHECKSUM_BYTES
"""The position a map belongs to stands in front of it, at most the varint of a 64-bit offset; behind it a checksum."""
_LARGEST_PAYLOAD = 1 << 20
_WORTH_DEFLATING = 48


class OffsetMetadataUnreadable(StreamsError):
    """Start at the committed offset as if nothing beyond it were finished: the commit's metadata is not ours."""


class OffsetTracker:
    """Received and finished offsets of one partition, from its assignment to its loss.

    Args:
        next_offset: Committed offset the partition starts at, None where the group has none yet.
        finished: Ranges beyond it that are finished already, ascending, as `decode` returns them.
        limit: Most characters that `progress` may use as metadata.
    """

    __slots__ = ("_base", "_carried", "_fresh", "_gaps", "_highest", "_limit", "_open", "_safe_span", "changes")

    def __init__(
        self, next_offset: int | None = None, finished: Iterable[Range] = (), *, limit: int = METADATA_LIMIT
    ) -> None:
        self._base = next_offset
        self._highest = -1 if next_offset is None else next_offset - 1
        self._open: OrderedDict[int, None] = OrderedDict()
        # Holes between received offsets, above the position; they are encoded as unfinished.
        self._gaps: deque[Range] = deque()
        # Finished before our time, and not received by us yet.
        self._carried: deque[Range] = deque(finished)
        self._fresh = True
        self._limit = limit
        self._safe_span = 8 * (_raw_bytes_in(limit) - _OVERHEAD_BYTES)
        self.changes = 0
        """Grows with everything that changes what `progress` returns."""

    @property
    def position(self) -> int | None:
        """Offset below which everything received is finished; None before anything is known."""
        if self._open:
            return next(iter(self._open))
        if self._highest < 0:
            return self._base
        return self._highest + 1

    @property
    def received_to(self) -> int | None:
        """The offset behind the last record received, or the one to start at; None before anything is known."""
        return self._base if self._highest < 0 else self._highest + 1

    @property
    def open_count(self) -> int:
        """Records received and not finished."""
        return len(self._open)

    @property
    def span(self) -> int:
        """Offsets from the position to the last one the map must tell about."""
        position = self.position
        if position is None:
            return 0
        last = self._carried[-1][1] if self._carried else 0
        return max(0, max(self._highest + 1, last) - position)

    def fits(self, offset: int) -> bool:
        """Whether, with this record received too, the map surely stays within the limit however its records finish.

        When it does not, leave the record aside until others have finished. With nothing open it always fits.
        """
        if not self._open:
            return True
        position = next(iter(self._open))
        last = self._carried[-1][1] if self._carried else 0
        span = max(offset + 1, last) - position
        if span <= self._safe_span:
            return True
        gap = 0 if offset == self._highest + 1 else 1
        pieces = len(self._open) + 1 + len(self._gaps) + gap + len(self._carried)
        return _most_chars(pieces, span) <= self._limit

    def received(self, offset: int) -> bool:
        """Count a record as received. False: do not work on it, for it is finished or in hand already."""
        if offset <= self._highest:
            if not self._fresh:
                return False
            # The log begins anew below the committed offset: what was said of its old records means nothing here.
            self._carried.clear()
        self._fresh = False
        if self._open and offset != self._highest + 1:
            self._gaps.append((self._highest + 1, offset))
        self._highest = offset
        self.changes += 1
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
        """Whether this record and those behind it may simply be passed: nothing is open, nothing was said of them."""
        return not self._open and not self._carried and offset > self._highest

    def pass_to(self, offset: int) -> None:
        """Count as received and done all up to this record; `passes` must have allowed the first of them."""
        self._fresh = False
        self._highest = offset
        self.changes += 1

    def finished(self, offset: int) -> None:
        """Count a record as done. Raises KeyError for one that is not open."""
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
        return OffsetAndMetadata(position, encode(position, self.finished_beyond(), self._limit))

    def finished_beyond(self) -> list[Range]:
        """Finished ranges above the position, ascending and apart."""
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
            if found and found[-1][1] == carried[0]:
                found[-1] = (found[-1][0], carried[1])
            else:
                found.append(carried)
        return found

    def _unfinished(self) -> Iterator[Range]:
        """Open offsets and holes, ascending."""
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
    """Finished ranges above a position as text of at most `limit` characters; nothing finished is the empty text.

    When they do not fit, the highest ones are left out: their records would be done a second time, never skipped.
    """
    if not finished:
        return ""
    text = _shortest(position, finished)
    if len(text) <= limit:
        return text
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


def _raw_bytes_in(chars: int) -> int:
    """Bytes that surely fit into so many characters as base 85, with the prefix."""
    return max(0, (chars - _PREFIX_CHARS - 4) * 4 // 5)


def _most_chars(pieces: int, span: int) -> int:
    """Upper bound of the text's length for so many unfinished pieces (each followed by finished ones) within a span."""
    runs = 2 * pieces
    run_bytes = runs
    longer = span >> 7
    while longer:
        # At most so many runs are long enough to need one more byte of varint.
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
    """Raises ValueError for a damaged map: it could call a record finished that nobody has done."""
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
    """Each number with the index behind it. Raises IndexError when the last one is cut off."""
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
    inflater = zlib.decompressobj()
    data = inflater.decompress(payload, _LARGEST_PAYLOAD)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("not one complete deflated value of a sensible size")
    return data
