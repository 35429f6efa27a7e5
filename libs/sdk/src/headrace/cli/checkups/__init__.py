"""The checks of `headrace doctor`: each part separately, all concurrently, none longer than some seconds.

What a check asks is gathered at the edge; what follows from it is decided by pure functions (`judge_...`). Other
packages add theirs by entry points of the group `headrace.checkups`, each a `Checkup`.
"""

from headrace.cli.checkups.examining import CHECKUPS, examine, installed_checkups
from headrace.cli.checkups.findings import Checkup, Finding

__all__ = ["CHECKUPS", "Checkup", "Finding", "examine", "installed_checkups"]
