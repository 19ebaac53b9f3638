"""Transforms by name, and the normalisation after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from warmstart.config import ConfigError
from warmstart.data import build_transform, check_transforms, register_transform
from warmstart.data.datasets.decode import to_tensor
from warmstart.data.transforms.image import ImageTransform

KEY = "INPUT.TRANSFORMS_TRAIN"
RGB = np.random.RandomState(0).randint(0, 256, (8, 10, 3), np.uint8)


class Add:
    """A user-defined transform."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, image: Tensor) -> Tensor:
        return image + self.amount


@pytest.mark.parametrize(
    "image", [RGB, Image.fromarray(RGB), torch.from_numpy(RGB).permute(2, 0, 1)], ids=["array", "PIL", "tensor"]
)
def test_every_form_of_an_rgb_image_becomes_the_same_tensor(image: Any) -> None:
    assert torch.equal(to_tensor(image), torch.from_numpy(RGB).permute(2, 0, 1))


@pytest.mark.parametrize(
    "image",
    [RGB[..., 0], Image.fromarray(RGB[..., 0]), torch.from_numpy(RGB[..., 0])],
    ids=["array", "PIL", "tensor"],
)
def test_every_form_of_a_grey_image_gets_its_channel(image: Any) -> None:
    assert torch.equal(to_tensor(image), torch.from_numpy(RGB[None, ..., 0].copy()))


@pytest.mark.parametrize("image", [np.ones((4, 4), np.uint8), torch.ones(1, 4, 4, dtype=torch.uint8)])
def test_a_transform_in_place_does_not_change_the_data_set(image: Any) -> None:
    to_tensor(image).zero_()
    assert image.min() == 1


def test_a_read_only_array_causes_no_warning() -> None:
    image = RGB.copy()
    image.flags.writeable = False
    assert to_tensor(image).shape == (3, 8, 10)


def test_image_transform_agrees_with_torchvisions_compose() -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    ours = build_transform(
        [("RandomHorizontalFlip", {"p": 1.0}), ("CenterCrop", {"size": [4, 6]})], mean, std, KEY
    )
    theirs = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(1.0),
            v2.CenterCrop([4, 6]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    result = ours(Image.fromarray(RGB))
    assert result.dtype == torch.float32
    assert type(result) is Tensor
    assert torch.equal(result, theirs(Image.fromarray(RGB)))


def test_image_transform_without_entries_only_normalises() -> None:
    transform = build_transform([], [0.5], [0.25], KEY)
    assert transform(np.array([[0, 255]], np.uint8)).tolist() == [[[-2.0, 2.0]]]


def test_image_transform_applies_entries_in_order() -> None:
    register_transform("Add", Add)
    both = [("Add", {"amount": 255}), ("RandomInvert", {"p": 1.0})]
    black = np.zeros((1, 1), np.uint8)
    assert build_transform(both, [0], [1], KEY)(black).item() == 0
    assert build_transform(both[::-1], [0], [1], KEY)(black + 1).item() == pytest.approx(253 / 255)


def test_is_users_own_is_true_only_with_a_user_defined_transform() -> None:
    register_transform("Add", Add)
    assert not build_transform([("RandomErasing", {})], [0], [1], KEY).is_users_own
    assert build_transform([("RandomErasing", {}), ("Add", {"amount": 1})], [0], [1], KEY).is_users_own


@pytest.mark.parametrize("name", ["Resize", "Add"])
def test_register_transform_refuses_a_name_that_is_taken(name: str) -> None:
    with pytest.raises(ConfigError, match=f"a transform called '{name}' exists already; choose another name"):
        register_transform("Add", Add)
        register_transform(name, Add)


def test_an_enum_argument_is_given_by_its_value() -> None:
    transform = build_transform([("AutoAugment", {"policy": "cifar10"})], [0], [1], KEY)
    assert transform.steps[0][1].policy is v2.AutoAugmentPolicy.CIFAR10  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("RandomHorizontalFlipp", {})], "no transform is called .* did you mean 'RandomHorizontalFlip'"),
        ([("Lambda", {})], "no transform is called 'Lambda'"),
        ([("Normalize", {"mean": [0], "std": [1]})], "Normalize is built in: set INPUT.MEAN and INPUT.STD; leave"),
        (
            [("CenterCrop", {})],
            "CenterCrop.size: CenterCrop needs it; give it a value: {CenterCrop: {size: VALUE}}",
        ),
        ([("RandomCrop", {"sizes": 4})], "RandomCrop takes no argument 'sizes'; did you mean 'size'"),
        ([("RandomCrop", {})], "RandomCrop.size: RandomCrop needs it"),
        ([("RandomHorizontalFlip", {"p": "often"})], "RandomHorizontalFlip.p: .* expects a number; got 'often'"),
        ([("RandomHorizontalFlip", {"p": 2.0})], "RandomHorizontalFlip: RandomHorizontalFlip refuses it"),
        ([("AutoAugment", {"policy": "cifar"})], "AutoAugment.policy: no policy is called 'cifar'; .*'cifar10'"),
        ([("Typo", {}), ("CenterCrop", {"p": 1})], r"3 problems:(?s:.*)Typo(?s:.*)'p'(?s:.*)CenterCrop needs it"),
    ],
)
def test_check_transforms_refuses_wrong_entries(entries: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_transform(entries, [0], [1], KEY)
    assert all(problem.startswith(KEY) for problem in error.value.problems)


def test_check_transforms_builds_nothing() -> None:
    register_transform("Bang", lambda size: pytest.fail("was built"))
    check_transforms([("Bang", {"size": 3})], KEY)


@pytest.mark.parametrize(
    ("entries", "shape"),
    [
        ([], (3, 32, 48)),
        ([("RandomCrop", {"size": 28, "padding": 4})], (3, 28, 28)),
        ([("Grayscale", {}), ("Resize", {"size": [8, 9], "interpolation": "nearest"})], (1, 8, 9)),
    ],
)
def test_output_shape_is_the_shape_of_the_models_input(entries: list[Any], shape: tuple[int, ...]) -> None:
    transform = build_transform(entries, [0.5], [0.5], KEY)
    before = torch.get_rng_state()
    assert transform.output_shape(3, (32, 48), KEY) == shape
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("RandomCrop", {"size": 40})], r"RandomCrop fails on a 3x32x32 image \(C x H x W\): Required crop size"),
        ([("CenterCrop", {"size": 8}), ("Flat", {})], "Flat must return an image .* as a tensor"),
        ([("Broken", {})], "Broken fails on a 3x32x32 image .*: 'oh'"),
    ],
)
def test_output_shape_names_a_transform_that_does_not_fit_the_images(entries: list[Any], message: str) -> None:
    def broken(image: Tensor) -> Tensor:
        raise KeyError("oh")

    register_transform("Flat", lambda: torch.flatten)
    register_transform("Broken", lambda: broken)
    with pytest.raises(ConfigError, match=f"{KEY}: {message}"):
        build_transform(entries, [0], [1], KEY).output_shape(3, (32, 32), KEY)


@pytest.mark.parametrize(
    ("mean", "std", "key", "channels"),
    [
        ([0.5] * 3, [1.0], "MEAN", 1),
        ([0.5], [1.0] * 3, "STD", 1),
        ([0.5] * 2, [1.0], "MEAN", 3),
        ([], [1.0], "MEAN", 1),
    ],
)
def test_normalised_refuses_mean_and_std_of_another_number_of_channels(
    mean: list[float], std: list[float], key: str, channels: int
) -> None:
    transform = build_transform([], mean, std, KEY)
    values = len({"MEAN": mean, "STD": std}[key])
    message = rf"INPUT.{key} has {values} values, but the images have {channels} channel\(s\)"
    with pytest.raises(ConfigError, match=message):
        transform(np.zeros((4, 4, channels), np.uint8))
    with pytest.raises(ConfigError, match=message):
        transform.output_shape(channels, (4, 4), KEY)


def boxed(height: int, width: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return a sample: an image that is white in a box and black elsewhere, the box and the same as a mask."""
    image = torch.zeros(1, height, width, dtype=torch.uint8)
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = 255
    boxes = tv_tensors.BoundingBoxes([box], format="XYXY", canvas_size=(height, width))
    return {"image": image, "boxes": boxes, "labels": torch.tensor([4]), "mask": tv_tensors.Mask(image[0] // 255)}


def test_augmented_changes_boxes_and_masks_with_the_image() -> None:
    transform = build_transform(
        [("RandomHorizontalFlip", {"p": 1.0}), ("Resize", {"size": [8, 16]})], [0], [1], "X"
    )
    sample = transform.augmented(boxed(4, 8, (1, 2, 3, 4)))
    assert sample["boxes"].tolist() == [[10, 4, 14, 8]]  # flipped to 5..7, then twice as large
    assert type(sample["image"]) is torch.Tensor
    assert sample["image"][0, 5:7, 11:13].tolist() == [[255, 255], [255, 255]]
    assert not sample["image"][0, :, :9].any()
    assert sample["mask"].sum() == 16
    assert sample["labels"].tolist() == [4]


def test_augmented_passes_a_plain_image_alone() -> None:
    seen: list[type] = []

    def step(image: torch.Tensor) -> torch.Tensor:
        seen.append(type(image))
        return image

    ImageTransform([("mine", step)], [0.0], [1.0]).augmented({"image": torch.zeros(1, 2, 2), "label": 7})
    assert seen == [torch.Tensor]


def test_check_targets_refuses_a_transform_of_images_alone_for_boxes() -> None:
    transform = ImageTransform([("mine", lambda image: image)], [0.0], [1.0])
    transform.check_targets({"image": torch.zeros(1, 2, 2), "label": 7}, "INPUT.TRANSFORMS_TRAIN")
    with pytest.raises(ConfigError, match="^INPUT.TRANSFORMS_TRAIN: mine takes images alone, but the"):
        transform.check_targets(boxed(4, 8, (1, 2, 3, 4)), "INPUT.TRANSFORMS_TRAIN")
