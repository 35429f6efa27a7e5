"""Line charts as SVG, which need no package and show in any browser. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

COLOURS: Final = (
    "#0b62a4", "#c8501e", "#2e7d32", "#7b3fa0", "#b8860b", "#00838f", "#ad1457", "#5d4037", "#607d8b", "#9e9d24",
)  # fmt: skip
WIDTH: Final = 760
HEIGHT: Final = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 40, 52
_FONT: Final = "font-family='system-ui, sans-serif' font-size='12' fill='#222'"
_TICKS: Final = 5

Series = Mapping[str, Sequence[tuple[float, float]]]


def line_chart(
    title: str, across: str, up: str, series: Series, *, marks: Mapping[float, str] | None = None, dots: bool = True
) -> str:
    """The lines of some series over a common axis, from zero up.

    Args:
        across, up: What the axes show, with units.
        series: Points by the name in the legend, each in ascending order; those without points have no line.
        marks: Places on the lower axis and what to write there; round numbers if not given.
        dots: Whether points are marked.
    """
    points = [point for line in series.values() for point in line]
    most = max((y for _, y in points), default=0.0)
    rise = _round_step(most or 1.0)
    top = rise * max(math.ceil((most or 1.0) / rise), 1)
    low, high = min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=1.0)
    if marks is None:
        step = _round_step(high - low or 1.0)
        first = math.ceil(low / step)
        marks = {number * step: f"{number * step:g}" for number in range(first, math.floor(high / step) + 1)}
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + wide * ((x - low) / (high - low) if high > low else 0.5), _TOP + tall * (1 - y / top)

    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' "
        f"role='img' aria-label='{escape(title)}'>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
        f"<text x='{_LEFT}' y='22' {_FONT} font-weight='600'>{escape(title)}</text>",
    ]
    for number in range(round(top / rise) + 1):
        x, y = place(low, number * rise)
        parts.append(f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{_LEFT + wide}' y2='{y:.1f}' stroke='#ddd'/>")
        parts.append(f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end' {_FONT}>{number * rise:,g}</text>")
    for at, text in marks.items():
        x, y = place(at, 0)
        parts.append(f"<line x1='{x:.1f}' y1='{y:.1f}' x2='{x:.1f}' y2='{y + 4:.1f}' stroke='#888'/>")
        parts.append(f"<text x='{x:.1f}' y='{y + 18:.1f}' text-anchor='middle' {_FONT}>{escape(text)}</text>")
    parts.append(
        f"<text x='{_LEFT + wide / 2:.1f}' y='{HEIGHT - 12}' text-anchor='middle' {_FONT}>{escape(across)}</text>"
    )
    parts.append(
        f"<text transform='translate(16 {_TOP + tall / 2:.1f}) rotate(-90)' text-anchor='middle' {_FONT}>"
        f"{escape(up)}</text>"
    )
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        dash = "" if number < len(COLOURS) else " stroke-dasharray='5 3'"
        spots = [place(x, y) for x, y in line]
        if spots:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'{dash}/>")
        if dots:
            parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in spots]
        at = _TOP + 8 + 18 * number
        parts.append(
            f"<line x1='{_LEFT + wide + 14}' y1='{at}' x2='{_LEFT + wide + 34}' y2='{at}' stroke='{colour}' "
            f"stroke-width='2'{dash}/>"
        )
        parts.append(f"<text x='{_LEFT + wide + 40}' y='{at + 4}' {_FONT}>{escape(name)}</text>")
    return "\n".join([*parts, "</svg>", ""])


def _round_step(most: float) -> float:
    """A round distance of about `_TICKS` lines up to this value: 1, 2 or 5 times a power of ten."""
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
