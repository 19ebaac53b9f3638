"""A single sample of a data set, as reports show it: its name and its image."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .decode import to_tensor
from .unreadable import UnreadableSample, read_sample, sample_path


def sample_name(dataset: Any, index: int) -> str:
    """Return a sample's file, relative to the folder of the data set if that is known; "" if it has none.

    Args:
        dataset: its attribute `samples` has pairs (file, label), and `root` is the folder, as torchvision's have.
        index: of the sample.

    >>> from types import SimpleNamespace
    >>> folder = SimpleNamespace(samples=[("photos/val/cats/1.png", 0)], root="photos/val")
    >>> sample_name(folder, 0), sample_name([5, 6], 0)
    ('cats/1.png', '')
    """
    path, root = sample_path(dataset, index), getattr(dataset, "root", None)
    if path and isinstance(root, (str, os.PathLike)):
        relative = os.path.relpath(path, os.fspath(root))
        return path if relative.startswith(os.pardir) else relative.replace(os.sep, "/")
    return path


def sample_image(dataset: Any, index: int) -> Tensor | None:
    """Return a sample's image before all transforms, uint8 (C, H, W).

    None if it cannot be read, or holds other numbers.

    >>> import numpy as np
    >>> sample_image([(np.zeros((4, 6, 3), np.uint8), 0)], 0).shape
    torch.Size([3, 4, 6])
    """
    try:
        image = to_tensor(read_sample(dataset, index)[0])
    except UnreadableSample:
        return None
    return image if image.dtype == torch.uint8 else None
