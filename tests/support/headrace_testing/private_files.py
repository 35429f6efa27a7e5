"""What others than its owner may do with a data folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_to_others(data: Path) -> list[str]:
    """Everything in the folder, and in the database that root's is elsewhere, that others may read, write or enter."""
    found = []
    places = [data.resolve()]
    if (data / "postgres").is_symlink():
        places.append((data / "postgres").resolve())
    for place in places:
        listed = [place, *(Path(parent, name) for parent, folders, files in os.walk(place) for name in folders + files)]
        for path in listed:
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # Kafka and Postgres remove files as they please
                continue
            if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
                found.append(f"{stat.filemode(mode)} {path.relative_to(place.parent)}")
    return found
