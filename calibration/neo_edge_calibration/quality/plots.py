"""Inline SVG drawings of a report; colours are the page's own, by class, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from neo_edge_calibration.quality.report import KL_EDGES, FamilyQuality

_WIDTH = 860
_ROW = 24
_NAMES = 200  # width of the names left of a drawing
_LONGEST = 30  # characters of a name; the rest is in its tooltip


def interval_plot(families: Sequence[FamilyQuality], target: float) -> str:
    """Each family's drop and its interval, with the target as a line; in points."""
    lows, highs = zip(*(family.interval for family in families), strict=True)
    left, right = min(*lows, -target), max(*highs, 1.2 * target)
    axis = _Axis(100 * (left - 0.05 * (right - left)), 100 * (right + 0.05 * (right - left)))
    height = _ROW * len(families) + 16 + 44
    bottom = height - 40
    parts = [_grid(axis, bottom, "points of accuracy lost")]
    limit = axis.at(100 * target)
    parts.append(f'<line class="target" x1="{limit:.1f}" x2="{limit:.1f}" y1="0" y2="{bottom}"/>')
    parts.append(f'<text class="targetname" x="{limit + 4:.1f}" y="10">target</text>')
    for number, family in enumerate(families):
        y = 16 + _ROW * number + _ROW / 2
        low, drop, high = (100 * share for share in (family.interval[0], family.drop, family.interval[1]))
        kind = family.verdict(target).replace(" ", "")
        parts += [
            f'<g class="{kind}">',
            _title(f"{family.name}: {drop:.2f} points, {low:.2f} to {high:.2f}"),
            _name(family.name, y),
            f'<line class="range" x1="{axis.at(low):.1f}" x2="{axis.at(high):.1f}" y1="{y}" y2="{y}"/>',
            f'<circle class="mark" cx="{axis.at(drop):.1f}" cy="{y}" r="4"/>',
            "</g>",
        ]
    return _svg(height, "Drop of accuracy by family with its 95 % interval", parts)


def histogram_plot(counts: Sequence[int], mean: float, p99: float) -> str:
    """Tokens by KL divergence, on a logarithmic scale, with mean and 99th percentile marked."""
    height, bottom, left = 240, 190, 60
    shown = [index for index, count in enumerate(counts) if count]
    first, last = max(shown[0] - 1, 0), min(shown[-1] + 1, len(counts) - 1)
    width = (_WIDTH - left - 20) / (last - first + 1)
    tallest = max(counts)
    parts = [f'<line class="axis" x1="{left}" x2="{_WIDTH - 20}" y1="{bottom}" y2="{bottom}"/>']
    for index in range(first, last + 1):
        count, x = counts[index], left + (index - first) * width
        tall = 160 * count / tallest
        parts += [
            f'<rect class="bar" x="{x + 1:.1f}" y="{bottom - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}">',
            _title(f"{_bin_name(index, len(counts))}: {count} tokens"),
            "</rect>",
        ]
        if index > 0 and index % 2 == 1:  # every second edge is a whole power of ten
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{bottom + 16}">1e{round(math.log10(KL_EDGES[index - 1]))}</text>'
            )
    for row, (name, value) in enumerate((("mean", mean), ("99th percentile", p99))):
        if value > 0:
            position = 1 + (math.log10(value) - math.log10(KL_EDGES[0])) * 2
            x = left + (min(max(position, first), last + 1) - first) * width
            y = 12 + 14 * row
            parts.append(f'<line class="target" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 3}" y2="{bottom}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{y}">{name}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH / 2}" y="{height - 8}">KL divergence, nats a token</text>')
    return _svg(height, "Tokens by KL divergence", parts)


def snr_plot(layers: Mapping[str, float]) -> str:
    """A bar a weight, in the order in which they were handed in: that of the layers."""
    finite = [value for value in layers.values() if math.isfinite(value)]
    axis = _Axis(min([0.0, *finite]), max([10.0, *finite]) * 1.02)
    row = 18 if len(layers) <= 60 else 8
    height = row * len(layers) + 44
    parts = [_grid(axis, height - 40, "signal to noise, dB")]
    zero = axis.at(0)
    for number, (name, value) in enumerate(layers.items()):
        y = row * number + row / 2
        end = axis.at(value if math.isfinite(value) else axis.high)
        kind = "bar" if math.isfinite(value) else "bar exact"
        words = f"{value:.1f} dB" if math.isfinite(value) else "exact"
        parts += [
            "<g>",
            _title(f"{name}: {words}"),
            _name(name.removeprefix("decoder."), y) if row >= 12 else "",
            f'<rect class="{kind}" x="{min(zero, end):.1f}" y="{y - row * 0.38:.1f}" '
            f'width="{abs(end - zero):.1f}" height="{row * 0.76:.1f}"/>',
            "</g>",
        ]
    return _svg(height, "Signal to noise of each quantized weight", parts)


def size_plot(sizes: Mapping[str, Sequence[int]], parts_of: Sequence[str]) -> str:
    """Stacked bars of bytes, one a variant."""
    largest = max(sum(size) for size in sizes.values())
    scale = (_WIDTH - _NAMES - 20) / largest
    parts = []
    for number, (name, size) in enumerate(sizes.items()):
        x, y = float(_NAMES), 30 * number
        parts.append(_name(name, y + 13))
        for kind, (part, count) in enumerate(zip(parts_of, size, strict=True)):
            width = count * scale
            parts += [
                f'<rect class="part{kind}" x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="22">',
                _title(f"{name}, {part}: {count / 1e6:.2f} MB"),
                "</rect>",
            ]
            x += width
    return _svg(30 * len(sizes) + 4, "Bytes of both variants", parts)


class _Axis:
    """Numbers from left to right of a drawing with names."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def at(self, value: float) -> float:
        return _NAMES + (value - self.low) / (self.high - self.low) * (_WIDTH - _NAMES - 20)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 8
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step)
        return [step * number for number in range(first, math.floor(self.high / step) + 1)]


def _grid(axis: _Axis, bottom: float, unit: str) -> str:
    lines = []
    for tick in axis.ticks():
        x = axis.at(tick)
        kind = "axis" if tick == 0 else "grid"
        lines.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>')
        lines.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}">{tick:.10g}</text>')
    middle = (_NAMES + _WIDTH) / 2
    return "".join(lines) + f'<text class="tick" x="{middle}" y="{bottom + 32}">{escape(unit)}</text>'


def _name(name: str, y: float) -> str:
    shown = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
    return f'<text class="name" x="{_NAMES - 8}" y="{y + 4:.1f}">{escape(shown)}</text>'


def _bin_name(index: int, bins: int) -> str:
    if index == 0:
        return f"below {KL_EDGES[0]:.0e}"
    if index == bins - 1:
        return f"{KL_EDGES[-1]:.0e} or more"
    return f"{KL_EDGES[index - 1]:.1e} to {KL_EDGES[index]:.1e}"


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>"


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )
