"""Lines over a count, as an SVG file of its own that follows a light or dark page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 860, 250  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 34, 34
_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-size: 13px; font-weight: 600 }
.tick { fill: #777 }
.grid { stroke: #ddd }
.line { fill: none; stroke: #0b6bcb; stroke-width: 1.8 }
.faint { fill: none; stroke: #9ab; stroke-width: 0.8 }
.mark { fill: #c2410c }
.words { paint-order: stroke; stroke: #fff; stroke-width: 4px; stroke-linejoin: round }
.ground { fill: #fff }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .tick { fill: #999 } .grid { stroke: #333 } .ground { fill: #111 }
.line { stroke: #6cb2ff } .faint { stroke: #567 } .mark { fill: #fb923c }
.words { stroke: #111 }
}"""


@dataclass(frozen=True)
class Line:
    """One value for each of 1, 2, ..."""

    name: str
    values: tuple[float, ...]
    faint: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines of one unit."""

    unit: str
    lines: tuple[Line, ...]
    marks: Mapping[int, str] = field(default_factory=dict)  # words at points of the last line


def line_plot(title: str, count: str, panels: Sequence[Panel]) -> str:
    """Panels below each other; `count` names what runs from left to right. Every line has a value or more."""
    height = len(panels) * _HEIGHT + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}"/>',
        *(
            f'<text class="title" x="12" y="{18 + 15 * row}">{escape(words)}</text>'
            for row, words in enumerate(_two_lines(title))
        ),
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate(0 {40 + number * _HEIGHT})">', *_panel(panel, count), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, count: str) -> list[str]:
    last = max(len(line.values) for line in panel.lines)
    # A single value far off, such as the first frame's, does not press all others flat.
    shown = sorted(value for line in panel.lines for value in line.values)
    top = min(shown[-1], 1.5 * shown[int(0.99 * (len(shown) - 1))]) * 1.08 or 1.0

    def at(number: float, value: float) -> tuple[float, float]:
        across = (number - 1) / max(1, last - 1)
        up = min(value / top, 1.0)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = []
    for value in _ticks(top):
        _, y = at(1, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>'
        )
    for number in _ticks(last):
        x, y = at(max(1, number), 0)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{number:.6g}</text>'
        )
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 12}">{escape(panel.unit)}</text>')
    parts.append(
        f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(count)}</text>'
    )
    for line in panel.lines:
        points = " ".join(
            "{:.1f},{:.1f}".format(*at(number, value)) for number, value in enumerate(line.values, 1)
        )
        parts.append(f'<polyline class="{"faint" if line.faint else "line"}" points="{points}"><title>')
        parts.append(f"{escape(line.name)}</title></polyline>")
    for number, words in panel.marks.items():
        x, y = at(number, panel.lines[-1].values[number - 1])
        anchor = "end" if number > 0.9 * last else "start"
        parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        parts.append(
            f'<text class="words" x="{x:.1f}" y="{y - 9:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )
    return parts


def _ticks(top: float) -> list[float]:
    rough = top / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.floor(top / step) + 1)]


def _two_lines(words: str) -> tuple[str, ...]:
    head, colon, rest = words.partition(": ")
    return (head + colon, rest) if rest else (words,)
