"""What a task's `model` and `role` designate. Both doors of tasks read them alike."""

from __future__ import annotations

from typing import Final

AUTO: Final = "auto"
"""The model's name that leaves the choice to the role, or to the routing policy."""
ROLE_PREFIX: Final = "role:"


class DesignationInvalid(Exception):
    """Refuse the task: `field` is the field that is wrong, the text says why."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def designation(model: str | None, role: str | None) -> tuple[str | None, str | None]:
    """The pair (role, model) for the `model` field (`role:x`, `auto`, a model name) and the `role` field.

    Raises DesignationInvalid when they name two roles, or a role and a model.
    """
    if model is None or model == AUTO:
        return role, None
    if not model.startswith(ROLE_PREFIX):
        if role is not None:
            raise DesignationInvalid("Name a model or a role, not both: a role chooses its model.", "role")
        return None, model
    named = model.removeprefix(ROLE_PREFIX)
    if not named:
        raise DesignationInvalid("role: must be followed by the name of a role, as in role:code_reviewer.", "model")
    if role is not None and role != named:
        raise DesignationInvalid("`model` and `role` name two different roles.", "role")
    return named, None
