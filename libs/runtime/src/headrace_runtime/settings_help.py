"""The table printed by `--help`, and warnings about unknown variables."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Mapping
from typing import Final

from headrace_runtime.kafka_properties import VARIABLE_PREFIX as KAFKA_PREFIX
from headrace_runtime.settings import PREFIX, Settings, shown_default_of, unit_of, variable_of

_SIMILAR_ENOUGH: Final = 0.85
_HEADINGS: Final = ("variable", "default", "unit", "reason")


def help_text(cls: type[Settings], version: str, width: int = 150) -> str:
    """Usage of the service: its options, and one row per variable."""
    rows = [
        (variable_of(name, field), shown_default_of(field), unit_of(field) or "", field.description or "")
        for name, field in cls.model_fields.items()
    ]
    lines = [
        f"headrace-{cls.service_name} {version}",
        "",
        f"usage: headrace-{cls.service_name} [--help | --version | --validate]",
        "",
        "  --help      print this and exit",
        "  --version   print the version and exit",
        "  --validate  check the settings without connecting to anything; exit 0 if valid, else 2",
        "",
        "Without an option the service runs until SIGTERM or SIGINT. All settings are environment variables:",
        "",
        *_table(rows, width),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[str, str, str, str]], width: int) -> Iterable[str]:
    widths = [max(len(row[column]) for row in [_HEADINGS, *rows]) for column in range(3)]
    reason_width = max(30, width - sum(widths) - 6)
    rule = ["-" * column for column in widths]
    yield "  ".join([*(_HEADINGS[column].ljust(widths[column]) for column in range(3)), _HEADINGS[3]])
    yield "  ".join([*rule, "-" * reason_width])
    for row in rows:
        wrapped = textwrap.wrap(row[3], reason_width, break_long_words=False) or [""]
        yield "  ".join([*(row[column].ljust(widths[column]) for column in range(3)), wrapped[0]])
        indent = " " * (sum(widths) + 6)
        yield from (indent + more for more in wrapped[1:])


def likely_typos(cls: type[Settings], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pairs (unknown variable in `environ`, the variable that was probably meant).

    Variables of other services are not reported: only names close to one of this service's own are.
    """
    known = {variable_of(name, field): None for name, field in cls.model_fields.items()}
    by_suffix = {variable.removeprefix(PREFIX): variable for variable in known if variable.startswith(PREFIX)}
    found: list[tuple[str, str]] = []
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in known or variable.startswith(KAFKA_PREFIX):
            continue
        close = difflib.get_close_matches(variable.removeprefix(PREFIX), by_suffix, n=1, cutoff=_SIMILAR_ENOUGH)
        if close:
            found.append((variable, by_suffix[close[0]]))
    return tuple(found)
