"""Sites: names of groups of local workers that reach the same nodes, such as a place, a rack or one machine.

The workers of a site read topics of their own, so an attempt only lands where a node has its model. Workers without a
site share the topics without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

NO_SITE: Final = ""
LONGEST_SITE: Final = 40
_NAME: Final = re.compile(rf"[a-z0-9-]{{1,{LONGEST_SITE}}}")
_LANES: Final = ("interactive", "batch")


class SiteInvalid(ValueError):
    """Correct the name of a site; the message says how."""


def site_name(text: str) -> str:
    """The name of a site, as it is. Raises SiteInvalid."""
    if _NAME.fullmatch(text) is None:
        raise SiteInvalid(
            f"{text!r} is no name of a site: 1 to {LONGEST_SITE} lower-case letters a to z, digits and hyphens, "
            "as in berlin or gpu-1"
        )
    if text in _LANES:
        raise SiteInvalid(f"a site cannot be named {text!r}: that is a lane")
    return text


def site_names(texts: Iterable[str]) -> tuple[str, ...]:
    """The names of sites, each once. Raises SiteInvalid."""
    return tuple(dict.fromkeys(site_name(text) for text in texts))
