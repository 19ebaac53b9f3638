"""The task, built from a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from warmstart.config import CfgNode, ConfigError, call, check_arguments, gathering, get_cfg, unknown_name
from warmstart.data import DatasetInfo, DataSpec, data_spec, num_outputs

from .registry import task_class, task_names
from .task import Score, Task

#: Keys that only some tasks read; `Task.reads` lists those that a task reads.
_NOT_COMMON = ("MODEL.STEM", "INPUT.MEAN", "INPUT.STD")
#: Tasks that users ask for, and that do not exist yet.
_PLANNED = ("segmentation", "semantic_segmentation", "panoptic_segmentation")


def build_task(cfg: CfgNode, data: DataSpec | None = None) -> Task:
    """Return the task that MODEL.TASK names, for the training set of a config.

    Reads MODEL.TASK, MODEL.TASK_ARGS and what `DataSpec.train` reads.

    Args:
        cfg: the config.
        data: its data sets, if they are known already.

    Raises:
        ConfigError: the name is unknown, the task refuses an argument or value, it does not suit the training set
            or MODEL.NUM_CLASSES, or a key is set that it does not read.

    >>> task = build_task(get_cfg())
    >>> type(task).__name__, [score.name for score in task.scores]
    ('Classification', ['accuracy', 'top5', 'loss'])
    """
    name, label = cfg.MODEL.TASK, "MODEL.TASK_ARGS"
    cls = task_class(name)
    if cls is None and name in _PLANNED:
        known = ", ".join(sorted(task_names()))
        raise ConfigError(f"{cfg.label('MODEL.TASK')}: {name} is not available yet; there are {known}")
    if cls is None:
        raise unknown_name(cfg.label("MODEL.TASK"), "task", name, task_names())
    problems: list[str] = []
    with gathering(problems):
        check_arguments(label, name, cls, cfg.MODEL.TASK_ARGS, given=("info",))
    train = (data or data_spec(cfg)).train
    info = _told(train, cfg.MODEL.NUM_CLASSES)
    if problems:
        raise ConfigError(problems)
    task: Task = call(label, name, cls, info, **cfg.MODEL.TASK_ARGS.to_dict())
    _check_scores(cfg, task)
    _check_outputs(cfg, train, task)
    _check_read(cfg, task)
    return task


def _check_scores(cfg: CfgNode, task: Task) -> None:
    """Raise ConfigError if a task's scores are not `Score` objects, or share a name."""
    who, scores = f"{cfg.label('MODEL.TASK')}: {type(task).__name__}.scores", task.scores
    if not isinstance(scores, Sequence) or not all(isinstance(score, Score) for score in scores):
        raise ConfigError(f'{who} is {scores!r}; give a list of warmstart.tasks.Score, as [Score("accuracy")]')
    names = [score.name for score in scores]
    if len({*names}) < len(names):
        raise ConfigError(f"{who} has several scores of the same name: {', '.join(names)}; give each its own name")


def _told(train: DatasetInfo, outputs: int) -> DatasetInfo:
    """Return the training set's info completed by MODEL.NUM_CLASSES, `outputs`; 0: it is not set.

    If the kind of targets is not known, `outputs` may be the number of classes or the numbers per target.
    """
    if not outputs or train.num_values:
        return train
    return replace(train, num_classes=outputs, num_values=0 if train.num_classes else outputs)


def _check_outputs(cfg: CfgNode, train: DatasetInfo, task: Task) -> None:
    """Raise ConfigError if MODEL.NUM_CLASSES contradicts the task or, if it does not care, the training set."""
    given = cfg.MODEL.NUM_CLASSES
    if not task.num_outputs:
        num_outputs(cfg, train)
    elif given not in (0, task.num_outputs):
        raise ConfigError(
            f"{cfg.label('MODEL.NUM_CLASSES')}: is {given}, but for these targets MODEL.TASK {cfg.MODEL.TASK}"
            f" needs {task.num_outputs} output{'s' if task.num_outputs > 1 else ''} of the model; set it to 0 to"
            " use that number"
        )


def _check_read(cfg: CfgNode, task: Task) -> None:
    """Raise ConfigError for keys that are set but that the task does not read."""
    read = {*task.reads, *(("INPUT.MEAN", "INPUT.STD") if task.normalise else ())}
    given, defaults = cfg.flatten(), get_cfg().flatten()
    problems = [
        f"{cfg.label(key)}: MODEL.TASK {cfg.MODEL.TASK} does not read it; leave it out"
        for key in _NOT_COMMON
        if key not in read and given[key] != defaults[key]
    ]
    if problems:
        raise ConfigError(problems)


def default_arguments(name: str) -> dict[str, Any]:
    """Return the arguments of the task `name` at their defaults; {} if there is no such task.

    >>> default_arguments("regression")
    {'loss': 'l1', 'delta': 1.0, 'mean': None, 'std': None}
    """
    cls = task_class(name)
    parameters: Mapping[str, inspect.Parameter] = {} if cls is None else inspect.signature(cls).parameters
    return {
        each.name: each.default
        for each in parameters.values()
        if each.default is not each.empty and each.name != "info"
    }


def evaluation_arguments(name: str) -> tuple[str, ...]:
    """Return the names of the task's arguments that affect only evaluation."""
    cls = task_class(name)
    return () if cls is None else tuple(cls.evaluation_args)
