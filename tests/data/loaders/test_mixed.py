"""MixUp and CutMix by torchvision's names, and their random draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from warmstart.config import CfgNode, ConfigError
from warmstart.data import register_transform
from warmstart.engine import resolve_config

from ...built import build_train_loader, check_data

Configured = Callable[..., CfgNode]
BOTH = "[{MixUp: {alpha: 0.4}}, CutMix]"


def batches(cfg: CfgNode, count: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    loader = build_train_loader(cfg)
    stream = loader.batches(start)
    found = [next(stream) for _ in range(count)]
    loader.close()
    return found


@pytest.fixture
def plain_and_mixed(configured: Configured, noise_npz: Path) -> Callable[..., Any]:
    """Pairs of a batch, in which no pixel is like another image's, and the same batch mixed."""
    data = ("DATASETS.TRAIN", f"npz:{noise_npz}")

    def make(transforms: str, count: int) -> Any:
        mixed = batches(configured(*data, "INPUT.TRANSFORMS_TRAIN", transforms), count)
        return zip(batches(configured(*data), count), mixed, strict=True)

    return make


def test_mixup_applies_the_published_formula_with_the_preceding_sample(
    plain_and_mixed: Callable[..., Any],
) -> None:
    shares = []
    for (images, labels), (mixed, targets) in plain_and_mixed("[{MixUp: {alpha: 0.4}}]", 4):
        other = images.roll(1, 0)
        classes = torch.nn.functional.one_hot(labels, 3)
        # The share follows from the images, and the labels must have been mixed with the same.
        share = ((mixed - other) * (images - other)).sum() / ((images - other) ** 2).sum()
        torch.testing.assert_close(mixed, share * images + (1 - share) * other)
        torch.testing.assert_close(targets, share * classes + (1 - share) * classes.roll(1, 0))
        shares.append(round(share.item(), 4))
    assert len(set(shares)) == 4


def test_cutmix_pastes_a_box_and_mixes_labels_by_its_area(plain_and_mixed: Callable[..., Any]) -> None:
    areas = []
    for (images, labels), (mixed, targets) in plain_and_mixed("[CutMix]", 8):
        changed = (mixed != images).sum((0, 1)) > 8  # of 16 images, some of which share a value
        assert mixed[..., changed].equal(images.roll(1, 0)[..., changed])
        areas.append(int(changed.sum()))
        assert areas[-1] == int(changed.any(1).sum()) * int(changed.any(0).sum()), "a box"
        share = 1 - areas[-1] / 64
        classes = torch.nn.functional.one_hot(labels, 3)
        torch.testing.assert_close(targets, share * classes + (1 - share) * classes.roll(1, 0))
    assert len(set(areas)) > 3


def test_mixup_and_cutmix_together_each_mix_half_of_the_batches(plain_and_mixed: Callable[..., Any]) -> None:
    cut = 0
    for (images, _), (mixed, _) in plain_and_mixed("[{MixUp: {alpha: 8}}, {CutMix: {alpha: 8}}]", 100):
        same = (mixed == images) | (mixed == images.roll(1, 0))
        cut += bool(same.all())
    assert abs(cut - 50) < 3 * math.sqrt(25)


@pytest.mark.need("C1", "C5", "C6")
@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_mixing_draws_depend_on_seed_and_iteration_alone(configured: Configured, backend: str) -> None:
    def cfg(*words: Any) -> CfgNode:
        return configured("INPUT.TRANSFORMS_TRAIN", BOTH, "DATALOADER.BACKEND", backend, *words)

    whole = batches(cfg(), 9)
    torch.manual_seed(5)  # nobody else's random numbers matter
    state = torch.get_rng_state()
    for start, workers in ((1, 0), (5, 2), (8, 0)):
        (images, labels), *_ = batches(cfg("DATALOADER.NUM_WORKERS", workers), 1, start)
        assert images.equal(whole[start].images)
        assert labels.equal(whole[start].targets)
    assert torch.get_rng_state().equal(state)
    assert not batches(cfg("SEED", 1), 1)[0].targets.equal(whole[0].targets)


@pytest.mark.parametrize("backend", ["worker", "resident"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_parts_of_all_ranks_form_the_mixed_batch_of_one_process(
    configured: Configured, backend: str, world_size: int
) -> None:
    cfg = configured("INPUT.TRANSFORMS_TRAIN", BOTH, "DATALOADER.BACKEND", backend, "SOLVER.IMS_PER_BATCH", 12)
    loaders = [build_train_loader(cfg, rank, world_size) for rank in range(world_size)]
    whole = build_train_loader(cfg)
    assert [index for loader in loaders for index in loader.sample_indices(2)] == whole.sample_indices(2)
    for (images, labels), *parts in itertools.islice(zip(whole, *loaders, strict=True), 4):
        assert torch.cat([part.images for part in parts]).equal(images)
        assert torch.cat([part.targets for part in parts]).equal(labels)


def test_both_loaders_give_the_same_mixed_batches(configured: Configured) -> None:
    one, other = (
        batches(configured("INPUT.TRANSFORMS_TRAIN", BOTH, "DATALOADER.BACKEND", backend), 6)
        for backend in ("worker", "resident")
    )
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        torch.testing.assert_close(images, other_images)
        assert labels.equal(other_labels)


def is_mixed(shares: Tensor) -> bool:
    return not torch.equal(shares.amax(1), torch.ones(len(shares)))


def test_mixing_with_a_probability_leaves_the_other_batches_as_they_are(
    plain_and_mixed: Callable[..., Any],
) -> None:
    mixed_ones = 0
    for (images, labels), (mixed, targets) in plain_and_mixed("[{MixUp: {alpha: 8, p: 0.25}}]", 100):
        mixed_ones += is_mixed(targets)
        if not is_mixed(targets):
            assert mixed.equal(images)
            assert targets.equal(torch.nn.functional.one_hot(labels, 3).float())
    assert abs(mixed_ones - 25) < 3 * math.sqrt(100 * 0.25 * 0.75)


@pytest.mark.parametrize("start", [0, 3, 4, 5])
def test_mixing_ends_at_until(configured: Configured, start: int) -> None:
    cfg = configured("INPUT.TRANSFORMS_TRAIN", "[{MixUp: {alpha: 8, until: 4}}]")
    always = batches(configured("INPUT.TRANSFORMS_TRAIN", "[{MixUp: {alpha: 8}}]"), 8 - start, start)
    found = batches(cfg, 8 - start, start)
    assert [is_mixed(batch.targets) for batch in found] == [t < 4 for t in range(start, 8)]
    for (images, shares), (other, theirs) in list(zip(found, always, strict=True))[: max(0, 4 - start)]:
        assert images.equal(other)
        assert shares.equal(theirs)


def test_only_transforms_that_are_not_over_are_drawn(configured: Configured) -> None:
    both = batches(
        configured("INPUT.TRANSFORMS_TRAIN", "[{MixUp: {alpha: 8, until: 3}}, {CutMix: {alpha: 8}}]"), 20
    )
    alone = batches(configured("INPUT.TRANSFORMS_TRAIN", "[{CutMix: {alpha: 8}}]"), 20)
    for (images, shares), (other, theirs) in zip(both[3:], alone[3:], strict=True):
        assert images.equal(other)
        assert shares.equal(theirs)


def test_resolve_config_converts_until_to_iterations(configured: Configured) -> None:
    words = ["SOLVER.MAX_ITER", 200, "SOLVER.IMS_PER_BATCH", 1437]
    cfg = configured("INPUT.TRANSFORMS_TRAIN", "[{MixUp: {until: 80%}}, {CutMix: {p: 0.5, until: 90ep}}]", *words)
    resolved = resolve_config(cfg)
    assert resolved.INPUT.TRANSFORMS_TRAIN == (
        ("MixUp", {"until": 160}),
        ("CutMix", {"p": 0.5, "until": 90}),
    )
    assert resolve_config(resolved).INPUT.TRANSFORMS_TRAIN == resolved.INPUT.TRANSFORMS_TRAIN
    with pytest.raises(ConfigError, match="MixUp.until: is '80%'; give a number of iterations, or let warmstart"):
        build_train_loader(cfg)
    wrong = configured("INPUT.TRANSFORMS_TRAIN", "[{MixUp: {until: soon}}]")
    with pytest.raises(
        ConfigError, match=r"TRAIN: MixUp.until \(override\): expected a number of iterations, 1 or"
    ):
        resolve_config(wrong)


@pytest.mark.parametrize(
    ("key", "transforms", "message"),
    [
        (
            "TRAIN",
            "[MixUp, {RandomCrop: {size: 8}}]",
            "MixUp mixes entire batches; put it after RandomCrop, at the end",
        ),
        ("TRAIN", "[{MixUp: {alpha: 0}}]", r"MixUp.alpha: MixUp expects a number above 0, such as 0.2; got 0"),
        ("TRAIN", "[{CutMix: {alpha: x}}]", "CutMix.alpha: CutMix expects a number"),
        ("TRAIN", "[{MixUp: {num_classes: 3}}]", "MixUp takes no argument 'num_classes'. It takes: alpha, p, un"),
        (
            "TRAIN",
            "[{MixUp: {p: 0}}]",
            "MixUp.p: MixUp expects a probability above 0 and at most 1, such as 0.5; got 0",
        ),
        ("TRAIN", "[{MixUp: {p: true}}]", "MixUp.p: MixUp expects a probability above 0 .*; got True"),
        ("TRAIN", "[Mixup]", "no transform is called 'Mixup'; did you mean 'MixUp'?"),
        ("TEST", "[MixUp]", "INPUT.TRANSFORMS_TEST .*: MixUp is for INPUT.TRANSFORMS_TRAIN only; remove it"),
    ],
)
def test_wrong_mixing_entries_are_refused_in_one_sentence(
    configured: Configured, key: str, transforms: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_data(configured(f"INPUT.TRANSFORMS_{key}", transforms))


def test_register_transform_refuses_the_names_of_mixing() -> None:
    with pytest.raises(ConfigError, match="a transform called 'MixUp' exists already"):
        register_transform("MixUp", lambda: torch.clone)
