"""Settings and wiring of a service, found by its description."""

from __future__ import annotations

import importlib
from typing import Any

from headrace_devstack.descriptions import ServiceDescription
from headrace_runtime.settings import ServiceSettings


def settings_of(service: ServiceDescription) -> type[ServiceSettings]:
    """The one class of settings that the service declares."""
    module = importlib.import_module(f"{service.package}.settings")
    (found,) = (
        declared
        for declared in vars(module).values()
        if isinstance(declared, type)
        and issubclass(declared, ServiceSettings)
        and declared.__module__ == module.__name__
    )
    return found


def wiring_of(service: ServiceDescription) -> Any:
    """The module with its `build`, `READS` and `WRITES`."""
    return importlib.import_module(f"{service.package}.wiring")
