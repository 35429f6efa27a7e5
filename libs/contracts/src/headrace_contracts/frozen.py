"""Frozen dataclasses that cost little to make.

The `__init__` of a frozen dataclass sets each field through `object.__setattr__`: for a record of thirty fields that
takes longer than everything else that is done with most records. Here a record is filled while it is of a class with
the same slots that is not frozen, its *draft*, which is what the interpreter does fastest, and becomes what it is after
that. Nobody else has a record while it is a draft.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)
_Record = TypeVar("_Record")

_COPIES: dict[type, Any] = {}
"""By class what makes a copy of a record with other values for some fields."""

_INIT = """\
def __init__(self{star}{parameters}):
{made}    __become__(self, "__class__", __draft__)
{filled}    self.__class__ = __record__
"""
_COPY = """\
def copy(record, changes):
    made = __new__(__draft__)
{filled}    for name, value in changes.items():
        __set__(made, name, value)
    made.__class__ = __record__
    return made
"""


def cheaply_made(cls: _Class) -> _Class:
    """Decorator above `@dataclass(frozen=True, slots=True)`: the same class, whose records cost less to make.

    Raises TypeError for a class that it cannot do this for: not frozen, no slots, `__post_init__`, a field that is no
    parameter, or a base class with fields.
    """
    of_class = fields(cls)
    names = [each.name for each in of_class]
    parameters = getattr(cls, "__dataclass_params__", None)
    if (
        parameters is None
        or not parameters.frozen
        or hasattr(cls, "__post_init__")
        or not all(each.init for each in of_class)
        or list(cls.__dict__.get("__slots__", ())) != names
    ):
        raise TypeError(f"{cls.__name__} must be a frozen dataclass with slots, whose fields are its parameters")
    draft = type(f"_DraftOf{cls.__name__}", (), {"__slots__": tuple(names)})
    known: dict[str, Any] = {
        "__draft__": draft,
        "__record__": cls,
        "__become__": object.__setattr__,
        "__new__": object.__new__,
        "__set__": setattr,
        "__missing__": MISSING,
    }
    listed, made = [], []
    for number, each in enumerate(of_class):
        if each.default_factory is not MISSING:
            known[f"__factory_{number}__"] = each.default_factory
            listed.append(f"{each.name}=__missing__")
            made.append(f"    if {each.name} is __missing__: {each.name} = __factory_{number}__()\n")
        elif each.default is not MISSING:
            known[f"__default_{number}__"] = each.default
            listed.append(f"{each.name}=__default_{number}__")
        else:
            listed.append(each.name)
    init = _INIT.format(
        star=", *" if names and all(each.kw_only for each in of_class) else "",
        parameters="".join(f", {one}" for one in listed),
        made="".join(made),
        filled="".join(f"    self.{name} = {name}\n" for name in names),
    )
    copy = _COPY.format(filled="".join(f"    made.{name} = record.{name}\n" for name in names))
    functions: dict[str, Any] = {}
    exec(init + copy, known, functions)
    functions["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    functions["__init__"].__annotations__ = cls.__dict__["__init__"].__annotations__
    setattr(cls, "__init__", functions["__init__"])  # noqa: B010  # mypy knows no other way to give a class one
    _COPIES[cls] = functions["copy"]
    return cls


def changed(record: _Record, /, **changes: Any) -> _Record:
    """As `dataclasses.replace`, of a cheaply made class: a copy with other values for some fields. Its types are not
    checked, so it is for where the time counts. Raises TypeError for a field that there is not."""
    try:
        made: _Record = _COPIES[type(record)](record, changes)
    except AttributeError:
        raise TypeError(f"{type(record).__name__} has no such fields: {', '.join(changes)}") from None
    return made
