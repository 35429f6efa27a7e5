"""What an Ollama server lists: which of its models it runs itself, and which it passes on to its maker's cloud.

A server that is signed in lists models of ollama.com beside its own and answers chats with them as if they were local
(https://docs.ollama.com/cloud). Being reachable at our address proves nothing: "local" is shown for each model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_REMOTE_FIELDS: Final = ("remote_host", "remote_model")
_CLOUD_NAME: Final = re.compile(r"[:\-]cloud$", re.IGNORECASE)
"""Ollama's own test of a name: the tag is `cloud` or ends in `-cloud` (`gpt-oss:120b-cloud`, `kimi-k2:cloud`)."""


def runs_elsewhere(entry: Mapping[str, Any]) -> bool:
    """Whether a model runs at another host than the server that lists it; also for a chat's answer.

    `entry` is an element of `/api/tags` or `/api/ps`, a document of `/api/show`, or a part of an answer. Any trace of
    a remote is taken as one: a model wrongly left out costs capacity, one wrongly let in costs privacy.
    """
    if any(entry.get(field) not in (None, "", False) for field in _REMOTE_FIELDS):
        return True
    return any(
        isinstance(name := entry.get(field), str) and _CLOUD_NAME.search(name.strip()) is not None
        for field in ("name", "model")
    )
