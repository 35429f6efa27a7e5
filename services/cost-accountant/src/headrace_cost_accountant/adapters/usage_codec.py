"""The contracts' codec as a Faust codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from faust.serializers.codecs import Codec as FaustCodec
from headrace_contracts.codec import Codec
from headrace_contracts.errors import ContractError, Origin
from headrace_contracts.events import UsageRecorded

_SOMEWHERE: Final = Origin("usage.recorded", -1, -1)


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Bytes that could not be decoded without a call to the registry, or not at all."""

    value: bytes


class UsageCodec(FaustCodec):
    """Decodes usage events.

    Faust decodes records before its agents see them, where no call may block, and an error stops its whole consumer.
    So a record that cannot be decoded at once is passed on undecoded.
    """

    def __init__(self, codec: Codec, children: Any = None) -> None:
        super().__init__(children, codec=codec)
        self._codec = codec

    def _loads(self, s: bytes) -> UsageRecorded | Undecoded:
        try:
            return self._codec.decode(UsageRecorded, s, _SOMEWHERE)
        except ContractError:
            return Undecoded(s)
