"""`python -m headrace_devstack.compose_secrets`: make the passwords that docker-compose.yml requires, in `.env`.

Passwords that are there stay; only missing ones are made. `HEADRACE_BOOTSTRAP_SIGNING_KEY` follows from two of them
and is made from them each time. The file is readable by its owner only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Final

from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.tools.schemas import repository
from headrace_runtime.access import parse_key

from headrace_devstack.layout import make_api_key, make_password, write_private

_REQUIRED: Final = re.compile(r"\$\{([A-Z0-9_]+):\?")
_ASSIGNED: Final = re.compile(r"^\s*(?:export\s+)?([A-Z0-9_]+)=(.+)$", re.MULTILINE)
_API_KEY: Final = "HEADRACE_BOOTSTRAP_KEY"
_PEPPER: Final = "HEADRACE_KEY_PEPPER"
_SIGNING_KEY: Final = "HEADRACE_BOOTSTRAP_SIGNING_KEY"
_SIGNING_KEY_LINE: Final = re.compile(rf"^[ \t]*(?:export\s+)?{_SIGNING_KEY}=.*\n?", re.MULTILINE)


class NameTheApiKey(ValueError):
    """Set HEADRACE_BOOTSTRAP_KEY to an API key, or remove it so that one is made."""


def required(compose: str) -> list[str]:
    """The variables without which a compose file cannot be used, sorted."""
    return sorted(set(_REQUIRED.findall(compose)))


def completed(compose: str, env: str) -> tuple[str, list[str]]:
    """The text of an `.env` file with all required variables, and the names of those that were added."""
    given: Mapping[str, str] = dict(_ASSIGNED.findall(env))
    added = [name for name in required(compose) if not given.get(name, "").strip()]
    lines = [f"{name}={make_api_key() if name == _API_KEY else make_password()}" for name in added]
    before = env if not env or env.endswith("\n") else env + "\n"
    return before + "".join(f"{line}\n" for line in lines), added


def with_signing_key(env: str) -> str:
    """The text of a complete `.env` file with the signing key of its API key. Containers do not need it, producers do.

    Raises NameTheApiKey.
    """
    given = {name: _as_compose_reads(value) for name, value in _ASSIGNED.findall(env)}
    key = parse_key(given[_API_KEY])
    if key is None:
        raise NameTheApiKey(f"{_API_KEY} must look like hr_<key id>_<secret>: 16 and 48 characters a-z, 2-7")
    return _SIGNING_KEY_LINE.sub("", env) + f"{_SIGNING_KEY}={SigningKey.of(given[_PEPPER], key.key_id)}\n"


def _as_compose_reads(value: str) -> str:
    value = value.strip()
    if value[:1] in ("'", '"'):
        return value[1:].partition(value[0])[0]
    return value.partition(" #")[0].rstrip()


def main() -> int:
    root = repository()
    file = root / ".env"
    env = file.read_text(encoding="utf-8") if file.exists() else ""
    text, added = completed((root / "docker-compose.yml").read_text(encoding="utf-8"), env)
    try:
        text = with_signing_key(text)
    except NameTheApiKey as error:
        sys.stderr.write(f"{file}: {error}\n")
        return 1
    write_private(file, text)
    print(f"{file}: {len(added)} passwords made, those that were there kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
