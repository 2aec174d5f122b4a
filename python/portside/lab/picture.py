"""The one picture: TIME_WAIT over time, as SVG text. Results in, text out; no library, no I/O.

Drawn by hand because it is six lines and their names: a chart library would be the largest
dependency of the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from portside.lab.report import About
from portside.lab.run import Result, Sample
from portside.lab.scale import Scale
from portside.lab.strategies import By

_WIDTH, _HEIGHT = 1000, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 268, 92, 92
_PLOT_W, _PLOT_H = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_LABEL_GAP = 34  # a label has two lines of text

# Key, colour, width, dashes, name. Colours that most colour-blind readers tell apart (Okabe, Ito).
_LINES = (
    ("haproxy", "#d55e00", 2.5, "", "HAProxy"),
    ("haproxy-source", "#cc79a7", 2.5, "", "HAProxy, 4 x source IP"),
    ("haproxy-ports", "#e69f00", 2.5, "", "HAProxy, 4 x source IP:lo-hi"),
    # Dashed and on top: it takes the same way up as HAProxy.
    ("direct", "#555555", 2.0, "6 5", "direct, no proxy"),
    ("ours", "#009e73", 4.5, "", "Portside"),
    ("ours-one-port", "#0072b2", 4.5, "1 9", "Portside, ONE source port"),
)

_ARTICLE = (
    (28_232, "default range: 28,232 ports"),
    (64_000, "the article: 64K ports at most"),
    (80_000, "the article: 80K with 4 addresses, kernel's ports"),
    (170_000, "the article: 170K+ with 4 addresses, HAProxy's ports"),
)


@dataclass(frozen=True)
class _Axes:
    """Data to pixels; both ends of each axis are round numbers."""

    seconds: float
    most: float

    def x(self, seconds: float) -> float:
        return _LEFT + _PLOT_W * seconds / self.seconds

    def y(self, count: float) -> float:
        return _TOP + _PLOT_H * (1 - count / self.most)


@dataclass(frozen=True)
class _Drawn:
    """One line of the picture."""

    result: Result
    colour: str
    width: float
    dashes: str
    name: str


@dataclass
class _Label:
    """A line's name beside its end; ``y`` moves so that labels do not overlap."""

    y: float
    at: tuple[float, float]
    line: _Drawn


def svg(results: Sequence[Result], scale: Scale, about: About) -> str:
    """The picture of a run; lines of strategies that were not run are missing."""
    drawn = [
        _Drawn(result, colour, width, dashes, name)
        for key, colour, width, dashes, name in _LINES
        for result in results
        if result.strategy.key == key
    ]
    dotted = _dotted(scale)
    axes = _axes([line.result for line in drawn], dotted)
    labels = []
    for line in drawn:
        last = line.result.samples[-1]
        end = (axes.x(last.at_s), axes.y(_height(line.result, last)))
        labels.append(_Label(end[1], end, line))
    _push_apart(labels)
    return "\n".join(
        [
            _head(),
            *_grid(axes),
            *(_leader(label) for label in labels),
            *(_line(axes, line) for line in drawn),
            *_dots(axes, dotted),
            *(part for label in labels for part in _named(label)),
            *_texts(about),
            "</svg>",
            "",
        ]
    )


def _height(result: Result, sample: Sample) -> int:
    """The host that runs out; for Portside's close the worst of all three."""
    if result.strategy.is_ours:
        return max(sample.web, sample.proxy, sample.db)
    return sample.web if result.strategy.by is By.NOBODY else sample.proxy


def _detail(result: Result) -> str:
    if result.strategy.is_ours:
        worst = max(_height(result, sample) for sample in result.samples)
        return f"{result.done:,} connections, {worst:,} TIME_WAIT"
    end = f"failing at {result.done:,}" if result.failed else f"{result.done:,} connections"
    return end


def _dotted(scale: Scale) -> Sequence[tuple[int, str]]:
    """The article's figures; in a narrowed run its own walls, since those are far away."""
    if scale.port_range is None:
        return _ARTICLE
    return (
        (scale.range_size, f"this run's range: {scale.range_size:,} ports (really 28,232)"),
        (4 * scale.ring_size, f"four addresses: {4 * scale.ring_size:,} (the article: 170K+)"),
    )


def _axes(results: Sequence[Result], dotted: Sequence[tuple[int, str]]) -> _Axes:
    samples = [(result, sample) for result in results for sample in result.samples]
    seconds = max((sample.at_s for _, sample in samples), default=1.0)
    most = max((_height(result, sample) for result, sample in samples), default=0)
    return _Axes(_round_up(seconds), _round_up(1.04 * max(most, *(count for count, _ in dotted))))


def _round_up(value: float) -> float:
    """The next of 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(step * power for step in steps if step * power >= value * 0.999)


def _head() -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' width="{_WIDTH}" height="{_HEIGHT}" font-family="Helvetica, Arial, sans-serif"'
        ' font-size="13" fill="#222">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _grid(axes: _Axes) -> list[str]:
    bottom, right = _TOP + _PLOT_H, _LEFT + _PLOT_W
    parts = []
    for step in range(6):
        count = axes.most * step / 5
        y = axes.y(count)
        colour = "#444" if step == 0 else "#e6e6e6"
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{colour}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{count:,.0f}", ' text-anchor="end"'))
    step_s = _round_up(axes.seconds / 6)
    for number in range(int(axes.seconds / step_s + 1e-6) + 1):
        seconds = number * step_s
        shown = f"{seconds:.0f}" if step_s >= 1 else f"{seconds:.2g}"
        parts.append(_text(axes.x(seconds), bottom + 20, shown, ' text-anchor="middle"'))
    middle = _LEFT + _PLOT_W / 2
    parts.append(_text(middle, bottom + 40, "seconds under load", ' text-anchor="middle"'))
    return parts


def _dots(axes: _Axes, dotted: Sequence[tuple[int, str]]) -> list[str]:
    parts = []
    right = _LEFT + _PLOT_W
    for count, name in dotted:
        y = axes.y(count)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#777" stroke-dasharray="2 4"/>')
        # At the right, since lines climb from the left; white around it where one passes by.
        style = (
            ' text-anchor="end" font-size="11.5" fill="#555" stroke="#fff" stroke-width="4"'
            ' paint-order="stroke" stroke-linejoin="round"'
        )
        parts.append(_text(right - 6, y - 5, name, style))
    return parts


def _line(axes: _Axes, line: _Drawn) -> str:
    points = " ".join(
        f"{axes.x(sample.at_s):.1f},{axes.y(_height(line.result, sample)):.1f}"
        for sample in line.result.samples
    )
    dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{line.colour}"'
        f' stroke-width="{line.width}"{dashes} stroke-linejoin="round" stroke-linecap="round"/>'
    )


def _push_apart(labels: Sequence[_Label]) -> None:
    """Keeps the order of the lines' ends, and every label above the axis."""
    ordered = sorted(labels, key=lambda label: label.y)
    lowest = _TOP + _PLOT_H + 8
    for number, label in enumerate(reversed(ordered)):
        label.y = min(label.y, lowest - number * _LABEL_GAP)
    for above, label in pairwise(ordered):
        label.y = max(label.y, above.y + _LABEL_GAP)


_LABEL_X = _LEFT + _PLOT_W + 26


def _leader(label: _Label) -> str:
    (x, y), colour = label.at, label.line.colour
    return (
        f'<path d="M{x:.1f} {y:.1f}L{_LABEL_X - 6} {label.y - 4:.1f}" stroke="{colour}"'
        ' stroke-width="1" stroke-opacity="0.45"/>'
    )


def _named(label: _Label) -> list[str]:
    """The end of a line, a cross where connections failed, and its name."""
    (x, y), line = label.at, label.line
    if line.result.failed:
        cross = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
        end = f'<path d="{cross}" stroke="{line.colour}" stroke-width="3"/>'
    else:
        end = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{line.colour}"/>'
    style = f' font-weight="bold" fill="{line.colour}"'
    return [
        end,
        _text(_LABEL_X, label.y, line.name, style),
        _text(_LABEL_X, label.y + 14, _detail(line.result), ' font-size="11.5" fill="#555"'),
    ]


def _texts(about: About) -> list[str]:
    footer_y = _HEIGHT - 16
    return [
        _text(
            _LEFT - 58,
            32,
            "The same load of short MySQL connections: TIME_WAIT over time",
            ' font-size="20" font-weight="bold"',
        ),
        _text(
            _LEFT - 58,
            54,
            "TIME_WAIT on the proxy host (direct: on the web host; Portside: on the worst of all"
            " three hosts). A cross: connections fail.",
            ' fill="#555"',
        ),
        _text(_LEFT - 58, _TOP - 14, "TIME_WAIT sockets", ' fill="#555" font-size="12"'),
        _text(_LEFT - 58, footer_y, about.footer, ' font-size="10.5" fill="#777"'),
    ]
