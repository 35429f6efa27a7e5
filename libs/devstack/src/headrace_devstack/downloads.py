"""``python -m headrace_devstack.downloads``: fill the cache, so that everything else runs offline.

The cache also gets what Java keeps for its next start: where that is missing, Kafka and the registry run once.
"""

import asyncio
import sys

from rich.console import Console

from headrace_devstack.artifacts import ArtifactCache
from headrace_devstack.errors import DevstackError
from headrace_devstack.java_training import train
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar, print_error


def main() -> int:
    """Fetch and make what is missing; returns the exit code."""
    console = Console()
    bar = DownloadBar(console)
    try:
        settings = load_settings()
        bundles = ArtifactCache(settings.cache, settings.maven_repository).fetch(bar)
        if asyncio.run(train(bundles)):
            console.print("  Kafka and the registry have run once, for faster starts")
    except DevstackError as error:
        print_error(Console(stderr=True), error)
        return 1
    finally:
        bar.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
