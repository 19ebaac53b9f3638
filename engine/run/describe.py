"""The log of a run: its description at the start, and its scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn

from warmstart.config import CfgNode, printable
from warmstart.data import TrainLoader, data_spec, describe_loader, describe_training_set
from warmstart.modeling import freezing_of
from warmstart.solver import describe_groups, describe_plan
from warmstart.tasks import Task

from ..distributed import comm
from ..loop.trainer import Trainer
from ..records.console import score_lines
from ..runtime.device import device_name
from .input_defaults import describe_input_defaults
from .prepare_torch import describe_profile
from .scores import hidden_scores, percent_scores

logger = logging.getLogger(__name__)
_MOST_NAMES = 10  # of classes in the line about the data


def log_scores(scores: dict[str, float], task: Task) -> None:
    """Log one line a test set."""
    for name, line in score_lines(scores, percent_scores(task), hidden_scores(task)).items():
        logger.info("%s: %s", name, line)


def describe_frozen(cfg: CfgNode, model: nn.Module) -> str:
    """Return how many values of a model with MODEL.FREEZE train, and how many more from which iteration on.

    >>> from warmstart.config import get_cfg
    >>> from warmstart.modeling import build_model
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.FREEZE", [{"MATCH": "^block3", "UNTIL": 50}, "^block"]])
    >>> cfg.merge_from_list(["MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 1])
    >>> describe_frozen(cfg, build_model(cfg))
    '650 of 24,058 values train (MODEL.FREEZE); 18,560 more from iteration 50 on'
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    freezing = freezing_of(model)
    until = {} if freezing is None else freezing.until
    first = sum(size for name, size in sizes.items() if name not in until)
    parts = [f"{first:,} of {sum(sizes.values()):,} values train (MODEL.FREEZE)"]
    for iteration in sorted({each for each in until.values() if each is not None}):
        more = sum(size for name, size in sizes.items() if until.get(name) == iteration)
        never = "" if iteration < cfg.SOLVER.MAX_ITER else ", which the run does not reach"
        parts.append(f"{more:,} more from iteration {iteration} on{never}")
    return "; ".join(parts)


def output_names(cfg: CfgNode) -> list[str]:
    """Return the class names of the training set in the order of the model's outputs.

    [] if it has none, or if the outputs are not its classes, as if one number is learned from them.

    Args:
        cfg: resolved.

    >>> from warmstart.config import get_cfg
    >>> from .resolve import resolve_config
    >>> output_names(resolve_config(get_cfg()))
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
    """
    names = data_spec(cfg).train.classes
    return [*names] if len(names) <= cfg.MODEL.NUM_CLASSES else []


def log_run(cfg: CfgNode, trainer: Trainer) -> None:
    """Log a description of a run: machine, data, model, schedule, parameter groups."""
    data = data_spec(cfg)
    samples = data.train.size
    parameters = sum(p.numel() for p in trainer.model.parameters())
    device, threads = trainer.device, torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    machine = cpu if device.type == "cpu" else device_name(device)
    logger.info("torch %s on %s; output in %s", torch.__version__, machine, cfg.OUTPUT_DIR)
    logger.info("%s", describe_profile(cfg, device))
    if samples < cfg.SOLVER.IMS_PER_BATCH and comm.is_main():
        text = "%s: a batch of %s images holds each of the %s training images about %s times; set it to %s or less"
        images, times = cfg.SOLVER.IMS_PER_BATCH, f"{cfg.SOLVER.IMS_PER_BATCH / samples:.3g}"
        logger.warning(text, cfg.label("SOLVER.IMS_PER_BATCH"), f"{images:,}", f"{samples:,}", times, samples)
    names = output_names(cfg)
    logger.info(
        "data: %s, %s images of %dx%dx%d, %d %s%s",
        " + ".join(map(str, data.training_sets)),
        f"{samples:,}",
        *data.input_shape,
        cfg.MODEL.NUM_CLASSES,
        "classes" if data.train.num_classes else "output" if cfg.MODEL.NUM_CLASSES == 1 else "outputs",
        f" ({_listed(names)})" if names else "",
    )
    if isinstance(trainer.data_loader, TrainLoader):
        line, problems = describe_training_set(cfg, data, trainer.data_loader.dataset)
        if line:
            logger.info("training set: %s", line)
        for problem in problems if comm.is_main() else ():
            logger.warning("%s", problem)
    if cfg.DATASETS.TEST:
        logger.info("test sets: %s", ", ".join(map(str, data.test_sets.values())))
    if line := describe_input_defaults(cfg):
        logger.info("%s", line)
    assert trainer.task is not None
    logger.info("loader: %s", describe_loader(cfg, data, trainer.task))
    logger.info("model: %s, %s parameters", cfg.MODEL.NAME, f"{parameters:,}")
    if cfg.MODEL.FREEZE:
        logger.info("model: %s", describe_frozen(cfg, trainer.model))
    logger.info("plan: %s", describe_plan(cfg, samples))
    ranks = comm.world_size()
    if ranks > 1:
        text = "processes: %d, with %d of the %d images of a batch each; gradients are averaged in %s"
        part, images = cfg.SOLVER.IMS_PER_BATCH // ranks, cfg.SOLVER.IMS_PER_BATCH
        logger.info(text, ranks, part, images, cfg.DISTRIBUTED.GRADIENTS)
        if trainer.strategy.is_sharded:
            wrapped = ", ".join(cfg.MODEL.FSDP.WRAP) or "step"
            logger.info("model: sharded over %d ranks (fsdp), all-gathered by %s", ranks, wrapped)
    accum_steps = trainer.update.accum_steps
    if accum_steps > 1:
        images = cfg.SOLVER.IMS_PER_BATCH // (accum_steps * ranks)
        logger.info("accumulation: %d micro-batches of %d images an update", accum_steps, images)
    if trainer.skipped.limit:
        text = "SOLVER.NAN_POLICY: non-finite updates are skipped, up to %d in a row; each step waits for the loss"
        logger.info(text, trainer.skipped.limit)
    for line in describe_groups(trainer.optimizer).splitlines():
        logger.info("group %s", line)


def _listed(names: Sequence[str]) -> str:
    """Return names in one line; of more than ten the first five and the last.

    >>> _listed(["cat", "dog"]), _listed([*map(str, range(100))])
    ('cat, dog', '0, 1, 2, 3, 4, ..., 99')
    """
    return ", ".join(map(printable, names if len(names) <= _MOST_NAMES else [*names[:5], "...", names[-1]]))
