"""Pictures of reports, drawn by matplotlib, which is imported only when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CELLS = 40  # rows of a matrix, and bars, that can be read in a picture
_MOST_NUMBERS = 20  # rows of a matrix whose cells have room for numbers
_LONGEST_NAME = 24  # letters
_COLUMNS = 5  # of images
_TILE, _CAPTION = 2.4, 0.45  # inches: the side of an image with its margin, and the height of two lines of text


def matrix_picture(matrix: Sequence[Sequence[int]], names: Sequence[str], title: str) -> Figure:
    """Return a figure of a matrix of counts, rows: true, columns: predicted; colours are shares of a row.

    Args:
        matrix: at most MOST_CELLS rows and columns.
        names: of the rows, and of the columns.
        title: of the figure.
    """
    size = max(4.0, 2.5 + 0.32 * len(names))
    figure, axes = _new(size + 1, size)
    shares = [[count / (sum(row) or 1) for count in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, [_short(name) for name in names], rotation=90)
    axes.set_yticks(places, [_short(name) for name in names])
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if len(names) <= _MOST_NUMBERS:
        for row in places:
            for column in places:
                if matrix[row][column]:
                    colour = "white" if shares[row][column] > 0.5 else "black"
                    axes.text(column, row, str(matrix[row][column]), ha="center", va="center", color=colour)
    return _plain(figure)


def bars_picture(
    values: Sequence[float], names: Sequence[str], counts: Sequence[int], title: str, unit: str
) -> Figure:
    """Return a figure of one horizontal bar for each name, from 0 to 1.

    Args:
        values: from 0 to 1; at most MOST_CELLS.
        names: of the bars, from the top.
        counts: of samples, shown behind the names.
        title: of the figure.
        unit: what the values are.
    """
    figure, axes = _new(7, max(2.5, 1.2 + 0.22 * len(names)))
    places = range(len(names))
    axes.barh(places, values, color="tab:blue")
    axes.set_yticks(places, [f"{_short(name)} ({count})" for name, count in zip(names, counts, strict=True)])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=unit, title=title)
    return _plain(figure)


def images_picture(images: Sequence[Tensor | None], captions: Sequence[str], title: str) -> Figure:
    """Return a figure of images in rows of five, each with its caption.

    Args:
        images: uint8 (C, H, W) with 1 or 3 channels, or None, which leaves its place empty.
        captions: one for each image.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    width, height = _TILE * columns, (_TILE + _CAPTION) * rows + _CAPTION
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all images: each takes 25 ms to make
    axes.set_axis_off()
    text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        middle, top = _TILE * (column + 0.5), height - _CAPTION - (_TILE + _CAPTION) * row
        axes.text(middle, top - _CAPTION / 2, caption, **text)
        if image is not None:
            _show(axes, image, middle, top - _CAPTION - _TILE / 2)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.text(width / 2, height - _CAPTION / 2, title, **text | {"fontsize": 11})
    return _plain(figure)


def points_picture(
    points: Sequence[tuple[Sequence[float], Sequence[float]]], names: Sequence[str], title: str
) -> Figure:
    """Return a figure with predictions over targets, one plot for each number of a target.

    Args:
        points: for each number its targets and its predictions.
        names: of the numbers.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(points), 4.4), dpi=100, layout="constrained")
    for axes, (targets, predictions), name in zip(
        figure.subplots(1, len(points), squeeze=False)[0], points, names, strict=True
    ):
        ends = [min(*targets, *predictions), max(*targets, *predictions)]
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.plot(targets, predictions, ".", markersize=4, alpha=0.5)
        axes.set(xlabel="target", ylabel="prediction", title=_short(name))
    figure.suptitle(title)
    return _plain(figure)


def curves_picture(curves: Mapping[str, Sequence[float]], x: str, y: str) -> Figure:
    """Return a figure of curves from 0 to 1.

    Args:
        curves: values at equal distances, by the names of the curves.
        x: name of the axis from 0 to 1.
        y: name of the values.
    """
    figure, axes = _new(6, 5)
    for name, values in curves.items():
        axes.plot([place / (len(values) - 1) for place in range(len(values))], values, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return _plain(figure)


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _show(axes: Axes, image: Tensor, x: float, y: float) -> None:
    """Draw an image around a place, in inches; the longer side fills the tile but for a margin."""
    sides = [0.485 * _TILE * side / max(image.shape[1:]) for side in image.shape[1:]]
    pixels = image[:3].permute(1, 2, 0) if len(image) >= 3 else image[0]
    extent = (x - sides[1], x + sides[1], y - sides[0], y + sides[0])
    axes.imshow(pixels.numpy(), cmap="gray", extent=extent)


def _plain(figure: Figure) -> Figure:
    """Let no "$" in a name start a formula."""
    from matplotlib.text import Text

    found: Any = figure.findobj(Text)
    for text in found:
        text.set_parse_math(False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026"
