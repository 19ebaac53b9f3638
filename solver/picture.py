"""Pictures of curves, drawn by matplotlib, which is imported only when needed."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from warmstart.config import ConfigError, no_follow

from .plan import Curve, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_SOFTWARE = "warmstart"  # in the metadata of a PNG file
_MOST_NAMES = 12  # in a legend
_MOST_MARKS = 50  # of drops: more would hide the curve


def picture_path(text: str) -> Path:
    """Return the path of a picture to be written.

    Raises:
        ValueError: its format is not supported, its folder does not exist, or it is a symbolic link.

    >>> picture_path("lr.jpg")
    Traceback (most recent call last):
    ValueError: a picture's name ends in .png or .svg
    """
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture's name ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it, or name another")
    if path.is_symlink():
        raise ValueError("nothing is written through a symbolic link; name the file that it leads to")
    return path


def new_picture(name: str) -> Path:
    """Return the path of a picture in the current folder, for a default name.

    Raises:
        ConfigError: the name exists and was not written by `save_picture`.
    """
    path = Path(name)
    if os.path.lexists(path) and not _is_ours(path):
        raise ConfigError(
            f"{name} in this folder was not drawn by this program and would be overwritten; move it away, or name "
            "another file with --out"
        )
    return path


def plan_picture(curves: Sequence[Curve], size: tuple[float, float] = (8.0, 4.5)) -> Figure:
    """Return a figure with the learning rate over the run, and below it the momentum if it changes.

    The learning rate of update t is drawn from t to t + 1, so that a drop is vertical. The ends of warm-up and the
    drops are marked.

    Args:
        curves: one or more, with names if there are several; at most 100 of them are drawn.
        size: width and height in inches, at 100 dots per inch.
    """
    # Figure, not pyplot, which would select a window system and keep a reference to each figure.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    given, curves = len(curves), drawn(curves)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    moving = any(curve.momentum for curve in curves)
    heights = (2, 1) if moving else (1,)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    panels: list[Axes] = list(grid[:, 0])
    for number, curve in enumerate(curves):
        name = curve.name if len(curves) > 1 and number < _MOST_NAMES else None
        _draw(panels, curve, f"C{number % 10}", name)
    for axes, label in zip(panels, ("learning rate", "momentum"), strict=False):
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(min(low, -0.05 * high), high)  # include 0, to show the distance from it
    some = f"; {len(curves)} of {given:,} groups are drawn" if len(curves) < given else ""
    panels[-1].set_xlabel(f"iteration{some}")
    panels[-1].margins(x=0.02)
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    panels[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    handles, labels = panels[0].get_legend_handles_labels()
    for text, marker in _marks(curves):
        handles.append(Line2D([], [], linestyle="", marker=marker, color="grey", markeredgecolor="black"))
        labels.append(text)
    if labels:
        width = 60 + 8 * max(map(len, labels))  # dots per entry, so that names are not cut off at the sides
        columns = max(1, int(size[0] * figure.dpi // width))
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
        for entry in legend.get_texts():
            entry.set_parse_math(False)  # "$" in a name does not start a formula
    return figure


def picture_bytes(figure: Figure, kind: str = "png") -> bytes:
    """Return a figure as the content of a PNG or SVG file; equal figures give equal bytes."""
    import matplotlib

    # By default an SVG contains the time and random names, and a PNG the version of the library.
    metadata = {"Date": None} if kind == "svg" else {"Software": _SOFTWARE}
    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "warmstart"}):
        figure.savefig(drawn, format=kind, metadata=metadata)
    return drawn.getvalue()


def save_picture(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or SVG, by the suffix of the path.

    Raises:
        OSError: it cannot be written; an existing file is unchanged, unless the disk fails.
    """
    content = picture_bytes(figure, Path(path).suffix.lower().removeprefix("."))
    with open(path, "wb", opener=no_follow) as file:
        file.write(content)


def _is_ours(path: Path) -> bool:
    """Return whether `save_picture` has written a PNG file, from its metadata."""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return f"Software\0{_SOFTWARE}".encode() in file.read(1000)


def _draw(panels: Sequence[Axes], curve: Curve, colour: str, name: str | None) -> None:
    iterations = curve.samples()
    places = [*iterations, curve.length]  # the last update has a width too
    for axes, schedule in zip(panels, (curve.rate, curve.momentum), strict=False):
        if schedule is not None:
            # Infinite learning rates, from a factor that grows without limit, cannot be drawn.
            values = [value if math.isfinite(value) else math.nan for value in map(schedule, iterations)]
            label = name if schedule is curve.rate else None
            axes.plot(places, [*values, values[-1]], drawstyle="steps-post", color=colour, label=label)
    for marked, marker in ((_warmup_ends(curve), "o"), (_shown_drops(curve), "v")):
        rates = [curve.rate(t) for t in marked]
        panels[0].plot(marked, rates, marker, color=colour, markersize=5, markeredgecolor="black")


def _warmup_ends(curve: Curve) -> list[int]:
    return [curve.warmup_end] if 0 < curve.warmup_end < curve.length else []


def _shown_drops(curve: Curve) -> list[int]:
    return list(curve.drops) if len(curve.drops) <= _MOST_MARKS else []


def _marks(curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """Return the legend texts of the marks with their markers; for a single curve, with the iterations."""
    ends = [t for curve in curves for t in _warmup_ends(curve)]
    falls = [t for curve in curves for t in _shown_drops(curve)]
    exact = len(curves) == 1 and len(falls) <= 5
    found = []
    if ends:
        found.append((f"warm-up ends at {ends[0]:,}" if exact else "warm-up ends", "o"))
    if falls:
        found.append((f"drops at {', '.join(f'{t:,}' for t in falls)}" if exact else "drops", "v"))
    return found
