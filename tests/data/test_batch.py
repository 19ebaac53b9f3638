"""Batches: split by sample, moved, pinned, and sent between processes as few buffers."""

from __future__ import annotations

import gc
import os
import pickle
import weakref
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from warmstart.data import Batch, map_tensors, split_batch, to_device

META = torch.device("meta")


def detection() -> Batch:
    """Two images of different sizes; the first one has four boxes, the second one none."""
    images = [torch.full((3, 4, 6), 1.0), torch.full((3, 5, 5), 2.0)]
    targets = [
        {"boxes": torch.arange(16.0).view(4, 4), "labels": torch.tensor([7, 8, 9, 7]), "name": "a"},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "name": "b"},
    ]
    return Batch(images, targets, torch.tensor([30, 31]))


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, value)  # type: ignore[func-returns-value]
    return found


# Basics.


@pytest.mark.parametrize("images", [torch.zeros(3, 1, 2, 2), [torch.zeros(1, 2, 2)] * 3], ids=["tensor", "list"])
def test_batch_length_is_its_number_of_images(images: Any) -> None:
    assert len(Batch(images, {"a": torch.zeros(3), "b": torch.zeros(3)})) == 3


def test_batch_unpacks_to_its_images_and_targets() -> None:
    batch = detection()
    images, targets = batch
    assert images is batch.images
    assert targets is batch.targets
    assert [*batch] == [batch.images, batch.targets]


def test_batch_map_changes_only_the_tensors_of_images_and_targets() -> None:
    batch = detection()
    mapped = batch.map(lambda tensor: tensor + 1)
    assert type(mapped) is Batch
    assert [image.unique().tolist() for image in mapped.images] == [[2.0], [3.0]]
    assert mapped.targets[0]["boxes"][0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert mapped.targets[0]["labels"].tolist() == [8, 9, 10, 8]
    assert [target["name"] for target in mapped.targets] == ["a", "b"]
    assert mapped.indices is not None
    assert mapped.indices.tolist() == [30, 31]
    assert batch.images[0].unique().tolist() == [1.0]


def test_batch_to_moves_images_and_targets_and_keeps_indices_on_the_cpu() -> None:
    moved = detection().to("meta")
    assert {tensor.device.type for tensor in tensors([moved.images, moved.targets])} == {"meta"}
    assert len(tensors([moved.images, moved.targets])) == 6
    assert moved.indices is not None
    assert moved.indices.tolist() == [30, 31]


def test_batch_pin_memory_pins_every_tensor_and_stays_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 100)
    pinned = detection().pin_memory()
    assert type(pinned) is Batch
    assert pinned.images[1].unique().tolist() == [102.0]
    assert pinned.targets[0]["labels"].tolist() == [107, 108, 109, 107]


@pytest.mark.gpu
def test_batch_comes_pinned_out_of_a_dataloader_that_pins() -> None:
    loader = DataLoader(Detections(4), batch_size=None, num_workers=1, pin_memory=True)
    for batch in loader:
        assert type(batch) is Batch
        assert len(tensors([batch.images, batch.targets])) == 6
        assert all(tensor.is_pinned() for tensor in tensors([batch.images, batch.targets]))


@pytest.mark.gpu
def test_batch_to_copies_from_pinned_memory_to_the_device() -> None:
    moved = detection().pin_memory().to("cuda")
    assert {tensor.device.type for tensor in tensors([moved.images, moved.targets])} == {"cuda"}
    assert moved.targets[0]["boxes"].cpu().equal(detection().targets[0]["boxes"])


@pytest.mark.need("E12")
def test_to_device_keeps_the_form_of_a_batch() -> None:
    batch = ([torch.ones(2)], {"a": (torch.zeros(1), None)}, 3)
    moved = to_device(batch, META)
    assert moved[0][0].device.type == moved[1]["a"][0].device.type == "meta"
    assert (type(moved[0]), moved[1]["a"][1], moved[2]) == (list, None, 3)
    assert type(to_device(detection(), META)) is Batch


def test_map_tensors_keeps_named_tuples_and_goes_into_batches() -> None:
    Pair = namedtuple("Pair", "a b")
    mapped = map_tensors(torch.neg, {"pair": Pair(torch.tensor(1), "x"), "batch": detection()})
    assert mapped["pair"] == Pair(torch.tensor(-1), "x")
    assert type(mapped["pair"]) is Pair
    assert mapped["batch"].images[1].unique().tolist() == [-2.0]


# Splitting.


def test_batch_split_cuts_tensors_by_sample_as_views() -> None:
    images, targets = torch.arange(6.0).view(6, 1, 1, 1), torch.arange(6)
    parts = Batch(images, targets, torch.arange(10, 16)).split(3)
    assert [part.images.flatten().tolist() for part in parts] == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]  # type: ignore[union-attr]
    assert [part.targets.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert [part.indices.tolist() for part in parts if part.indices is not None] == [[10, 11], [12, 13], [14, 15]]
    parts[1].images.fill_(9)  # type: ignore[union-attr]
    assert images.flatten().tolist() == [0.0, 1.0, 9.0, 9.0, 4.0, 5.0]


@pytest.mark.need("E12")
def test_batch_split_splits_lists_by_sample_and_leaves_boxes_together() -> None:
    batch = detection()
    first, second = batch.split(2)
    assert (len(first), len(second)) == (1, 1)
    assert first.images[0] is batch.images[0]
    assert first.targets[0]["boxes"].shape == (4, 4)
    assert first.targets == [batch.targets[0]]
    assert second.targets == [batch.targets[1]]
    assert (first.indices.tolist(), second.indices.tolist()) == ([30], [31])  # type: ignore[union-attr]


def test_batch_split_keeps_as_many_boxes_as_there_are_samples_together() -> None:
    """Each of the two samples has two boxes: as many entries as the batch has samples."""
    targets = [{"boxes": torch.full((2, 4), float(number))} for number in range(2)]
    parts = Batch([torch.zeros(3, 2, 2)] * 2, targets).split(2)
    assert [part.targets[0]["boxes"].tolist() for part in parts] == [[[0.0] * 4] * 2, [[1.0] * 4] * 2]


def test_batch_split_cuts_dicts_of_tensors_and_lists_entry_by_entry() -> None:
    targets = {"mask": torch.arange(4).view(4, 1), "names": ["a", "b", "c", "d"], "set": "train"}
    parts = Batch(torch.zeros(4, 1, 1, 1), targets).split(2)
    assert [part.targets["mask"].tolist() for part in parts] == [[[0], [1]], [[2], [3]]]
    assert [part.targets["names"] for part in parts] == [["a", "b"], ["c", "d"]]
    assert [part.targets["set"] for part in parts] == ["train", "train"]
    assert [part.indices for part in parts] == [None, None]


@pytest.mark.need("B16")
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            Batch(torch.zeros(6, 1), torch.zeros(6)),
            "a batch of 6 samples cannot be cut into 4 equal micro-batches",
        ),
        (Batch([torch.zeros(1)] * 3, [0, 1, 2]), "a batch of 3 samples cannot be cut into 4 equal micro-batches"),
        (
            Batch(torch.zeros(0, 1), torch.zeros(0)),
            "a batch of 0 samples cannot be cut into 4 equal micro-batches",
        ),
        (Batch(torch.zeros(8, 1), torch.zeros(4, 2)), r"8 samples with a tensor of shape \(4, 2\) cannot be cut"),
        (Batch(torch.zeros(8, 1), torch.tensor(1.0)), r"8 samples with a tensor of shape \(\) cannot be cut"),
        (Batch(torch.zeros(4, 1), {"a": [0, 1, 2]}), "4 samples with a list of 3 cannot be cut into 4 micro"),
        (
            Batch(torch.zeros(4, 1), [torch.tensor(1.0)] * 3),
            "4 samples with a list of 3 cannot be cut into 4 micro",
        ),
    ],
    ids=["tensor", "list", "none", "fewer targets", "number", "fewer names", "fewer numbers"],
)
def test_batch_split_refuses_unequal_parts(batch: Batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch.split(4)


@pytest.mark.need("E12")
def test_split_batch_cuts_every_field_of_a_tuple() -> None:
    batch = (torch.arange(16).view(8, 2), [torch.arange(8), {"masks": torch.ones(8, 3, 3)}], "day", 7)
    parts = split_batch(batch, 4)
    assert torch.equal(torch.cat([part[0] for part in parts]), batch[0])
    assert [part[1][0].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert parts[3][1][1]["masks"].shape == (2, 3, 3)
    assert all(part[2:] == ("day", 7) for part in parts)


def test_split_batch_cuts_the_fields_of_a_list_as_torch_collates_them() -> None:
    parts = split_batch([torch.arange(4).view(4, 1), torch.arange(4) + 10], 2)
    assert [type(part) for part in parts] == [list, list]
    assert [[field.flatten().tolist() for field in part] for part in parts] == [
        [[0, 1], [10, 11]],
        [[2, 3], [12, 13]],
    ]


def test_split_batch_cuts_a_dict_and_a_named_tuple() -> None:
    Fields = namedtuple("Fields", "images names")
    parts = split_batch({"x": torch.arange(4), "names": ["a", "b", "c", "d"]}, 2)
    assert [(part["x"].tolist(), part["names"]) for part in parts] == [([0, 1], ["a", "b"]), ([2, 3], ["c", "d"])]
    one, two = split_batch(Fields(torch.arange(2), ["a", "b"]), 2)
    assert type(one) is type(two) is Fields
    assert (two.images.tolist(), two.names) == ([1], ["b"])


def test_split_batch_cuts_lists_of_images_and_targets_by_sample() -> None:
    batch = detection()
    parts = split_batch((batch.images, batch.targets), 2)
    assert [(len(images), [each["name"] for each in targets]) for images, targets in parts] == [
        (1, ["a"]),
        (1, ["b"]),
    ]
    assert parts[0][1][0]["boxes"].shape == (4, 4)


def test_split_batch_of_a_batch_gives_batches() -> None:
    parts = split_batch(Batch(torch.arange(2), torch.arange(2)), 2)
    assert [type(part) for part in parts] == [Batch, Batch]
    assert [part.targets.tolist() for part in parts] == [[0], [1]]


def test_split_batch_copies_nothing() -> None:
    images = torch.zeros(8, 3)
    split_batch((images,), 2)[1][0].fill_(1)
    assert images.sum() == 12


@pytest.mark.need("B16")
@pytest.mark.parametrize("tensor", [torch.zeros(6, 2), torch.zeros(0, 2), torch.tensor(1.0)])
def test_split_batch_refuses_unequal_parts(tensor: Tensor) -> None:
    count = len(tensor) if tensor.ndim else 0
    with pytest.raises(
        ValueError,
        match=f"a batch of {count} samples cannot be cut into 4 equal micro-batches: .* must be a multiple of 4$",
    ):
        split_batch((tensor,), 4)


# Between processes.


def test_batch_pickles_as_one_buffer_a_data_type_and_comes_back_as_views_of_it() -> None:
    batch = detection()
    _, (placed, buffers) = batch.__reduce__()
    assert tensors(placed) == []
    assert {dtype: buffer.ndim for dtype, buffer in buffers.items()} == {torch.float32: 1, torch.int64: 1}
    again = pickle.loads(pickle.dumps(batch))
    assert type(again) is Batch
    assert [tensor.dtype for tensor in tensors([again.images, again.targets, again.indices])] == [
        *(torch.float32, torch.float32),
        *(torch.float32, torch.int64, torch.float32, torch.int64),
        torch.int64,
    ]
    for ours, theirs in zip(
        tensors([again.images, again.targets, again.indices]),
        tensors([batch.images, batch.targets, batch.indices]),
        strict=True,
    ):
        assert ours.shape == theirs.shape
        assert ours.equal(theirs)
    assert [target["name"] for target in again.targets] == ["a", "b"]
    floats = [tensor for tensor in tensors([again.images, again.targets]) if tensor.dtype == torch.float32]
    assert len({tensor.untyped_storage().data_ptr() for tensor in floats}) == 1
    assert all(tensor.data_ptr() % 16 == 0 for tensor in floats if tensor.numel())


def test_batch_frees_the_memory_of_its_tensors_without_a_garbage_collection() -> None:
    function, (placed, buffers) = Batch([torch.ones(3), torch.ones(2)], [{"boxes": torch.ones(1, 4)}]).__reduce__()
    memory = weakref.ref(buffers[torch.float32])
    gc.disable()
    try:
        batch = function(placed, buffers)
        assert batch.targets[0]["boxes"].sum() == 4
        del batch, buffers
        assert memory() is None
    finally:
        gc.enable()


def test_batch_pickles_transposed_and_repeated_tensors_by_their_values() -> None:
    wide = torch.arange(6.0).view(2, 3).t()
    again = pickle.loads(pickle.dumps(Batch([wide, wide], [torch.ones(1).expand(3)] * 2)))
    assert [image.tolist() for image in again.images] == [[[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]] * 2
    assert [target.tolist() for target in again.targets] == [[1.0, 1.0, 1.0]] * 2


def test_batch_pickles_named_tuples_numbers_and_none_as_they_are() -> None:
    again = pickle.loads(pickle.dumps(Batch(torch.zeros(1, 1), {"a": Named(torch.ones(1), 5), "b": [None, (1,)]})))
    assert again.targets == {"a": Named(torch.ones(1), 5), "b": [None, (1,)]}
    assert type(again.targets["a"]) is Named
    assert again.indices is None


def test_batch_sends_the_only_tensor_of_a_data_type_as_it_is() -> None:
    images = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    batch = Batch(images, torch.tensor([1, 2]))
    _, (_, buffers) = batch.__reduce__()
    assert buffers[torch.float32] is images
    assert buffers[torch.int64] is batch.targets
    again = pickle.loads(pickle.dumps(batch))
    assert again.images.is_contiguous(memory_format=torch.channels_last)
    assert again.targets.tolist() == [1, 2]


Named = namedtuple("Named", "value number")


class Detections(Dataset[Batch]):
    """Complete batches, as our loaders' workers make them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        return detection()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")
def test_batch_of_lists_from_a_worker_holds_a_descriptor_a_data_type() -> None:
    """Seven tensors of two types; torch by itself opens one file for each of them."""
    batches = iter(DataLoader(Detections(40), batch_size=None, num_workers=1, prefetch_factor=1))
    next(batches)
    before = open_files()
    held = [next(batches) for _ in range(20)]
    assert open_files() - before <= 2 * (len(held) + 2)  # and the files of two that are in flight
    assert len(tensors([held[0].images, held[0].targets, held[0].indices])) == 7
    assert all(tensor.is_shared() for batch in held for tensor in tensors([batch.images, batch.targets]))
    assert held[19].targets[0]["boxes"].equal(detection().targets[0]["boxes"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")
def test_batch_that_a_dataloader_pins_stays_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own function, which silently returns objects of unknown types as they are."""
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor, *device: tensor + 100)
    pinned = pin_memory(detection())
    assert type(pinned) is Batch
    assert pinned.images[0].unique().tolist() == [101.0]
