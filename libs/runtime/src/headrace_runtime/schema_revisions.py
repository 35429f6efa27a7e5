"""Revisions of a schema, as they stand in a package and in Postgres; neither needs Alembic to be read."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

VERSION_TABLE: Final = "alembic_version"


@dataclass(frozen=True, slots=True)
class Revision:
    """The revision of a schema.

    Attributes:
        schema: Its name.
        name: The revision, "" for none.
        newer: Whether this release does not know the revision, because a newer one has migrated the schema.
    """

    schema: str
    name: str
    newer: bool = False

    def __str__(self) -> str:
        said = f"schema {self.schema} is at {self.name or 'no revision'}"
        return f"{said}, of a newer release than this one" if self.newer else said


def newest_revision(versions: Path) -> str:
    """The revision that no other one in this folder follows.

    Raises RuntimeError unless there is exactly one.
    """
    found = [_assigned(ast.parse(file.read_bytes())) for file in versions.glob("*.py")]
    names = {one["revision"] for one in found if "revision" in one}
    heads = names - {one.get("down_revision") for one in found}
    if len(heads) != 1:
        raise RuntimeError(f"{versions} holds {len(heads)} newest migrations: the package was built without them")
    return heads.pop()


async def stored_revision(dsn: str, schema: str, seconds: float) -> str | None:
    """The revision of the schema in Postgres; None if it has never been migrated. Raises OSError and asyncpg's errors.

    Args:
        seconds: Longest time to connect.
    """
    connection = await asyncpg.connect(dsn, timeout=seconds)
    try:
        table = f"{schema}.{VERSION_TABLE}"
        if await connection.fetchval("SELECT to_regclass($1)", table) is None:
            return None
        stored: str | None = await connection.fetchval(f"SELECT version_num FROM {table}")
        return stored
    finally:
        await connection.close()


def _assigned(module: ast.Module) -> dict[str, str]:
    """Names to which the module assigns texts."""
    return {
        statement.targets[0].id: statement.value.value
        for statement in module.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    }
