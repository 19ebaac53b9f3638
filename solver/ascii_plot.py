"""Plots of curves in characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .plan import Curve, drawn
from .schedules import Schedule

_SYMBOLS = "*o+x#@%&"
_MARGIN = 10  # columns left of the chart, for the values and the axis


def ascii_plot(curves: Sequence[Curve], width: int = 80, height: int = 16) -> str:
    """Return a plot of the learning rate over the run, and below it the momentum if it changes.

    A column covers several iterations, from their lowest to their highest value. On the axis, w marks the ends of
    warm-up and d the drops.

    Args:
        curves: one or more, with names if there are several; at most 100 of them are drawn.
        width: total number of columns.
        height: rows of the learning rate chart.

    >>> from .schedules import MultiStep
    >>> print(ascii_plot([Curve("default", 60, MultiStep((30, 45), 0.5), drops=(30, 45))], 40, 5))
    learning rate
           1 |***************
             |
         0.5 |               ********
             |                      ********
           0 |
             +---------------d------d-------
              0             30            60
    """
    given, curves = len(curves), drawn(curves)
    symbols = [_SYMBOLS[number % len(_SYMBOLS)] for number in range(len(curves))]
    pairs = list(zip(symbols, curves, strict=True))
    lines = [
        "learning rate",
        *_chart([(symbol, curve, curve.rate) for symbol, curve in pairs], width, height, 0.0),
    ]
    moving = [(symbol, curve, curve.momentum) for symbol, curve in pairs if curve.momentum]
    if moving:
        lines += ["momentum", *_chart(moving, width, max(height // 2, 2))]
    if len(curves) > 1:
        lines += [f"{symbol} {curve.name}" for symbol, curve in pairs]
    if len(curves) < given:
        lines.append(f"{len(curves)} of {given:,} groups are drawn")
    return "\n".join(lines)


def _chart(
    series: Sequence[tuple[str, Curve, Schedule]], width: int, height: int, low: float = math.inf
) -> list[str]:
    """Return the lines of one chart, whose value axis starts at `low` or below."""
    columns, length = width - _MARGIN, max(curve.length for _, curve, _ in series)
    drawn = [(symbol, _columns(curve, schedule, columns, length)) for symbol, curve, schedule in series]
    values = [value for _, found in drawn for column in found for value in column]
    low, high = min([low, *values]), max(values, default=1.0)
    step = (high - low) / (height - 1) or 1.0  # a flat line is drawn at the bottom
    canvas = [[" "] * columns for _ in range(height)]
    for symbol, found in drawn:
        for column, inside in enumerate(found):
            rows = [round((value - low) / step) for value in (min(inside), max(inside))] if inside else [0, -1]
            for row in range(rows[0], rows[1] + 1):
                canvas[row][column] = symbol
    every = next(every for every in (3, 2, 1) if (height - 1) % every == 0)  # so that both ends have a label
    lines = []
    for row in reversed(range(height)):
        value = f"{low + row * step:.3g}" if row % every == 0 else ""
        lines.append(f"{value:>{_MARGIN - 2}} |{''.join(canvas[row])}")
    axis, middle = ["-"] * columns, f"{length // 2:,}"
    for _, curve, _ in series:
        ends = [curve.warmup_end] if curve.warmup_end else []
        for mark, places in (("d", curve.drops), ("w", ends)):
            for place in places:
                axis[min(place * columns // length, columns - 1)] = mark
    half = columns // 2 + len(middle) // 2
    below = f"0{middle:>{half - 1}}{f'{length:,}':>{columns - half}}"
    lines += [" " * (_MARGIN - 1) + "+" + "".join(axis), " " * _MARGIN + below]
    return [line.rstrip() for line in lines]


def _columns(curve: Curve, schedule: Schedule, columns: int, length: int) -> list[list[float]]:
    """Return the finite values in each column of a chart of `length` iterations."""
    inside: list[list[int]] = [[column * length // columns] for column in range(columns)]
    for t in curve.samples():
        inside[t * columns // length].append(t)
    return [
        [v for v in map(schedule, filter(curve.length.__gt__, places)) if math.isfinite(v)] for places in inside
    ]
