"""A batch."""

from __future__ import annotations

from torch import Tensor

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) float32, labels (N,) int64; of mixed ones (N, classes) float32
