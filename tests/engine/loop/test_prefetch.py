"""Prefetching of batches: the same batches, in order, with errors and the end in their places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from warmstart.engine import Trainer
from warmstart.engine.loop.prefetch import prefetched

CPU = torch.device("cpu")


class Source(Iterator[Any]):
    """Yields (tensor, dict with text) for 0, 1, ...; raises `error` in place of batch `last`."""

    def __init__(self, last: int = 10**9, error: Exception | None = None) -> None:
        self.last, self.error = last, error or StopIteration()
        self.given = self.closed = 0

    def __next__(self) -> Any:
        if self.given == self.last:
            raise self.error
        self.given += 1
        number = self.given - 1
        return torch.tensor([number]), {"day": "Monday", "parts": [torch.tensor(number)]}

    def close(self) -> None:
        self.closed += 1


def test_prefetch_yields_batches_in_order_with_one_loaded_ahead() -> None:
    source = Source()
    batches = prefetched(source, CPU)
    assert source.given == 0
    for number in range(5):
        assert next(batches) == (torch.tensor([number]), {"day": "Monday", "parts": [torch.tensor(number)]})
        assert source.given == number + 2


@pytest.mark.parametrize("last", [0, 1, 3])
def test_prefetch_raises_an_error_in_place_of_its_batch(last: int) -> None:
    source = Source(last, ValueError("damaged"))
    batches = prefetched(source, CPU)
    assert [int(next(batches)[0]) for _ in range(last)] == list(range(last))
    assert source.closed == 0
    with pytest.raises(ValueError, match="^damaged$"):
        next(batches)
    assert source.closed == 1


@pytest.mark.parametrize("last", [0, 1, 3])
def test_prefetch_ends_after_the_last_batch(last: int) -> None:
    source = Source(last)
    assert [int(images) for images, _ in prefetched(source, CPU)] == list(range(last))
    assert source.closed == 1


def test_prefetch_ignores_the_error_of_a_batch_that_is_not_requested() -> None:
    source = Source(3, ValueError("damaged"))
    batches = prefetched(source, CPU)
    assert [int(images) for images, _ in itertools.islice(batches, 3)] == [0, 1, 2]
    batches.close()
    assert source.closed == 1


@pytest.mark.parametrize(
    ("device", "accum_steps", "ahead"), [("cuda:1", 1, True), ("cuda", 2, False), ("cpu", 1, False)]
)
def test_trainer_prefetches_on_cuda_only(
    monkeypatch: pytest.MonkeyPatch, device: str, accum_steps: int, ahead: bool
) -> None:
    taken = []
    monkeypatch.setattr("warmstart.engine.loop.prefetch.prefetched", lambda batches, device: taken.append(device))
    monkeypatch.setattr(Trainer, "run_step", lambda trainer, *arguments: trainer.request_stop("enough"))
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    trainer = Trainer(model, optimizer, scheduler, [()], max_iter=1, device=device, accum_steps=accum_steps)
    trainer.train()
    assert taken == ([torch.device(device)] if ahead else [])


@pytest.mark.gpu
def test_prefetch_on_the_device_yields_the_batches_of_the_loader() -> None:
    """Each batch is read by kernels that are still queued when the next ones are copied and it is let go."""
    size = 4_000_000
    pinned = ((torch.full((size,), float(number)).pin_memory(), "text") for number in range(40))
    device = torch.device("cuda")
    busy, sums = torch.rand(2048, 2048, device=device), []
    for images, text in prefetched(pinned, device):
        assert (images.device.type, text) == ("cuda", "text")
        busy = (busy @ busy).clamp_(0, 1)
        sums.append(images.double().sum())
        del images
    assert [float(each) for each in sums] == [float(number) * size for number in range(40)]
