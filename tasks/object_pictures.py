"""Pictures of objects and detections: boxes, masks, keypoints, names."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmstart.data import mask_functions

from .coco_scores import Array, Table

_READABLE = 384  # pixels of the longer side to which smaller images are enlarged, so that text fits in
_MOST_SCALE = 8
_OPACITY = 0.45  # of a mask
_GAP = 4  # pixels between tiles


@dataclass(frozen=True)
class Drawn:
    """What is drawn on an image, in pixels of that image.

    Args:
        boxes: (n, 4), x0, y0, x1, y1.
        labels: (n,), which choose the colours.
        texts: n, written above the boxes.
        masks: (n, H, W) booleans; None for none.
        keypoints: (n, K, 3), x, y and visibility, of which 0 is not drawn; None for none.
        skeleton: pairs of keypoints to draw lines between.
    """

    boxes: Array
    labels: Array
    texts: Sequence[str]
    masks: Array | None = None
    keypoints: Array | None = None
    skeleton: Sequence[tuple[int, int]] = ()


def colour_of(label: int) -> tuple[int, int, int]:
    """Return the colour of a class, red, green and blue from 0 to 255; neighbours differ clearly.

    >>> colour_of(0), colour_of(1)
    ((242, 48, 48), (48, 105, 242))
    """
    # Steps of the golden ratio around the circle of hues never meet a colour again.
    red, green, blue = colorsys.hsv_to_rgb(label * 0.6180339887 % 1, 0.8, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_objects(image: Tensor, drawn: Drawn) -> Tensor:
    """Return a picture of objects in an image, uint8 (3, s H, s W); s is 1 but for images that are too small.

    Args:
        image: uint8 (C, H, W) with 1 or 3 channels.
        drawn: the objects.

    >>> box = Drawn(np.array([[1.0, 1.0, 6.0, 5.0]]), np.array([0]), ["cat"])
    >>> picture = draw_objects(torch.zeros(1, 8, 8, dtype=torch.uint8), box)
    >>> picture.shape, picture[:, 12, 8].tolist()
    (torch.Size([3, 64, 64]), [242, 48, 48])
    """
    from PIL import Image, ImageDraw

    height, width = image.shape[1:]
    scale = max(1, min(_MOST_SCALE, _READABLE // max(height, width)))
    pixels = image[:3].expand(3, -1, -1).permute(1, 2, 0).to("cpu", torch.float32).numpy()
    colours = [colour_of(label) for label in drawn.labels.tolist()]
    if drawn.masks is not None:
        pixels = pixels.copy()
        for mask, colour in zip(drawn.masks.astype(bool), colours, strict=True):
            pixels[mask] = (1 - _OPACITY) * pixels[mask] + _OPACITY * np.array(colour, np.float32)
    picture = Image.fromarray(pixels.astype(np.uint8))
    if scale > 1:
        picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    pen, thick = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 200))
    for box, colour in zip((drawn.boxes * scale).tolist(), colours, strict=True):
        pen.rectangle(_inside(box, picture.size), outline=colour, width=thick)
    for points in drawn.keypoints * [scale, scale, 1] if drawn.keypoints is not None else ():
        _draw_points(pen, points.tolist(), drawn.skeleton, thick)
    for box, colour, text in zip((drawn.boxes * scale).tolist(), colours, drawn.texts, strict=True):
        _write(pen, box, text, colour, picture.size)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def detections_in(values: Mapping[str, Any], index: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the detections in an image of a test set as a prediction for the image at another size.

    Args:
        values: see `ObjectScores.report_values`.
        index: the image's number.
        size: (H, W) of the image that they are drawn on.
    """
    found: Table = values["detections"].select(np.flatnonzero(values["detections"].image == index))
    before: tuple[int, int] = values["sizes"][index]
    scale = np.array([size[1] / before[1], size[0] / before[0]])
    prediction = {"boxes": found.boxes * np.tile(scale, 2), "labels": found.label, "scores": found.score}
    if found.masks is not None:
        prediction["masks"] = np.zeros((len(found), *size), bool)
        rows, columns = (
            (np.arange(side) + 0.5) * old / side for side, old in zip(size, before, strict=True)
        )  # nearest pixels
        for mask, counts in zip(prediction["masks"], found.masks, strict=True):
            decoded = mask_functions().decode({"size": [*before], "counts": counts})
            mask[:] = decoded[rows.astype(int)[:, None], columns.astype(int)] > 0
    if found.keypoints is not None:
        prediction["keypoints"] = found.keypoints * np.append(scale, 1)
    return {name: torch.from_numpy(each) for name, each in prediction.items()}


def tiled(pictures: Sequence[Tensor], columns: int = 4, side: int = _READABLE) -> Tensor:
    """Return pictures in rows as one picture; each is made smaller until it fits a square.

    Args:
        pictures: uint8 (3, H, W), at least one.
        columns: of a row.
        side: pixels of the squares.

    >>> tiled([torch.zeros(3, 20, 40, dtype=torch.uint8)] * 5, columns=3, side=40).shape
    torch.Size([3, 84, 128])
    """
    from torchvision.transforms.v2 import functional

    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    step = side + _GAP
    sheet = torch.full((3, rows * step - _GAP, columns * step - _GAP), 255, dtype=torch.uint8)
    for number, picture in enumerate(pictures):
        longest = max(picture.shape[1:])
        if longest > side:
            size = [max(1, each * side // longest) for each in picture.shape[1:]]
            picture = functional.resize(picture, size, antialias=True)
        row, column = divmod(number, columns)
        height, width = picture.shape[1:]
        sheet[:, row * step : row * step + height, column * step : column * step + width] = picture
    return sheet


def _inside(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    x0, y0, x1, y1 = box
    right, bottom = size[0] - 1, size[1] - 1
    x0, y0 = min(max(x0, 0), right), min(max(y0, 0), bottom)
    return [x0, y0, min(max(x1 - 1, x0), right), min(max(y1 - 1, y0), bottom)]


def _draw_points(pen: Any, points: Any, skeleton: Sequence[tuple[int, int]], thick: int) -> None:
    for begin, end in skeleton:
        (x0, y0, seen), (x1, y1, also) = points[begin], points[end]
        if seen > 0 and also > 0:
            pen.line((x0, y0, x1, y1), fill=(255, 255, 255), width=thick)
    for number, (x, y, seen) in enumerate(points):
        if seen > 0:
            radius = 2 * thick
            place = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(place, fill=colour_of(number), outline=(255, 255, 255))


def _write(pen: Any, box: Sequence[float], text: str, colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Write a text above a box, or in it at the upper edge of the picture."""
    from PIL import ImageFont

    if not text:
        return
    font: Any = ImageFont.load_default(max(10, min(20, size[0] // 30)))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else max(0, min(box[1], size[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    light = colour[0] * 0.3 + colour[1] * 0.59 + colour[2] * 0.11 > 140
    pen.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if light else (255, 255, 255), font=font)
