"""The config that will run: checked, with durations in iterations and the model's sizes filled in."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path

from warmstart.config import CfgNode, ConfigError, gathering, resolve_durations
from warmstart.data import DataSpec, check_data, choose_backend, data_spec, free_memory, gigabytes, train_info
from warmstart.modeling import check_images, check_model, parameter_bytes
from warmstart.solver import check_solver
from warmstart.tasks import Task, build_task, default_arguments

from ..distributed import comm
from ..distributed.build import check_parallel
from ..runtime.device import check_device
from ..runtime.precision import check_precision
from .init_from_data import weights_in
from .input_defaults import read_input_defaults, with_input_defaults
from .scores import best_mode, check_best, check_metrics, check_score_names
from .world_size_scaling import rounded, scale_between, scaled

SMALL_IMAGE = 32  # pixels a side; up to this size MODEL.STEM auto means small


def resolve_config(
    cfg: CfgNode, ranks: int | None = None, given: CfgNode | None = None, trains: bool = True
) -> CfgNode:
    """Return a frozen copy of `cfg` with every duration in iterations and the model's sizes filled in.

    MODEL.NUM_CLASSES, MODEL.IN_CHANNELS and MODEL.STEM follow from the training set if they are 0 or "auto";
    DATALOADER.BACKEND auto becomes the chosen loader, and a run's folder in MODEL.WEIGHTS one of its files. Keys
    of INPUT that are not set get the values that the weights expect, see `with_input_defaults`. Nothing is built
    or written. Resolving a second time changes nothing. In a distributed run every rank calls it.

    Args:
        cfg: what the user wrote, scaled by `scaled` if that is wanted.
        ranks: how many processes will run it; None: the processes of this run.
        given: what the user wrote, if `cfg` was scaled.
        trains: whether training follows; otherwise a batch need not be divisible among the ranks.

    Raises:
        ConfigError: everything that is wrong with the config, at once.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", "2ep", "SOLVER.IMS_PER_BATCH", 100])
    >>> resolved = resolve_config(cfg)
    >>> resolved.SOLVER.MAX_ITER, resolved.MODEL.NUM_CLASSES, resolved.MODEL.STEM
    (29, 10, 'small')
    """
    ranks, data = ranks or comm.world_size(), data_spec(cfg)
    problems: list[str] = []
    saved = read_input_defaults(cfg)  # not below `gathering`, because ranks wait for each other
    with gathering(problems):
        check_device(cfg)
    with gathering(problems):
        task = build_task(cfg, data)
        cfg = with_input_defaults(cfg, data, task, saved)
        data = data_spec(cfg)
        check_data(cfg, data, task, ranks)
    if problems:
        raise ConfigError(problems)
    epoch = Fraction(data.train.size, cfg.SOLVER.IMS_PER_BATCH)
    resolved = _filled(cfg, data, task, epoch)
    checks: tuple[Callable[[], None], ...] = (
        lambda: _check_channels(resolved, data.input_shape[0]),
        lambda: _check_output(resolved, data),
        lambda: check_model(resolved, task),
        lambda: check_solver(resolved, epoch),
        lambda: check_metrics(resolved, task),
        lambda: check_score_names(resolved),
        lambda: check_best(resolved, task),
        *([lambda: check_accumulation(resolved, ranks, given)] if trains else []),
        lambda: check_parallel(resolved, ranks),
        lambda: check_precision(resolved),
    )
    for check in checks:
        with gathering(problems):
            check()
    if problems:
        raise ConfigError(problems)
    _check_memory(resolved, task, trains)
    _try_model(resolved, task, data, ranks, trains)
    resolved.TEST.BEST["MODE"] = best_mode(resolved, task)
    resolved.freeze()
    return resolved


def resolve_scaled(given: CfgNode, scale: int, ranks: int | None = None, trains: bool = True) -> CfgNode:
    """Return `given` scaled to `scale` processes, as `scaled` does, and then resolved.

    Args:
        given: the config as the user wrote it.
        scale: how many processes the batch, learning rates and lengths are for.
        ranks: how many processes will run it; None: the processes of this run.
        trains: whether training follows, as for `resolve_config`.

    Raises:
        ConfigError: what `scaled` and `resolve_config` raise.
    """
    return resolve_config(scaled(given, scale), ranks, given, trains)


def iters_per_epoch(cfg: CfgNode) -> Fraction:
    """Return the number of updates in a pass over the training set, which need not be an integer.

    >>> from warmstart.config import get_cfg
    >>> iters_per_epoch(get_cfg())
    Fraction(1437, 16)
    """
    return Fraction(train_info(cfg).size, cfg.SOLVER.IMS_PER_BATCH)


def check_accumulation(cfg: CfgNode, ranks: int = 1, given: CfgNode | None = None) -> None:
    """Raise ConfigError if a batch cannot be divided into equal micro-batches on each rank.

    Args:
        cfg: the config that will run.
        ranks: of the run.
        given: the config before it was scaled; None: it was not scaled.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 100, "SOLVER.GRAD_ACCUM_STEPS", 8])
    >>> check_accumulation(cfg)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: SOLVER.GRAD_ACCUM_STEPS (override): 100 images an update cannot be cut \
into 8 equal micro-batches; set SOLVER.GRAD_ACCUM_STEPS to 5 or 10, or SOLVER.IMS_PER_BATCH to 96 or 104
    """
    images, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.GRAD_ACCUM_STEPS
    parts = steps * ranks
    if images % parts == 0:
        return
    written, factor, text, of_update = images, Fraction(1), f"{images} images", " an update"
    if given is not None and (factor := scale_between(given, cfg)) != 1:
        written = given.SOLVER.IMS_PER_BATCH
        before, after = given.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.REFERENCE_WORLD_SIZE
        text = f"{written} images for {before} processes (SOLVER.REFERENCE_WORLD_SIZE)"
        text, of_update = f"{text} are {images} for {after}, which", ""
    nearest_images = " or ".join(map(str, _nearest_batches(written, factor, parts)))
    if ranks > 1:
        each = f", in {steps} micro-batches each" if steps > 1 else ""
        raise ConfigError(
            f"{cfg.label('SOLVER.IMS_PER_BATCH')}: {text} cannot be shared evenly by {ranks} "
            f"processes{each}; set it to {nearest_images}"
        )
    small = [number for number in range(1, math.isqrt(images) + 1) if images % number == 0]
    divisors = sorted({*small, *(images // number for number in small)})
    nearest_steps = [*[n for n in divisors if n < steps][-1:], *[n for n in divisors if n > steps][:1]]
    raise ConfigError(
        f"{cfg.label('SOLVER.GRAD_ACCUM_STEPS')}: {text}{of_update} cannot be cut into {steps} equal "
        f"micro-batches; set SOLVER.GRAD_ACCUM_STEPS to {' or '.join(map(str, nearest_steps))}, or "
        f"SOLVER.IMS_PER_BATCH to {nearest_images}"
    )


def _nearest_batches(written: int, factor: Fraction, parts: int) -> Iterator[int]:
    """Yield the next smaller batch, if any, and the next larger one that divides into `parts` once scaled."""
    below = rounded(written * factor) // parts * parts
    half = Fraction(1, 2)
    for multiples, larger in ((range(below, 0, -parts), False), (count(below + parts, parts), True)):
        for multiple in multiples:
            # The batches that scaling rounds, half up, to the multiple; for a factor above 1 there may be none.
            smallest, largest = math.ceil((multiple - half) / factor), math.ceil((multiple + half) / factor) - 1
            if smallest <= largest:
                yield smallest if larger else largest
                break


def _check_channels(cfg: CfgNode, channels: int) -> None:
    if channels != cfg.MODEL.IN_CHANNELS:
        raise ConfigError(
            f"{cfg.label('MODEL.IN_CHANNELS')}: the training images have {channels} channels, not "
            f"{cfg.MODEL.IN_CHANNELS}; use 0 to follow the data set"
        )


def _check_output(cfg: CfgNode, data: DataSpec) -> None:
    """Raise ConfigError if OUTPUT_DIR is the folder of a data set or below it, where its files would be data.

    Or if it begins with "~", which a shell replaces, but not in a file.
    """
    if cfg.OUTPUT_DIR.partition("/")[0] == "~":
        home = os.path.expanduser(cfg.OUTPUT_DIR)
        raise ConfigError(f"{cfg.label('OUTPUT_DIR')}: ~ is not replaced here; write {home}")
    output = Path(cfg.OUTPUT_DIR).resolve()
    for entry in [*data.training_sets, *data.test_sets.values()]:
        folder = Path(entry.path or "").expanduser().resolve()
        if entry.path is not None and folder.is_dir() and (folder == output or folder in output.parents):
            raise ConfigError(
                f"{cfg.label('OUTPUT_DIR')}: {cfg.OUTPUT_DIR} is in the folder of {entry}, whose sub-folders are"
                " data; name another folder"
            )


def _filled(cfg: CfgNode, data: DataSpec, task: Task, epoch: Fraction) -> CfgNode:
    """Return a copy of the config with everything filled in that follows from the data set and other keys.

    Item access keeps the recorded source of each value.
    """
    cfg = resolve_durations(cfg, epoch)
    cfg.defrost()
    cfg.DATALOADER["BACKEND"] = choose_backend(cfg, data, task)
    model = cfg.MODEL
    channels, *sides = data.input_shape
    model["WEIGHTS"] = weights_in(model.WEIGHTS)
    model["NUM_CLASSES"] = model.NUM_CLASSES or task.num_outputs or data.train.num_classes
    model["IN_CHANNELS"] = model.IN_CHANNELS or channels
    given = model.TASK_ARGS.to_dict()
    model.TASK_ARGS.update(default_arguments(model.TASK) | given | dict(task.resolved_args))
    if model.STEM == "auto" and "MODEL.STEM" in task.reads:
        model["STEM"] = "small" if max(sides) <= SMALL_IMAGE else "standard"
    return cfg


def _check_memory(cfg: CfgNode, task: Task, trains: bool) -> None:
    """Raise ConfigError if the model's weights, and their gradients in training, do not fit into memory."""
    needed, free = parameter_bytes(cfg, task) * (2 if trains else 1), free_memory()
    if needed > free:
        raise ConfigError(
            f"{cfg.label('MODEL.NAME')}: {cfg.MODEL.NAME} with {cfg.MODEL.NUM_CLASSES:,} outputs needs"
            f" {gigabytes(needed)} of memory for its weights{' and their gradients' if trains else ''}, and"
            f" {gigabytes(free)} are free; take a smaller one, see MODEL.ARGS and MODEL.NUM_CLASSES"
        )


def _try_model(cfg: CfgNode, task: Task, data: DataSpec, ranks: int, trains: bool) -> None:
    """Raise ConfigError if the model fails on images of the sizes that the transforms produce."""
    trained_on = data.known_shape("TRAIN", data.train) if trains else None
    if trained_on:
        images = cfg.SOLVER.IMS_PER_BATCH // (ranks * cfg.SOLVER.GRAD_ACCUM_STEPS)
        check_images(cfg, trained_on, "INPUT.TRANSFORMS_TRAIN", min(images, 2), True, task)
    for info in data.tests.values():
        tested_on = data.known_shape("TEST", info)
        if tested_on and tested_on != trained_on:
            images = min(cfg.TEST.IMS_PER_BATCH, 2)
            check_images(cfg, tested_on, "INPUT.TRANSFORMS_TEST", images, task=task)
