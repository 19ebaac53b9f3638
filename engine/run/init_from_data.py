"""First weights: from MODEL.WEIGHTS, or from the training images for models that ask for it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from torch import nn

from warmstart.config import CfgNode
from warmstart.data import TrainLoader, build_train_loader, to_device
from warmstart.modeling import InitsFromImages, WeightsFile, build_model, read_weights_file
from warmstart.tasks import Task

from ..checkpoint import sharded as shards
from ..checkpoint.run_files import BEST, FINAL, NUMBERED, checkpoint_number
from ..distributed import comm
from ..distributed.fsdp import is_sharded, without_weights
from ..runtime.rng import preserved_rng
from .scores import is_best_average


def weights_in(name: str) -> str:
    """Return the file that MODEL.WEIGHTS means: of a run's folder its best, else its final, else its newest.

    What is no folder, or holds no checkpoint, is returned as it is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for file in ("model_0000009.pth", "model_0000099.pth"):
    ...         Path(folder, file).touch()
    ...     print(Path(weights_in(folder)).name)
    model_0000099.pth
    """
    folder = Path(name)
    if not name or not folder.is_dir():
        return name
    numbered = [path for path in folder.glob("model_*.pth") if NUMBERED.fullmatch(path.name)]
    newest = sorted(numbered, key=lambda path: checkpoint_number(path.name))[-1:]
    found = (path for path in (folder / BEST, folder / FINAL, *newest) if path.is_file())
    return str(next(found, name))


def read_weights(cfg: CfgNode, trust: bool = False) -> WeightsFile | None:
    """Return what MODEL.WEIGHTS names, on the ranks that need it; sharded weights are read together.

    Args:
        cfg: resolved.
        trust: whether code in the file may run, as --trust-checkpoint says.

    Raises:
        ConfigError: the file is not there, damaged, or holds more than tensors and plain values.
    """
    if is_sharded(cfg.MODEL.PARALLEL) and not comm.is_main():
        return None
    found = read_weights_file(cfg, trust)
    if found is None:
        return None
    path, content, entry = found
    if isinstance(content, dict) and isinstance(content.get(shards.KEY), dict):
        folder = shards.verify(content, path)
        content = content if folder is None else shards.fill(content, folder)
    if entry == "auto" and is_best_average(path, content):
        entry = "ema"
    return WeightsFile(path, content, entry)


def build_for_ranks(
    cfg: CfgNode, trust: bool = False, weights: bool | WeightsFile = True, extra_outputs: int = 0
) -> nn.Module:
    """Return what `build_model` does; where it will be cut, only rank 0 has weights, and only if `weights`.

    Args:
        cfg: resolved.
        trust: whether code in the file that MODEL.WEIGHTS names may run.
        weights: whether MODEL.WEIGHTS is read; or what `read_weights` has returned.
        extra_outputs: of the task.
    """
    if not is_sharded(cfg.MODEL.PARALLEL) or (weights and comm.is_main()):
        found = read_weights(cfg, trust) if weights is True else weights
        return build_model(cfg, trust, found or False, extra_outputs)
    try:
        with without_weights():
            return build_model(cfg, weights=False, extra_outputs=extra_outputs)
    except Exception:  # its builder computes with weights, or is wrong in any case
        return build_model(cfg, weights=False, extra_outputs=extra_outputs)


def init_from_data(cfg: CfgNode, task: Task, model: nn.Module, loader: TrainLoader) -> None:
    """Let a model set weights by the images it will be trained on, as `InitsFromImages` says.

    Nothing is done where the model has no such method, or where MODEL.WEIGHTS gives the weights. A resumed run
    does not come here: its checkpoint holds all weights. Random number generators are as before, and so the first
    weights follow from the config alone.

    Args:
        cfg: resolved.
        task: makes samples and batches.
        model: on its device.
        loader: training's; a stream of its own is taken from it.
    """
    if cfg.MODEL.WEIGHTS or not isinstance(model, InitsFromImages):
        return
    device = next(model.parameters()).device
    if comm.world_size() > 1:  # whole batches: weights do not depend on the number of ranks
        loader = build_train_loader(cfg, task)
    with preserved_rng(device), closing(loader.batches()) as batches:
        model.init_from_images(to_device(batch.images, device) for batch in batches)
