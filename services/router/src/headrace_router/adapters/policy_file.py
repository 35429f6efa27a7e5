"""Reads a routing policy from YAML."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from headrace_runtime.bodies import WHOLE
from headrace_runtime.invalid_fields import InvalidField, invalid_fields
from pydantic import ValidationError

from headrace_router.decide.policy import Policy


class PolicyInvalid(Exception):
    """The policy file is invalid: each line of the message names a key and what is wrong with it."""


def parse_policy(text: str, source: str) -> Policy:
    """Parse a policy from YAML text; `source` names it in errors. Raises PolicyInvalid."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolicyInvalid(f"{source}: not YAML: {error}") from None
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise PolicyInvalid("\n".join(_problem(source, wrong) for wrong in invalid_fields(error, data))) from None


def load_policy(path: Path | None) -> Policy:
    """Load the policy from a file, or the shipped one if no path is given. Raises PolicyInvalid."""
    if path is None:
        shipped = resources.files("headrace_router").joinpath("policy.yaml")
        return parse_policy(shipped.read_text(encoding="utf-8"), "the shipped policy")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyInvalid(f"{path}: {error.strerror}: check HEADRACE_POLICY_FILE") from None
    return parse_policy(text, str(path))


def _problem(source: str, wrong: InvalidField) -> str:
    # What is about several keys names them in its message.
    return f"{source}: {wrong.message}" if wrong.field == WHOLE else f"{source}: {wrong.field}: {wrong.message}"
