"""What runs the command line, where its addresses are from, and whether there is room on the disk."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from headrace.addresses import Addresses
from headrace.cli.checkups.findings import Finding
from headrace.cli.checkups.services import installed

_ROOM_BYTES: Final = 1_000_000_000


def check_python() -> Finding:
    """What runs this program."""
    found = ".".join(map(str, sys.version_info[:3]))
    names = ("headrace", "headrace-devstack")
    versions = ", ".join(f"{name} {installed(name)}" for name in names)
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, f"{found}; {versions}", "install Python 3.11 or newer")


def check_source(addresses: Addresses) -> Finding:
    """Where its addresses are from."""
    if addresses.stack_file is not None:
        simulated = addresses.stack.get("simulated") or []
        note = f"; simulated providers: {', '.join(map(str, simulated))}" if simulated else ""
        return Finding("addresses", True, f"from {addresses.stack_file}{note}")
    named = [name for name in ("url", "bootstrap_servers") if getattr(addresses, name)]
    if named:
        return Finding("addresses", True, "from environment variables")
    remedy = "run `headrace up` in this folder or one above, or set HEADRACE_URL and HEADRACE_API_KEY"
    return Finding("addresses", False, "no running stack was found, and no variable is set", remedy)


def check_disk(addresses: Addresses) -> Finding:
    """Room for the data of the stack, or else here."""
    data = addresses.stack.get("data")
    folder = Path(data) if isinstance(data, str) and Path(data).is_dir() else Path.cwd()
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free at {folder}"
    return Finding("disk", free >= _ROOM_BYTES, detail, "free at least 1 GB: Kafka stops when its disk is full")
