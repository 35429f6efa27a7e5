"""``python -m headrace_devstack.downloads``: fill the cache, so that everything else runs offline."""

import sys

from rich.console import Console

from headrace_devstack.artifacts import ArtifactCache
from headrace_devstack.errors import DevstackError
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar, print_error


def main() -> int:
    """Fetch missing files; returns the exit code."""
    bar = DownloadBar(Console())
    try:
        settings = load_settings()
        ArtifactCache(settings.cache, settings.maven_repository).fetch(bar)
    except DevstackError as error:
        print_error(Console(stderr=True), error)
        return 1
    finally:
        bar.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
