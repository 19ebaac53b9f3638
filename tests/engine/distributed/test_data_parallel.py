"""Data parallel training: results equal to one process, and no needless communication."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import profile, record_function

from warmstart.config import CfgNode, get_cfg
from warmstart.data import Batch
from warmstart.engine import (
    HookBase,
    Trainer,
    build_process_group,
    build_test_loaders,
    build_trainer,
    evaluate_all,
    load_checkpoint,
    rank,
    register_hook,
    world_size,
)
from warmstart.engine.distributed import comm
from warmstart.engine.distributed.build import build_strategy
from warmstart.engine.distributed.ddp import DDP
from warmstart.engine.loop import stopping as stops
from warmstart.engine.run import resolve
from warmstart.engine.run.default_hooks import _HOOKS
from warmstart.modeling import build_model, catalog, register_model
from warmstart.modeling.small_cnn import SmallCNN
from warmstart.tasks import build_task
from warmstart.tasks.class_losses import ClassLoss
from warmstart.tools import train_net

from ..dying import assert_same_bits
from ..ranks import Ended, Ranks, trained

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="forks this process, which may have used the GPU"
)

Tiny = Callable[..., CfgNode]
# No statistics of batches, no dropout.
EXACT = "MODEL.ARGS={norm: group, width: 4, dropout: 0}"


class Double(SmallCNN):
    """Computes in float64, so that rounding errors are far below any other difference between two runs."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels, norm="group", width=4)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.double())


class Wide(nn.Module):
    """Has 795,803 parameters, whose 3 MB of gradients torch puts into two buckets, the first of at least 1 MiB."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_channels * 64, 3000)
        self.second = nn.Linear(3000, 200)
        self.head = nn.Linear(200, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.second(self.first(images.flatten(1)).relu()).relu()
        logits: Tensor = self.head(hidden)
        return logits


class Idle(nn.Module):
    """Has a layer that no loss depends on."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.idle = nn.Linear(5, 5)
        self.head = nn.Linear(in_channels * 64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))
    for model in (Double, Wide, Idle):
        register_model(model.__name__.lower(), model)
    yield
    _HOOKS.pop("own", None)


@pytest.fixture
def numbered(tmp_path: Path) -> Callable[[int], str]:
    """Makes a data set of noise, in which the brightest pixel of an image encodes its index."""

    def make(size: int) -> str:
        rng = np.random.default_rng(size)
        images = rng.integers(0, 5, (size, 8, 8)) + 5 * np.arange(size)[:, None, None]
        images[:, 3:5, 3:5] = 5 * np.arange(size)[:, None, None] + 4  # in the middle: no crop of 8 loses it
        path = tmp_path / f"numbered{size}.npz"
        np.savez(path, images=images.astype(np.uint8), labels=np.arange(size) % 3)
        return f"npz:{path}"

    return make


# So that pixels arrive as they are, over 255.
PLAIN = ("INPUT.MEAN=[0.0]", "INPUT.STD=[1.0]")


def numbers_of(images: Tensor) -> list[int]:
    return [round(255 * image.max().item()) // 5 for image in images]


class Seen(HookBase):
    """Keeps the images and the learning rate of each update; each rank writes its own to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: list[list[int]] = []
        self.rates: list[float] = []

    def before_train(self, trainer: Trainer) -> None:
        self.images, self.rates, inner = [], [], trainer.update.compute_losses

        def losses(batch: Batch) -> Any:
            self.images.append(numbers_of(batch.images))
            return inner(batch)

        trainer.update.compute_losses = losses

    def after_step(self, trainer: Trainer) -> None:
        self.rates.append(float(trainer.rates[0]))

    def after_train(self, trainer: Trainer) -> None:
        self.folder.mkdir(exist_ok=True)
        torch.save((self.images, self.rates), self.file(world_size(), rank()))

    def file(self, ranks: int, number: int) -> Path:
        return self.folder / f"seen{ranks}.{number}"

    def of(self, ranks: int) -> tuple[list[list[int]], list[list[float]]]:
        """Return the images of each update, in the order of the ranks, and each rank's learning rates."""
        seen = [torch.load(self.file(ranks, number)) for number in range(ranks)]
        images = [list(chain(*each)) for each in zip(*(images for images, _ in seen), strict=True)]
        return images, [rates for _, rates in seen]


def cfg_of(words: Sequence[str]) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(list(words))
    return cfg


def codes(ended: list[Ended]) -> list[int]:
    return [each.code for each in ended]


def greatest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert list(a) == list(b)
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.need("B15", "E7")
@pytest.mark.parametrize("ranks", [2, 4])
def test_updates_of_several_ranks_equal_those_of_one_process_with_the_full_batch(
    tiny_words: list[str], tmp_path: Path, ranks: int
) -> None:
    """Starting from equal weights, in float32, to 1e-6; over several updates rounding errors accumulate."""
    words = [*tiny_words, EXACT, "SOLVER.CHECKPOINT_PERIOD=1", "SOLVER.MAX_ITER=12", "SOLVER.WARMUP_ITERS=0"]
    assert codes(trained(tmp_path, ranks, words)) == [0] * ranks
    for done in (0, 1, 4, 8, 9, 11):
        trainer = build_trainer(cfg_of(words))
        if done:
            trainer.load_state_dict(load_checkpoint(tmp_path / "out" / f"model_{done - 1:07d}.pth"))
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.run_step(trainer.data_loader.batches(done))  # type: ignore[attr-defined]
        after = load_checkpoint(tmp_path / "out" / f"model_{done:07d}.pth")["model"]
        assert greatest_difference(after, before) > 1e-4
        assert greatest_difference(after, dict(trainer.model.state_dict())) < 1e-6


@pytest.mark.need("B15", "E7")
@pytest.mark.parametrize("ranks", [2, 4])
def test_run_of_several_ranks_has_samples_learning_rates_and_float64_weights_of_one_process(
    tiny_words: list[str],
    numbered: Callable[[int], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
) -> None:
    # Ours computes losses in float32 for any model.
    monkeypatch.setattr(ClassLoss, "__call__", lambda loss, logits, targets: F.cross_entropy(logits, targets))
    seen = Seen(tmp_path / "seen")
    register_hook("own", lambda cfg: seen)
    words = [word for word in tiny_words if not word.startswith(("MODEL.ARGS", "DATASETS"))]
    words += [f"DATASETS.TRAIN={numbered(48)}", f"DATASETS.TEST={numbered(48)}", *PLAIN]
    words += ["MODEL.NAME=double", "SOLVER.MAX_ITER=30", "SOLVER.STEPS=20"]
    assert train_net.main([*words, f"OUTPUT_DIR={tmp_path}/one"]) == 0
    assert codes(trained(tmp_path, ranks, words)) == [0] * ranks
    (images, (rates,)), (their_images, their_rates) = seen.of(1), seen.of(ranks)
    assert [len(each) for each in images] == [8] * 30
    assert sorted(chain(*images[:6])) == list(range(48))
    assert their_images == images
    assert [rates[number] for number in (3, 19, 20, 29)] == pytest.approx([0.0375125, 0.05, 0.005, 0.005])
    assert their_rates == [rates] * ranks
    a, b = (load_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in ("one", "out"))
    assert {tensor.dtype for tensor in a.values()} == {torch.float64}
    assert greatest_difference(b, a) < 1e-9
    theirs, ours = (
        [json.loads(line) for line in (tmp_path / name / "metrics.json").read_text().splitlines()]
        for name in ("one", "out")
    )
    assert [r["lr"] for r in ours] == [r["lr"] for r in theirs]
    for name in ("total_loss", "train/error"):
        assert [r[name] for r in ours] == pytest.approx([r[name] for r in theirs], rel=1e-9)


def sent_by(traced: profile) -> list[tuple[str, str, int]]:
    """Return the collective operations in order: the mark before it, its name, and how many numbers it sends.

    Marks are ranges whose names begin with "update". Gathering an object sends its length and its bytes.
    """
    mark, found = "", []
    for event in sorted(traced.events(), key=lambda event: event.time_range.start):  # type: ignore[no-untyped-call]
        if event.name.startswith("update"):
            mark = event.name
        elif event.name.startswith("gloo:"):
            found.append((mark, event.name.removeprefix("gloo:"), int(np.prod(event.input_shapes[0]))))
    return found


class Marks(HookBase):
    """Marks the start of each update in a trace."""

    def before_step(self, trainer: Trainer) -> None:
        with record_function(f"update {trainer.iteration + 1}"):
            pass


class Storages(HookBase):
    """Counts the storages of the gradients of each update, and their bytes."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int]] = []

    def after_backward(self, trainer: Trainer) -> None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        storages = {g.untyped_storage().data_ptr(): g.untyped_storage().nbytes() for g in gradients}
        self.found.append((len(storages), sum(storages.values())))


@pytest.mark.need("B17")
def test_ddp_sends_each_bucket_once_per_update_and_gradients_are_views_into_it(tiny: Tiny, tmp_path: Path) -> None:
    """With three micro-batches per update. Until torch knows the order of the gradients there is one bucket."""
    cfg = tiny("MODEL.ARGS", {}, "MODEL.NAME", "wide", "SOLVER.GRAD_ACCUM_STEPS", 3, "SOLVER.IMS_PER_BATCH", 12)

    def train() -> Any:
        with build_process_group(cfg):
            trainer, storages = build_trainer(cfg), Storages()
            trainer.max_iter = 5
            trainer.hooks += [Marks(), storages]
            with profile(record_shapes=True) as traced:
                trainer.train()
            return sent_by(traced), storages.found, trainer.model.state_dict()

    one, other = (each.result for each in Ranks(tmp_path, 2, train).end())
    for sent, storages, _ in (one, other):
        buckets = Counter((mark, size) for mark, name, size in sent if name == "all_reduce" and size > 3)
        assert buckets == {("update 1", 795803): 1} | {
            (f"update {number}", size): 1 for number in (2, 3, 4, 5) for size in (600803, 195000)
        }
        assert storages == [(1, 4 * 795803)] + [(2, 4 * 795803)] * 4
    assert_same_bits(dict(one[2]), dict(other[2]))


@pytest.mark.need("E6")
def test_trainer_sends_losses_once_per_record_and_otherwise_only_gradients(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks agree on stopping after the update that follows each record; otherwise that depends on the clock."""
    monkeypatch.setattr(stops, "_APART", 1e9)
    cfg = tiny("SOLVER.MAX_ITER", 23, "SOLVER.STEPS", 15, "LOG_PERIOD", 10)

    def train() -> Any:
        with build_process_group(cfg):
            trainer = build_trainer(cfg)
            trainer.hooks.append(Marks())
            with profile(record_shapes=True) as traced:
                trainer.train()
            return sum(p.numel() for p in trainer.model.parameters()), sent_by(traced)

    for each in Ranks(tmp_path, 2, train).end():
        parameters, sent = each.result
        ours: dict[str, list[str]] = {f"update {number}": [] for number in range(1, 24)}
        gradients = Counter[str]()
        for mark, name, size in sent:
            if (name, size) == ("all_reduce", parameters):
                gradients[mark] += 1
            elif mark:
                ours[mark].append(name)
        assert gradients == dict.fromkeys(ours, 1)
        assert ours.pop("update 23")[:2] == ["all_gather", "all_gather"]  # then scores, and the checkpoint
        once = {
            # How long it took; the schedule is plotted; whether rank 0 wants a record, and a checkpoint.
            "update 1": ["all_reduce", "all_gather", "all_gather", "all_reduce", "all_reduce"],
            "update 2": ["broadcast", "broadcast", "all_reduce"],  # of torch, on its buckets; a stop
        }
        # With each record all ranks ask whether rank 0 wants a checkpoint.
        losses = {f"update {number}": ["all_gather", "all_gather", "all_reduce"] for number in (10, 20)}
        stop = {f"update {number}": ["all_reduce"] for number in (11, 21)}
        assert {mark: names for mark, names in ours.items() if names} == once | losses | stop


def test_static_graph_allows_a_parameter_without_gradient(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny("MODEL.ARGS", {}, "MODEL.NAME", "idle", "DISTRIBUTED.STATIC_GRAPH", True)

    def train() -> Any:
        with build_process_group(cfg):
            trainer = build_trainer(cfg)
            before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
            trainer.train()
            return before, dict(trainer.model.state_dict())

    (before, one), (_, other) = (each.result for each in Ranks(tmp_path, 2, train).end())
    assert_same_bits(one, other)
    assert torch.equal(one["idle.weight"], before["idle.weight"])
    assert (one["head.weight"] - before["head.weight"]).abs().max() > 1e-3


def kinds(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if type(module) is kind]


def test_sync_bn_converts_each_batchnorm_if_the_key_is_set(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = resolve.resolve_config(tiny())
    asked = resolve.resolve_config(tiny("MODEL.SYNC_BN", True))
    model = build_model(asked)
    names, layers = list(model.state_dict()), kinds(model, nn.BatchNorm2d)
    assert len(layers) == 3
    cpu = torch.device("cpu")
    assert build_strategy(asked).place(model, cpu) is model  # one process
    assert kinds(model, nn.BatchNorm2d) == layers
    monkeypatch.setattr(comm, "world_size", lambda: 2)
    assert kinds(build_strategy(cfg).place(model, cpu), nn.SyncBatchNorm) == []
    converted = build_strategy(asked).place(model, cpu)
    assert kinds(converted, nn.SyncBatchNorm) == layers
    assert kinds(converted, nn.BatchNorm2d) == []
    assert list(converted.state_dict()) == names


def test_build_trainer_converts_model_and_average_for_sync_bn(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch has no SyncBatchNorm on a CPU, and the key is refused there; here the model is only built."""
    monkeypatch.setattr(resolve, "check_parallel", lambda cfg, ranks: None)
    monkeypatch.setattr(DDP, "forward", lambda strategy, model: model)
    cfg = tiny("MODEL.SYNC_BN", True, "SOLVER.EMA.ENABLED", True)

    def build() -> Any:
        with build_process_group(cfg):
            trainer = build_trainer(cfg)
            assert trainer.ema is not None
            models = (trainer.model, trainer.ema.model)
            return [len(kinds(model, kind)) for model in models for kind in (nn.SyncBatchNorm, nn.BatchNorm2d)]

    assert [each.result for each in Ranks(tmp_path, 2, build).end()] == [[3, 0, 3, 0]] * 2


def test_bf16_gradients_use_torchs_hook_and_ranks_stay_equal(tiny: Tiny, tmp_path: Path) -> None:
    def train() -> Any:
        found = []
        with build_process_group(tiny()):
            for gradients in ("float32", "bf16"):
                trainer: Any = build_trainer(tiny("DISTRIBUTED.GRADIENTS", gradients))
                trainer.hooks = []
                trainer.train()
                parallel: Any = trainer.update.compute_losses.forward.module
                hook = parallel._get_ddp_logging_data().get("comm_hook")
                found.append((hook, {name: p.detach() for name, p in trainer.model.named_parameters()}))
        return found

    one, other = (each.result for each in Ranks(tmp_path, 2, train).end())
    assert [hook for hook, _ in one] == [None, "bf16_compress_hook"]
    assert [hook for hook, _ in other] == [None, "bf16_compress_hook"]
    for (_, a), (_, b) in zip(one, other, strict=True):
        assert_same_bits(a, b)
    assert greatest_difference(one[0][1], one[1][1]) > 1e-6


@pytest.mark.need("G3")
def test_evaluation_counts_each_sample_once_for_any_remainder(
    tiny_words: list[str], numbered: Callable[[int], str], tmp_path: Path
) -> None:
    """3 samples on 4 ranks, of which one or three get no sample, and 37 samples on 2, 3 and 4 ranks."""
    few, many = numbered(3), numbered(37)
    given = [*tiny_words, *PLAIN, "SOLVER.IMS_PER_BATCH=12", f"DATASETS.TEST=[{few}, {many}]"]
    cfgs = [
        cfg_of([*given, f"TEST.IMS_PER_BATCH={size}", *words])
        for size, words in [(1, ["DATALOADER.BACKEND=resident"]), (5, []), (5, ["DATALOADER.BACKEND=resident"])]
    ]

    def score(cfg: CfgNode) -> tuple[dict[str, list[int]], dict[str, float]]:
        cfg = resolve.resolve_config(cfg)
        torch.manual_seed(3)
        model, task = build_model(cfg).eval(), build_task(cfg)
        loaders = build_test_loaders(cfg, task)
        seen = {name: [n for images, _ in loader for n in numbers_of(images)] for name, loader in loaders.items()}
        return seen, evaluate_all(model, task, loaders)

    def scores() -> Any:
        with build_process_group(cfgs[0]):
            return [score(cfg) for cfg in cfgs]

    alone = [score(cfg) for cfg in cfgs]
    assert [seen for seen, _ in alone] == [{"numbered3.npz": [0, 1, 2], "numbered37.npz": list(range(37))}] * 3
    shares = []
    for ranks in (2, 3, 4):
        found = [each.result for each in Ranks(tmp_path / str(ranks), ranks, scores).end()]
        for number, (seen, expected) in enumerate(alone):
            shards = [each[number][0] for each in found]
            for name in seen:
                assert sorted(chain(*(shard[name] for shard in shards))) == seen[name]
            shares.append([len(shard["numbered3.npz"]) for shard in shards])
            for _, scored in (each[number] for each in found):
                assert list(scored) == list(expected)
                for name, value in expected.items():
                    assert scored[name] == (pytest.approx(value, rel=1e-6) if name.endswith("loss") else value)
    assert shares[-3:] == [[1, 1, 1, 0], [3, 0, 0, 0], [3, 0, 0, 0]]
