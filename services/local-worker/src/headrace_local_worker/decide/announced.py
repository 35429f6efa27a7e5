"""Which node follows from what its agent announces; nothing of it is believed unseen."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from headrace_contracts.events import NodeAnnounced
from headrace_contracts.model_settings import ModelSettingInvalid, node_defaults
from headrace_models.local_servers import is_a_clouds

from headrace_local_worker.decide.nodes import NodeSpec

_MOST_SLOTS: Final = 1_024
_MOST_LABELS: Final = 32
_LONGEST_TEXT: Final = 200
_LONGEST_URL: Final = 2_000


def announced_node(said: NodeAnnounced, site: str) -> NodeSpec | str | None:
    """The node; a text that says why it cannot be used, and how to mend it; None for one of another site.

    Its name needs no check: the record's signature is made with the key of that name.
    """
    if said.site != site:
        return None
    objection = _objection_to(said.url)
    if objection:
        return f"the agent of {said.node} announces an address that cannot be used ({objection}): correct its --url"
    if not 1 <= said.slots <= _MOST_SLOTS:
        return f"the agent of {said.node} announces {said.slots} slots, not 1 to {_MOST_SLOTS}: correct its --slots"
    labels = {
        name: value
        for name, value in sorted(said.labels.items())[:_MOST_LABELS]
        if 0 < len(name) <= _LONGEST_TEXT and len(value) <= _LONGEST_TEXT
    }
    try:
        defaults = node_defaults(said.settings)
    except ModelSettingInvalid as error:
        return f"the agent of {said.node} announces a setting that cannot be used ({error}): correct its --set"
    drained = (said.reason[:_LONGEST_TEXT] or "its agent takes no new calls") if said.drained else ""
    return NodeSpec(
        said.node, said.url.rstrip("/"), said.slots, labels, drained=drained, defaults=defaults, slots_told=True
    )


def _objection_to(url: str) -> str:
    if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return "it is no URL"
    try:
        parsed = urlsplit(url)
        port_is_one = parsed.port is None or parsed.port > 0
    except ValueError:
        return "it is no URL"
    if parsed.scheme not in ("http", "https") or not parsed.hostname or not port_is_one:
        return "it must read http://host:port or https://host:port"
    if parsed.username is not None or parsed.query or parsed.fragment:
        return "it must not contain a user, a query or a fragment"
    if is_a_clouds(parsed.hostname):
        return "it is a cloud's: what is sent there does not stay with us"
    return ""
