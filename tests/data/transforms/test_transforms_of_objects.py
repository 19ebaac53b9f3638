"""INPUT.TRANSFORMS_TRAIN on samples with boxes, masks and keypoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from warmstart.config import ConfigError
from warmstart.data import build_transform, register_transform
from warmstart.data.transforms.image import ImageTransform
from warmstart.data.transforms.objects import finish_objects
from warmstart.data.transforms.registry import NEED_TARGETS, library

from .object_samples import rows, shape_sample

LABEL = "INPUT.TRANSFORMS_TRAIN"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": 60},
    "FixedSizeCrop": {"size": 120},
    "GaussianBlur": {"kernel_size": 3},
    "JPEG": {"quality": 50},
    "Pad": {"padding": [2, 3, 4, 5], "fill": 128},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "RandomAffine": {"degrees": 30, "fill": 128},
    "RandomCrop": {"size": 50},
    "RandomPosterize": {"bits": 2},
    "RandomResize": {"min_size": 50, "max_size": 80},
    "RandomResizedCrop": {"size": 64},
    "RandomRotation": {"degrees": 30, "expand": True},
    "RandomShortestSize": {"min_size": [50, 80]},
    "RandomSolarize": {"threshold": 100},
    "RandomZoomOut": {"fill": [1, 2, 3], "p": 1},
    "Resize": {"size": [60, 70]},
    "ScaleJitter": {"target_size": [80, 80]},
}
IMAGES_ALONE = {"AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"}
QUIET = pytest.mark.filterwarnings("ignore:RandomErasing", "ignore:The image decoding and encoding")


def built(name: str, **arguments: Any) -> ImageTransform:
    return build_transform([(name, arguments)], [0.0], [1.0], LABEL)


@QUIET
@pytest.mark.parametrize("name", sorted({*library()} - NEED_TARGETS - IMAGES_ALONE) + ["RandomIoUCrop"])
def test_transforms_change_image_boxes_masks_and_keypoints_together(name: str) -> None:
    transform = built(name, **ARGUMENTS.get(name, {}))
    for seed in range(3):
        sample = shape_sample(seed)
        transform.check_targets(sample, LABEL)
        torch.manual_seed(seed)
        found = finish_objects(transform.augmented(sample), [(1, 2)])
        size = found["image"].shape[-2:]
        assert found["masks"].shape[1:] == size
        assert {*found["masks"].unique().tolist()} <= {0, 1}  # no fill of 128
        assert len(rows(found)) == 1
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([size[1], size[0]] * 2)).all()


@pytest.mark.parametrize("name", sorted(IMAGES_ALONE))
def test_check_targets_refuses_transforms_that_do_not_support_boxes(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{LABEL}: {name} fails on a sample with boxes, masks or key points"):
        built(name).check_targets(shape_sample(0), LABEL)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("SanitizeBoundingBoxes", {}, "removes objects from some of their entries only"),
        ("SanitizeKeyPoints", {}, "removes objects from some of their entries only"),
        ("ClampKeyPoints", {}, "moves key points"),
        ("ConvertBoundingBoxFormat", {"format": "XYWH"}, "turns boxes into other numbers"),
        ("SetClampingMode", {"clamping_mode": None}, "can leave boxes that reach beyond the image"),
        ("Pad", {"padding": 2, "padding_mode": "reflect"}, "fails on a sample .*'reflect' is not supported"),
    ],
)
def test_check_targets_refuses_transforms_that_break_objects(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"{LABEL}: {name} {message}.*leave it out"):
        built(name, **arguments).check_targets(shape_sample(0), LABEL)


@pytest.mark.parametrize("name", ["ElasticTransform", "RandomPerspective"])
def test_check_targets_refuses_distortions_of_images_that_are_scored(name: str) -> None:
    message = f"{name} distorts images, so that predictions cannot be mapped back .*; leave it out"
    with pytest.raises(ConfigError, match=message):
        built(name).check_targets(shape_sample(0), "INPUT.TRANSFORMS_TEST", scored=True)


class _Halved(v2.Transform):
    """Halves images, and leaves boxes and masks as they are."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.Image(inpt[..., ::2, ::2]) if isinstance(inpt, tv_tensors.Image) else inpt


def test_a_transform_that_resizes_images_alone_is_refused() -> None:
    register_transform("Halved", _Halved)
    message = (
        "after Halved an image is 48x48 \\(height x width\\), but its boxes are still in an image of 96x96; a"
        " transform must change both"
    )
    with pytest.raises(ConfigError, match=f"^{LABEL}: {message}"):
        built("Halved").check_targets(shape_sample(0), LABEL)
    with pytest.raises(ConfigError, match=f"^{message}"):
        built("Halved").augmented(shape_sample(0))


def test_check_targets_leaves_the_generators_and_the_sample_as_they_were() -> None:
    sample = shape_sample(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    built("ScaleJitter", target_size=[50, 50]).check_targets(sample, LABEL)
    assert torch.equal(torch.get_rng_state(), before)
    assert sample["image"].shape == (3, 96, 96)


def test_fill_applies_to_bare_images_too() -> None:
    image = built("Pad", padding=1, fill=9).augmented({"image": torch.zeros(1, 1, 1, dtype=torch.uint8)})["image"]
    assert image[0].tolist() == [[9, 9, 9], [9, 0, 9], [9, 9, 9]]
