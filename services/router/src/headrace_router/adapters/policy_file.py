"""Reads a routing policy, or what a tenant narrows of it, from YAML."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

from headrace_runtime.bodies import WHOLE
from headrace_runtime.invalid_fields import invalid_fields
from pydantic import BaseModel, ValidationError

from headrace_router.adapters.yaml_lines import YamlDocument, YamlInvalid, read_yaml
from headrace_router.decide.policy import Policy
from headrace_router.decide.tenant_policy import TenantPolicy, narrowed

_Model = TypeVar("_Model", bound=BaseModel)

_PATH: Final = re.compile(r"[\w.:/-]+(?=: )")
"""What is about several keys names them in its message."""


class PolicyInvalid(Exception):
    """The policy is invalid: each line of the message names a line, a key and what is wrong with it."""


def parse_policy(text: str, source: str) -> Policy:
    """Parse a policy from YAML text; `source` names it in errors. Raises PolicyInvalid."""
    return _parsed(Policy, text, source)[0]


def parse_tenant_policy(text: str, source: str, policy: Policy) -> TenantPolicy:
    """Parse what a tenant narrows of a policy. Raises PolicyInvalid, also for what goes beyond that policy."""
    said, document = _parsed(TenantPolicy, text, source)
    _, problems = narrowed(policy, said)
    if problems:
        raise PolicyInvalid("\n".join(_placed(problem, source, document) for problem in problems))
    return said


def read_tenant_policy(text: str, source: str) -> TenantPolicy:
    """Parse what a tenant narrows, of whichever policy. Raises PolicyInvalid."""
    return _parsed(TenantPolicy, text, source)[0]


def load_policy(path: Path | None) -> Policy:
    """Load the policy from a file, or the shipped one if no path is given. Raises PolicyInvalid."""
    return parse_policy(*policy_text(path))


def policy_text(path: Path | None) -> tuple[str, str]:
    """The text of a file, or of the shipped policy, and what to call it in errors. Raises PolicyInvalid."""
    if path is None:
        shipped = resources.files("headrace_router").joinpath("policy.yaml")
        return shipped.read_text(encoding="utf-8"), "the shipped policy"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except OSError as error:
        raise PolicyInvalid(f"{path}: {error.strerror}: check HEADRACE_POLICY_FILE") from None
    except UnicodeDecodeError:
        raise PolicyInvalid(f"{path}: not UTF-8") from None


def _parsed(model: type[_Model], text: str, source: str) -> tuple[_Model, YamlDocument]:
    try:
        document = read_yaml(text)
    except YamlInvalid as error:
        raise PolicyInvalid(f"{source}: {error}") from None
    try:
        return model.model_validate(document.value), document
    except ValidationError as error:
        raise PolicyInvalid("\n".join(_problems(error, source, document))) from None


def _problems(error: ValidationError, source: str, document: YamlDocument) -> list[str]:
    found: list[str] = []
    for wrong in invalid_fields(error, document.value):
        if wrong.field == WHOLE:
            found += [_placed(problem, source, document) for problem in wrong.message.splitlines()]
        else:
            line = document.line_of(_steps(wrong.field, document.value))
            found.append(f"{source}: line {line}: {wrong.field}: {wrong.message}")
    return found


def _placed(problem: str, source: str, document: YamlDocument) -> str:
    named = _PATH.match(problem)
    if named is None:
        return f"{source}: {problem}"
    return f"{source}: line {document.line_of(_steps(named.group(), document.value))}: {problem}"


def _steps(path: str, here: Any) -> list[str]:
    """The steps of a path, whose names may have dots themselves (`models.llama3.2:1b`)."""
    steps: list[str] = []
    rest = path
    while rest:
        if isinstance(here, dict):
            name = max((str(k) for k in here if rest == str(k) or rest.startswith(f"{k}.")), key=len, default=None)
            name = rest.partition(".")[0] if name is None else name
            here = next((value for key, value in here.items() if str(key) == name), None)
        else:
            name = rest.partition(".")[0]
            here = here[int(name)] if isinstance(here, list) and name.isdigit() and int(name) < len(here) else None
        steps.append(name)
        rest = rest[len(name) + 1 :]
    return steps
