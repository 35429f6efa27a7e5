"""Appends records with headers whose names are any bytes, as clients in other languages can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

NOT_UTF8 = (b"\xff\xfe", b"ce_\xc3", b"\xed\xa0\x80", b"traceparent\xf8")

RawHeaders = Sequence[tuple[bytes, bytes | None]]


class _Raw(str):
    """A header's name as any bytes: aiokafka asks the name for its bytes."""

    data = b""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.data


def _raw(data: bytes) -> _Raw:
    name = _Raw("raw")
    name.data = data
    return name


async def append_raw(
    kafka: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    records: Sequence[tuple[bytes, RawHeaders]],
    *,
    key: bytes = b"k",
    partition: int = 0,
) -> None:
    """Append these values with these headers as one batch."""
    # The builder in C takes no such names.
    monkeypatch.setattr(message_accumulator, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    producer: Any = AIOKafkaProducer(bootstrap_servers=kafka, max_batch_size=4_000_000)  # type: ignore[no-untyped-call]
    async with producer:
        batch = producer.create_batch()
        for value, headers in records:
            raw = [(_raw(name), content) for name, content in headers]
            assert batch.append(timestamp=None, value=value, key=key, headers=raw) is not None
        batch.close()
        await (await producer.send_batch(batch, topic, partition=partition))
