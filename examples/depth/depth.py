"""Monocular depth: a user-defined task, model and data set, each registered under a name that the config uses.

python tools/train_net.py --import depth --config-file depth.yaml
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.tv_tensors import Mask

from warmstart.config import ConfigError
from warmstart.data import Batch, DatasetInfo, Sample, register_dataset
from warmstart.modeling import register_model
from warmstart.tasks import Forward, Score, Task, register_task

NEAR, FAR = 1.0, 4.0  # metres


class Depth(Task):
    """The model returns the logarithm of depth, (N, 1, H, W); targets are depth in metres, 0 where it is unknown.

    Args:
        info: info on the training set.
        variance_weight: from 0, all errors count alike, to 1, an error that is the same all over an image does not
            count, because a single image does not reveal absolute scale. Eigen et al. 2014, arXiv:1406.2283,
            equation 4.
    """

    scores = (
        Score("abs_rel", higher_is_better=False, percent=True),
        Score("rmse", higher_is_better=False),
        Score("delta1", percent=True),
    )
    num_outputs = 1

    def __init__(self, info: DatasetInfo, *, variance_weight: float = 0.5) -> None:
        if not 0 <= variance_weight <= 1:
            raise ConfigError(f"MODEL.TASK_ARGS.variance_weight: expected 0 to 1; got {variance_weight:g}")
        if info.num_classes > 1:
            raise ConfigError("MODEL.NUM_CLASSES: depth is one output of the model; leave it at 0")
        self.variance_weight = variance_weight

    def sample(self, image: Tensor, target: Any) -> Sample:
        """Return the image and its depth as a mask, which is transformed together with the image."""
        return {"image": image, "depth": Mask(target)}

    def check(self, sample: Sample, where: str) -> None:
        """Refuse a map that differs from its image in size."""
        found, size = tuple(sample["depth"].shape), tuple(sample["image"].shape[1:])
        if found != (1, *size):
            raise ConfigError(f"{where} has depth of shape {found}; its image needs {(1, *size)}")

    def losses(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Return the scale-invariant error of the logarithm, over the pixels whose depth is known."""
        known = batch.targets > 0
        count = known.sum(dim=(1, 2, 3)).clamp(min=1)
        errors = torch.where(known, forward(batch.images) - batch.targets.clamp(min=1e-3).log(), 0)
        mean = errors.sum(dim=(1, 2, 3)) / count
        square = errors.square().sum(dim=(1, 2, 3)) / count
        return {"loss_depth": (square - self.variance_weight * mean.square()).mean(), "train/bias": mean.mean()}

    def predict(self, forward: Forward, images: Tensor) -> Tensor:
        """Return depth in metres, (N, 1, H, W)."""
        return forward(images).exp()

    def evaluator(self) -> DepthScores:
        """Return an evaluator that computes `scores`."""
        return DepthScores()

    def draw(self, image: Tensor, prediction: Tensor) -> Tensor:
        """Return the image with its depth to the right: near is yellow, far is dark."""
        share = ((FAR - prediction[0]) / (FAR - NEAR)).clamp(0, 1)
        colours = torch.from_numpy(
            matplotlib.colormaps["viridis"](share.cpu().numpy(), bytes=True)[..., :3].copy()
        )
        return torch.cat([image.expand(3, -1, -1), colours.permute(2, 0, 1)], dim=2)


class DepthScores:
    """Mean relative error, root of the mean squared error in metres, share of pixels within a factor of 1.25."""

    def __init__(self) -> None:
        self.images: list[list[float]] = []  # sums per image, which add up exactly over all ranks

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take depths and true depths, both (N, 1, H, W)."""
        known = targets > 0
        truth = torch.where(known, targets, 1.0)
        error = predictions - truth
        ratio = torch.maximum(predictions / truth, truth / predictions)
        terms = [error.abs() / truth, error.square(), ratio < 1.25, known]
        sums = [(term * known).sum(dim=(1, 2, 3), dtype=torch.float64) for term in terms]
        self.images += torch.stack(sums, dim=1).tolist()

    def state(self) -> list[list[float]] | None:
        """Return the sums of this rank's images."""
        return self.images or None

    def merge(self, states: Sequence[list[list[float]]]) -> None:
        """Take the images of all ranks."""
        self.images = [image for state in states for image in state]

    def compute(self) -> dict[str, float]:
        """Return the scores over all pixels; fsum rounds once, so the order of images does not matter."""
        relative, square, near, pixels = map(math.fsum, zip(*self.images, strict=True))
        return {"abs_rel": relative / pixels, "rmse": math.sqrt(square / pixels), "delta1": near / pixels}


class DepthNet(nn.Module):
    """A small encoder-decoder: images (N, in_channels, H, W) to maps (N, num_classes, H, W)."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 8) -> None:
        super().__init__()
        self.fine = _convolutions(in_channels, width)
        self.coarse = _convolutions(width, 2 * width, stride=4)
        self.joined = _convolutions(3 * width, width)
        self.head = nn.Conv2d(width, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return one map for each output."""
        fine = self.fine(images)
        coarse = F.interpolate(self.coarse(fine), size=fine.shape[-2:])
        return self.head(self.joined(torch.cat([fine, coarse], dim=1)))


def _convolutions(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=5, stride=stride, padding=2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Scenes(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A disc in front of a slanted wall, lit from the camera: brightness is inversely proportional to distance.

    Args:
        first: number of the first scene; a scene is a function of its number.
        size: number of scenes.
    """

    def __init__(self, first: int, size: int) -> None:
        self.first, self.size = first, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(self.first + index)
        tilt_x, tilt_y, x, y, radius, closer = torch.rand(6, generator=random).tolist()
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
        wall = 3 + (tilt_x - 0.5) * columns + (tilt_y - 0.5) * rows
        disc = (columns - x + 0.5).square() + (rows - y + 0.5).square() < (0.3 + 0.4 * radius) ** 2
        depth = torch.where(disc, NEAR + closer, wall)[None]
        colours = 0.8 + 0.2 * torch.rand(2, 3, 1, 1, generator=random)
        light = torch.where(disc, colours[0], colours[1]) / depth
        noise = 0.02 * torch.randn(3, 32, 32, generator=random)
        return ((light + noise).clamp(0, 1) * 255).byte(), depth


for part, first, size in (("train", 0, 512), ("test", 512, 128)):
    scene_info = DatasetInfo(size=size, num_classes=0, channels=3, image_size=(32, 32))
    register_dataset(f"scenes_{part}", lambda root, download, part=(first, size): Scenes(*part), scene_info)
register_model("depth_net", DepthNet)
register_task("depth", Depth)
