"""Every random choice of loading follows from (SEED, iteration, slot), whoever loads and wherever it begins."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError
from warmstart.data import TrainLoader, build_train_loader

Configured = Callable[..., CfgNode]
Bytes = list[tuple[bytes, list[int]]]

AUGMENTED = (
    *("INPUT.TRANSFORMS_TRAIN", "[{RandomCrop: {size: 8, padding: 2}}, RandomHorizontalFlip, RandomErasing]"),
    *("SOLVER.IMS_PER_BATCH", 12),
)


def take(loader: TrainLoader, start: int, count: int) -> Bytes:
    """Return `count` batches as bytes and labels, and end what loads them."""
    batches = [*itertools.islice(loader.batches(start), count)]
    loader.close()
    return [(images.numpy().tobytes(), labels.tolist()) for images, labels in batches]


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(
    "loading",
    [
        ("DATALOADER.BACKEND", "worker"),
        ("DATALOADER.BACKEND", "worker", "DATALOADER.NUM_WORKERS", 1),
        ("DATALOADER.BACKEND", "resident"),
    ],
    ids=["here", "worker", "resident"],
)
def test_the_parts_of_all_ranks_joined_are_the_batch_of_one_process(
    configured: Configured, loading: tuple[Any, ...], world_size: int
) -> None:
    cfg = configured(*AUGMENTED, *loading)
    whole = take(build_train_loader(cfg), 117, 5)  # an epoch is 119.75 batches, a block of random numbers 64
    parts = [take(build_train_loader(cfg, rank, world_size), 117, 5) for rank in range(world_size)]
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        assert b"".join(part[0] for part in shares) == images
        assert [*itertools.chain(*(part[1] for part in shares))] == labels
        assert {len(part[1]) for part in shares} == {12 // world_size}


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_a_rank_names_its_own_samples(configured: Configured, backend: str) -> None:
    cfg = configured(*AUGMENTED, "DATALOADER.BACKEND", backend)
    whole = build_train_loader(cfg).sample_indices(119)
    parts = [build_train_loader(cfg, rank, 3).sample_indices(119) for rank in range(3)]
    assert parts == [whole[:4], whole[4:8], whole[8:]]


def test_a_rank_loads_no_sample_of_another(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = build_train_loader(configured(*AUGMENTED, "DATALOADER.BACKEND", "worker"), rank=1, world_size=3)
    touched: list[int] = []
    read = type(loader.dataset).__getitem__

    def noting(dataset: Any, index: int) -> Any:
        touched.append(index)
        return read(dataset, index)

    monkeypatch.setattr(type(loader.dataset), "__getitem__", noting)
    take(loader, 0, 2)
    assert touched == [*loader.sample_indices(0), *loader.sample_indices(1)]
    assert len(touched) == 8


def test_a_batch_that_ranks_cannot_share_is_refused(configured: Configured) -> None:
    cfg = configured("SOLVER.IMS_PER_BATCH", 10)
    with pytest.raises(
        ConfigError,
        match=r"^SOLVER.IMS_PER_BATCH .*: 10 images cannot be shared evenly by 4 processes; give a multiple of 4$",
    ):
        build_train_loader(cfg, rank=0, world_size=4)
