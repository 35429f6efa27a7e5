"""``python -m headrace_devstack``: the same as ``headrace up``."""

import typer

from headrace_devstack.cli import up

if __name__ == "__main__":
    typer.run(up)
