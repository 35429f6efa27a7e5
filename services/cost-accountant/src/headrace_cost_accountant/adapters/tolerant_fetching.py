"""Lets aiokafka read what others may write, batch by batch.

aiokafka raises on a header whose name is not UTF-8, and on any batch that it cannot unpack. Its position then stays in
front of that batch, so Faust fails on it again after every restart. Here headers, which nobody reads, are passed over
by their length, and a batch that cannot be unpacked costs that batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import described

_log = get_logger("headrace.costs.windows")

OnSkipped = Callable[[str, int, int, int], None]
"""Called with topic, partition, first offset that is skipped, and the offset after the last one."""


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]  # final: the compiled one cannot be extended
    """A batch whose records have no headers."""

    def _read_msg(self, _decode_varint: Any = None) -> _DefaultRecordPy:
        buffer = self._buffer
        length, at = decode_varint(buffer, self._pos)
        end = at + length
        _, at = decode_varint(buffer, at)  # attributes
        later_ms, at = decode_varint(buffer, at)
        offset_delta, at = decode_varint(buffer, at)
        key, at = _bytes(buffer, at)
        value, at = _bytes(buffer, at)
        if not at <= end <= len(buffer):
            raise ValueError(f"a record of {length} bytes that is longer or shorter than it says")
        self._pos = end
        timestamp = (
            self.max_timestamp if self.timestamp_type == self.LOG_APPEND_TIME else self.first_timestamp + later_ms
        )
        return _DefaultRecordPy(self.base_offset + offset_delta, timestamp, self.timestamp_type, key, value, [])


def _bytes(buffer: Any, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(buffer, at)
    return (None, at) if length < 0 else (bytes(buffer[at : at + length]), at + length)


class _Records(_MemoryRecordsPy):  # type: ignore[misc]  # as above
    """The batches of one response, which knows where the last one ends."""

    end = -1

    def next_batch(self, *_: Any) -> Any:
        taken = self._next_slice
        if taken is None:
            return None
        self._cache_next()
        batch = _Batch(taken)
        self.end = batch.next_offset
        return batch


def install(on_skipped: OnSkipped) -> None:
    """Make aiokafka's consumers of this process tolerant. Only Faust uses it here."""

    class _Tolerant(PartitionRecords):
        def __next__(self) -> Any:
            while True:
                try:
                    return super().__next__()  # type: ignore[no-untyped-call]
                except StopIteration:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it is, it is about this batch
                    self._skip(error)

        def _skip(self, error: Exception) -> None:
            first, end = self.next_fetch_offset, max(self.next_fetch_offset + 1, self._records.end)
            _log.error(
                "live windows skip records that cannot be unpacked",
                topic=self._tp.topic, partition=self._tp.partition, first=first, end=end, reason=described(error),
            )  # fmt: skip
            on_skipped(self._tp.topic, self._tp.partition, first, end)
            self.next_fetch_offset = end
            self._records_iterator = self._unpack_records()  # type: ignore[no-untyped-call]

    setattr(fetcher, "MemoryRecords", _Records)  # noqa: B010 - the names that it looks up
    setattr(fetcher, "PartitionRecords", _Tolerant)  # noqa: B010
