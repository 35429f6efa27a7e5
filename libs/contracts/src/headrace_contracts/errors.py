"""Errors of the contracts, each named after what the caller must do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """Source of a value: a topic (with prefix), a partition and an offset."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class ContractError(Exception):
    """Base of all errors of this package."""


class UnreadableValue(ContractError):
    """The value can never be decoded: write the record to the dead-letter topic.

    `origin` identifies the record, `reason` says what is wrong with it.
    """

    def __init__(self, origin: Origin, reason: str) -> None:
        super().__init__(f"{origin}: {reason}")
        self.origin = origin
        self.reason = reason


class NullValue(UnreadableValue):
    """The record has no value (a tombstone) where one is required."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin, "the value is null")


class BadBytes(UnreadableValue):
    """The value is not in the Confluent wire format, or does not match its schema."""


class UnknownSchema(UnreadableValue):
    """The registry has no schema with the id in the value, or one that cannot be read as the expected event."""

    def __init__(self, origin: Origin, schema_id: int, reason: str) -> None:
        super().__init__(origin, f"schema {schema_id}: {reason}")
        self.schema_id = schema_id


class UnusableSchema(ContractError):
    """Do not ask again: the registry has this id, but no schema that values can be decoded with."""


class SchemaNotCached(ContractError):
    """Fetch the schema (`Codec.learn` or `Codec.fetch`), then decode again."""

    def __init__(self, origin: Origin, schema_id: int) -> None:
        super().__init__(f"{origin}: schema {schema_id} has not been fetched from the registry yet")
        self.origin = origin
        self.schema_id = schema_id


class RegistryUnavailable(ContractError):
    """Try again later: the schema registry cannot be reached, reports trouble of its own, or refuses our access."""


class RegistryAccessRefused(RegistryUnavailable):
    """Correct the login, or grant the right: the registry answers, but not to us. The message names the settings."""


class RegistryAccessInvalid(ContractError, ValueError):
    """Correct the setting that the message names: nobody could log in to a registry this way."""


class SchemaIdsLost(RegistryUnavailable):
    """Try again when the registry has been repaired: it no longer holds our schemas under the ids that we write.

    It has been emptied, restored from an old copy, or replaced. Nothing was written, and no record is to blame.
    """


class SchemaMissing(ContractError):
    """Provision first: the registry does not have a schema that this program writes."""


class SchemaIncompatible(ContractError):
    """Correct the schema: the registry refused it because it is incompatible with earlier versions."""


class UnencodableEvent(ContractError):
    """Correct the event: a field's value does not have the type that the schema requires."""
