"""Small hand-written SVG figures, one per attack: one or two kilobytes each, where matplotlib needs twenty.

Models differ in marker shape and dash pattern as well as in colour, so that a figure is legible in greyscale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from verify.io.escaping import visible
from verify.report.svg import NAMES, ORDER, STYLES, role_of
from verify.schema.figures import RocCurve
from verify.schema.parts import Value

WIDTH, LEFT, RIGHT, ROW, AXIS = 640, 140, 16, 22, 36
FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="#333"'
DASHES = {"original": "5 3", "target": "", "reference": "1.5 2.5"}


@dataclass(frozen=True)
class Mark:
    """One row of an interval figure: a model's value with its interval."""

    label: str
    role: str
    value: Value


def draw_intervals(marks: Sequence[Mark], axis: str, guess: float | None = None, band: tuple[float, float] | None = None) -> Markup:
    """Draw values with their intervals, one row each, on a common axis.

    Args:
        marks: the rows, from top to bottom.
        axis: the axis label, with its unit.
        guess: the value of random guessing, drawn as a line; None for none.
        band: a range to shade, such as a margin; None for none.
    """
    low, high, ticks = _scale([*(bound for mark in marks for bound in (mark.value.low, mark.value.high)), *(band or ())])
    bottom = ROW * len(marks) + 8

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = []
    if band is not None:
        parts.append(
            f'<rect x="{x(band[0]):.1f}" y="4" width="{x(band[1]) - x(band[0]):.1f}" height="{bottom - 4}" fill="#e3efe8"/>'
        )
    parts += [_grid(x(tick), bottom, _short(tick)) for tick in ticks]
    if guess is not None and low <= guess <= high:
        parts.append(f'<path d="M{x(guess):.1f} 4V{bottom}" stroke="#333" stroke-width="1"/>')
    for number, mark in enumerate(marks):
        y = ROW * number + ROW / 2 + 4
        colour = STYLES[mark.role]["color"]
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end" {FONT}>{_safe(mark.label)}</text>')
        span = f"M{x(mark.value.low):.1f} {y:.1f}H{x(mark.value.high):.1f}"
        width = 2 if mark.role == "target" else 1.4
        parts.append(f'<path d="{span}" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{DASHES[mark.role]}"/>')
        parts.append(_shape(mark.role, x(mark.value.value), y, colour))
    parts.append(_axis_name((LEFT + WIDTH - RIGHT) / 2, bottom + AXIS, axis))
    return _svg(WIDTH, bottom + AXIS + 6, parts)


def draw_curves(curves: Sequence[RocCurve]) -> Markup:
    """Draw ROC curves on logarithmic axes, which make the low false-positive rates legible."""
    floor = min(curve.fpr[0] for curve in curves)
    height, top, left = 200, 8, 64
    decades = [10.0**power for power in range(math.ceil(math.log10(floor) - 1e-9), 1)]

    def x(rate: float) -> float:
        return left + (1 - math.log10(max(rate, floor)) / math.log10(floor)) * (WIDTH - left - RIGHT)

    def y(rate: float) -> float:
        return height - (1 - math.log10(max(rate, floor)) / math.log10(floor)) * (height - top)

    parts = [_grid(x(tick), height, f"{tick:g}") for tick in decades]
    for tick in decades:
        parts.append(f'<path d="M{left} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#e4e4e0"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end" {FONT}>{tick:g}</text>')
    parts.append(f'<path d="M{x(floor):.1f} {y(floor):.1f}L{x(1):.1f} {y(1):.1f}" stroke="#666" stroke-width=".8"/>')
    for role in ORDER:
        for curve in (curve for curve in curves if role_of(curve.model) == role):
            points = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in zip(curve.fpr, curve.tpr, strict=True))
            style, width = STYLES[role], 2.2 if role == "target" else 1.4
            line = f'stroke="{style["color"]}" stroke-width="{width}" stroke-dasharray="{DASHES[role]}" fill="none"'
            parts.append(f'<path d="M{points}" {line}/>')
    parts.append(_axis_name((left + WIDTH - RIGHT) / 2, height + AXIS, "false-positive rate"))
    place = f'transform="translate(14 {(top + height) / 2:.0f}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {place} {FONT}>true-positive rate</text>")
    parts += _legend([role for role in ORDER if any(role_of(curve.model) == role for curve in curves)], left, height + AXIS + 22)
    return _svg(WIDTH, height + AXIS + 30, parts)


def _legend(roles: Sequence[str], left: float, y: float) -> list[str]:
    parts = []
    for number, role in enumerate(roles):
        start = left + 180 * number
        style = f'stroke="{STYLES[role]["color"]}" stroke-width="{2.2 if role == "target" else 1.4}"'
        parts.append(f'<path d="M{start} {y - 4}h26" {style} stroke-dasharray="{DASHES[role]}"/>')
        parts.append(f'<text x="{start + 34}" y="{y}" {FONT}>{NAMES[role]}</text>')
    return parts


def _shape(role: str, x: float, y: float, colour: str) -> str:
    """Draw a marker: filled square for this model, hollow diamond for the original, small dot for a reference."""
    if role == "target":
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'
    if role == "original":
        return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" fill="#fff" stroke="{colour}" stroke-width="1.8"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def _grid(x: float, bottom: float, label: str) -> str:
    line = f'<path d="M{x:.1f} 4V{bottom}" stroke="#e4e4e0"/>'
    return f'{line}<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" {FONT}>{label}</text>'


def _axis_name(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="middle" {FONT}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    return str(escape(visible(text)))


def _svg(width: float, height: float, parts: Sequence[str]) -> Markup:
    # Every part is made here, of numbers and of escaped words.
    return Markup(f'<svg viewBox="0 0 {width} {height:.0f}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>')  # noqa: S704


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Choose bounds and ticks that contain all values: 0 to 1 for shares, else the next round numbers."""
    low, high = min(values), max(values)
    if low >= 0 and high <= 1:
        return 0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = next(size for size in (step / 5, step / 2, step, step * 2) if (high - low) / size <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
