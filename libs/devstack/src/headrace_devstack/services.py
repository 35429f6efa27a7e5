"""The services, as described when `make generate` last ran; `headrace up` and all manifests are derived from them."""

from importlib.resources import files
from typing import Final

from headrace_devstack.descriptions import ALL

SERVICES: Final = ALL.validate_json(files("headrace_devstack").joinpath("services.json").read_bytes())
"""All of them, in the order of their ops ports."""
NAMES: Final = tuple(service.name for service in SERVICES)
