"""The services that `headrace up` runs and everything else follows from, as described when `make generate` last ran."""

from importlib.resources import files
from typing import Final

from headrace_devstack.descriptions import ALL

SERVICES: Final = ALL.validate_json(files("headrace_devstack").joinpath("services.json").read_bytes())
"""All of them, in the order of their ops ports."""
NAMES: Final = tuple(service.name for service in SERVICES)
