"""Small plots as SVG text: shares with intervals, and shares over shares or over steps.

The one idea: a plot is a pure function of numbers, so equal figures give equal bytes; colours come
from the page, so it follows light and dark.

>>> svg = draw_intervals([Bar("ours", 0.6, 0.5, 0.7), Bar("always tie", 0.3, is_reference=True)], "accuracy")
>>> svg.count("<circle"), svg.count('class="reference"')
(2, 1)

Covers: what the evaluation pages show. Does not cover: anything interactive."""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 680
_LABEL_WIDTH = 230
_VALUE_WIDTH = 62
_ROW = 26
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MAX_LABEL = 34


@dataclass(frozen=True)
class Bar:
    """One row of `draw_intervals`, a share."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    is_reference: bool = False
    """Something to compare with, drawn paler."""


@dataclass(frozen=True)
class Line:
    """One line of `draw_lines`; points are (x, y), y in [0, 1]."""

    label: str
    points: Sequence[tuple[float, float]]
    is_reference: bool = False
    series: int | None = None
    """0 to 5 gives the line a colour of its own, for plots of several."""


def draw_intervals(bars: Sequence[Bar], axis: str) -> str:
    """Draw one row per bar: a dot at the value, a line over the interval, the value in per cent
    beside it."""
    height = _ROW * len(bars) + 44
    left, right = _LABEL_WIDTH, WIDTH - _VALUE_WIDTH
    bottom = _ROW * len(bars) + 6

    def x(share: float) -> float:
        return round(left + share * (right - left), 1)

    parts = [_tick(x(share), 4, bottom, f"{100 * share:.0f} %") for share in _TICKS]
    for row, bar in enumerate(bars):
        y, style = 4 + _ROW * row + _ROW / 2, "reference" if bar.is_reference else "ours"
        parts.append(_text(left - 10, y + 4, _shorten(bar.label), "end"))
        if bar.value != bar.value:
            parts.append(_text(right + 10, y + 4, "n/a"))
            continue
        if bar.low is not None and bar.high is not None:
            parts.append(
                f'<line class="{style}" x1="{x(bar.low)}" y1="{y}" x2="{x(bar.high)}" y2="{y}"/>'
            )
        parts.append(f'<circle class="{style}" cx="{x(bar.value)}" cy="{y}" r="4.5"/>')
        parts.append(_text(right + 10, y + 4, f"{100 * bar.value:.1f} %"))
    parts.append(_text((left + right) / 2, height - 4, axis, "middle"))
    return _svg(height, parts, axis)


def draw_lines(lines: Sequence[Line], x_axis: str, y_axis: str, max_x: int | None = None) -> str:
    """Draw lines over shares, or over whole numbers from 0 to `max_x`, each named at its right."""
    height, left, top, right, bottom = 300, 64, 12, WIDTH - 190, 250

    def place(point: tuple[float, float]) -> str:
        x = point[0] / (max_x or 1)
        return f"{left + x * (right - left):.1f},{bottom - point[1] * (bottom - top):.1f}"

    labels = [f"{100 * share:.0f} %" if max_x is None else f"{max_x * share:g}" for share in _TICKS]
    ticks = zip(_TICKS, labels, strict=True)
    parts = [_tick(left + share * (right - left), top, bottom, label) for share, label in ticks]
    for share in _TICKS:
        y = bottom - share * (bottom - top)
        parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(_text(left - 8, y + 4, f"{100 * share:.0f} %", "end"))
    for number, line in enumerate(lines):
        y = top + 14 + 20 * number
        style = (
            "reference"
            if line.is_reference
            else "ours"
            if line.series is None
            else f"series-{line.series}"
        )
        if line.points:
            parts.append(
                f'<polyline class="{style}" points="{" ".join(map(place, line.points))}"/>'
            )
        if len(line.points) < 12:
            parts += [
                f'<circle class="{style}" cx="{px}" cy="{py}" r="3.5"/>'
                for px, py in (place(point).split(",") for point in line.points)
            ]
        parts.append(
            f'<line class="{style}" x1="{right + 14}" y1="{y - 4}" x2="{right + 34}" y2="{y - 4}"/>'
        )
        parts.append(_text(right + 40, y, _shorten(line.label, 24)))
    parts.append(_text((left + right) / 2, height - 8, x_axis, "middle"))
    parts.append(
        f'<g transform="translate(14 {(top + bottom) / 2}) '
        f'rotate(-90)">{_text(0, 0, y_axis, "middle")}</g>'
    )
    return _svg(height, parts, f"{y_axis} over {x_axis}")


def _tick(x: float, top: float, bottom: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{x}" y1="{top}" x2="{x}" y2="{bottom}"/>'
        f"{_text(x, bottom + 14, label, 'middle')}"
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _shorten(text: str, length: int = _MAX_LABEL) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img"><title>{escape(title)}</title>{body}</svg>'
    )
