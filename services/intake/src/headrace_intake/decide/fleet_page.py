"""The fleet as a page for people: nodes, their models, and the models that are being pulled. Pure; no scripts, nothing
loaded from elsewhere. Whatever nodes and workers say is escaped and shortened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from headrace_contracts.events import ModelStatus, NodeStatus, Place, PlacementAction, PlacementPhase, PlacementStatus

from headrace_intake.decide.models import is_fresh

_MOST_NODES: Final = 500
_MOST_MODELS: Final = 40
_LONGEST_TEXT: Final = 200
_GONE_MS: Final = 24 * 3_600_000
"""Nodes of which nothing has been heard for longer are not shown."""
_AGAIN_SECONDS: Final = 5
_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;padding:0 1rem}
body{color:#1b1f24;background:#fff}
h1{font-size:1.4rem;margin:0}p{margin:.3rem 0 1rem;color:#57606a}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.45rem .7rem;border-bottom:1px solid #d8dee4}
th{font-weight:600;color:#57606a;white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums}
ul{margin:0;padding:0;list-style:none}li{padding:.1rem 0}.in{font-weight:600}.quiet{color:#57606a}
.ok{color:#116329}.bad{color:#a40e26}progress{width:10rem;height:.8rem;vertical-align:middle}
caption{text-align:left;font-weight:600;padding:1.2rem 0 .3rem}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}p,th,.quiet{color:#9198a1}
th,td{border-color:#30363d}.ok{color:#3fb950}.bad{color:#ff7b72}}
"""


def fleet_page(reports: Iterable[NodeStatus], now_ms: int) -> str:
    """The page, as of a time in milliseconds since the epoch. Of a node that several workers report, the newest report
    counts; what is being pulled or loaded comes from all of them."""
    kept = [report for report in reports if now_ms - report.reported_at < _GONE_MS]
    newest: dict[tuple[str, str, str], NodeStatus] = {}
    for report in kept:
        name = report.place.value, report.site, report.node
        if name not in newest or newest[name].reported_at < report.reported_at:
            newest[name] = report
    nodes = [newest[name] for name in sorted(newest, key=lambda name: (name[0] != Place.LOCAL.value, *name))]
    at = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    usable = sum(node.healthy and is_fresh(node, now_ms) for node in nodes)
    busy, slots = sum(max(0, node.busy) for node in nodes), sum(max(0, node.slots) for node in nodes)
    return "".join((
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Headrace fleet</title>',
        '<meta name="viewport" content="width=device-width">',
        f'<meta http-equiv="refresh" content="{_AGAIN_SECONDS}"><style>{_STYLE}</style></head><body><h1>Fleet</h1>',
        f"<p>{usable} of {len(nodes)} nodes and providers accept work, {busy} of {slots} slots are busy. ",
        f"As of {at} UTC; shown anew every {_AGAIN_SECONDS} s. Models in memory are bold.</p>",
        _placements(kept, now_ms),
        "<table><caption>Nodes and providers</caption><thead><tr><th>Node<th>Site<th>State",
        "<th class=n>Busy<th class=n>Tokens/s<th>Models</tr></thead><tbody>",
        *(_row(node, now_ms) for node in nodes[:_MOST_NODES]),
        "</tbody></table>",
        "" if nodes else "<p>No worker has reported a node yet.</p>",
        f"<p>and {len(nodes) - _MOST_NODES} more</p>" if len(nodes) > _MOST_NODES else "",
        "</body></html>",
    ))  # fmt: skip


def _row(node: NodeStatus, now_ms: int) -> str:
    speed = "" if not node.tokens_per_second else f"{node.tokens_per_second:.1f}"
    kind = node.provider if node.place is Place.LOCAL else f"{node.provider}, cloud"
    kind += ", simulated" if node.simulated else ""
    return (
        f"<tr><td>{_text(node.node)}<br><span class=quiet>{_text(kind)}</span><td>{_text(node.site)}"
        f"<td>{_state(node, now_ms)}<td class=n>{node.busy}&nbsp;of&nbsp;{node.slots}<td class=n>{speed}"
        f"<td>{_models(node.models)}</tr>"
    )


def _state(node: NodeStatus, now_ms: int) -> str:
    if not is_fresh(node, now_ms):
        return f"<span class=bad>silent for {_span((now_ms - node.reported_at) // 1000)}</span>"
    if node.healthy:
        return "<span class=ok>accepts work</span>"
    return f"<span class=bad>{_text(node.reason or 'accepts no work')}</span>"


def _models(models: Sequence[ModelStatus]) -> str:
    first = sorted(models, key=lambda model: (not model.loaded, model.name))
    shown = [
        f"<li{' class=in' if model.loaded else ''}>{_text(model.name)}"
        f"{f' <span class=quiet>{_size(model.size_bytes)}</span>' if model.size_bytes else ''}</li>"
        for model in first[:_MOST_MODELS]
    ]
    more = f"<li class=quiet>and {len(models) - _MOST_MODELS} more</li>" if len(models) > _MOST_MODELS else ""
    return f"<ul>{''.join(shown)}{more}</ul>"


def _placements(reports: Iterable[NodeStatus], now_ms: int) -> str:
    """What is being pulled, loaded, unloaded or removed, and what has ended last."""
    found: dict[str, tuple[str, PlacementStatus, bool]] = {}
    for report in reports:
        for status in report.placements:
            known = found.get(status.request_id)
            if known is None or known[1].updated_at < status.updated_at:
                found[status.request_id] = report.node, status, is_fresh(report, now_ms)
    if not found:
        return ""
    ordered = sorted(found.values(), key=lambda one: (one[1].phase is not PlacementPhase.RUNNING, -one[1].updated_at))
    rows = "".join(_placement_row(*one, now_ms) for one in ordered[:_MOST_NODES])
    head = "<tr><th>Node<th>Model<th>What<th>How far<th>As of</tr>"
    return (
        f"<table><caption>Models being placed, and what became of the last</caption><thead>{head}</thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _placement_row(node: str, status: PlacementStatus, fresh: bool, now_ms: int) -> str:
    match status.phase:
        case PlacementPhase.DONE:
            far = "<span class=ok>done</span>"
        case PlacementPhase.FAILED:
            far = f"<span class=bad>failed: {_text(status.reason)}</span>"
        case _:
            far = _progress(status) + ("" if fresh else " <span class=bad>its worker is silent</span>")
    what = "" if status.action is PlacementAction.UNKNOWN else status.action.value
    ago = _span(max(0, now_ms - status.updated_at) // 1000)
    return f"<tr><td>{_text(node)}<td>{_text(status.model)}<td>{what}<td>{far}<td>{ago} ago</tr>"


def _progress(status: PlacementStatus) -> str:
    done, total = status.completed_bytes, status.total_bytes
    said = f" <span class=quiet>{_text(status.reason)}</span>" if status.reason else ""
    if done is None or not total or total < 0:
        return f"running{said}"
    done = min(max(done, 0), total)
    share = f"{done / total:.0%}"
    return f'<progress max="{total}" value="{done}">{share}</progress> {share} of {_size(total)}{said}'


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"


def _text(text: str) -> str:
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text[:_LONGEST_TEXT])
    return escape(shown + ("…" if len(text) > _LONGEST_TEXT else ""))
