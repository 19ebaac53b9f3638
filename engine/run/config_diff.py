"""Differences between a checkpoint's config and the config of the run that continues from it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from warmstart.config import MIXING, CfgNode, ConfigError, get_cfg, with_new_keys
from warmstart.solver import follows_metrics

logger = logging.getLogger(__name__)

# FREE: keys that cannot change the result of training. FIXED: sections in which a change makes it another run. Any
# other key (mainly in SOLVER) takes the value of this run, and the change is printed. A change of PRINTED keys is
# printed, too: they affect what is saved, when the run ends, the last bits, or whether a damaged file ends it.
FREE = (
    "OUTPUT_DIR",
    "LOG_PERIOD",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.CHECKPOINT_KEEP",
    "TEST.",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.ROOT",
    "DATASETS.DOWNLOAD",
    "DATASETS.CACHE",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.ACTIVATION_CHECKPOINTING",
    "MODEL.PARALLEL",
    "MODEL.FSDP.",
    "PROFILER.",
    "MEMORY_STATS",
    "DISTRIBUTED.",
)
PRINTED = (
    "MODEL.PARALLEL",
    "MODEL.FSDP.PRECISION",
    "DISTRIBUTED.GRADIENTS",
    "MODEL.COMPILE",
    "TEST.PRECISE_BN.",
    "TEST.BEST.",
    "TEST.EARLY_STOPPING.",
    "DATALOADER.UNREADABLE",
)
FIXED = ("MODEL.", "DATASETS.", "INPUT.", "SEED", "DATALOADER.")
# Of these a change of nothing but lengths is printed, as in SOLVER: they may follow from the length of the run.
TIMED = ("MODEL.FREEZE", "INPUT.TRANSFORMS_TRAIN")


def compare_configs(
    cfg: CfgNode,
    saved: dict[str, Any],
    allow_change: bool,
    task_defaults: Mapping[str, Any] | None = None,
    evaluation_args: Collection[str] = (),
    data: Mapping[str, str] | None = None,
) -> None:
    """Log each key that differs from the checkpoint's config, or refuse the resume.

    Args:
        cfg: resolved.
        saved: the checkpoint's config.
        allow_change: the value of --allow-config-change.
        task_defaults: default arguments of the task; an older checkpoint may lack some of them.
        evaluation_args: arguments of the task that affect only evaluation.
        data: the result of `compare_data`, which counts instead of the paths in DATASETS.TRAIN and DATASETS.TEST.

    Raises:
        ConfigError: keys differ that make it another run (model, data, seed), unless `allow_change`; or the
            optimizer differs.
    """
    try:
        before, now = saved["SOLVER"]["OPTIMIZER"], cfg.SOLVER.OPTIMIZER
        defaults = get_cfg().to_dict()
        if saved["MODEL"]["TASK"] == cfg.MODEL.TASK:
            defaults["MODEL"]["TASK_ARGS"] = dict(task_defaults or {})
        differences = cfg.differences(_filled(with_new_keys(saved), defaults))
    except (LookupError, TypeError, RuntimeError) as error:  # a tensor where a value should be
        raise ConfigError(f"the checkpoint's config is not one of ours: {type(error).__name__}: {error}") from None
    if before != now:
        raise ConfigError(
            f"{cfg.label('SOLVER.OPTIMIZER')}: the checkpoint was written with {before}, whose state {now} "
            f"cannot use; start a new run with MODEL.WEIGHTS FILE and another OUTPUT_DIR"
        )
    refused, evaluates, data = [], {f"MODEL.TASK_ARGS.{name}" for name in evaluation_args}, data or {}
    for change in filter(None, data.values()):
        if allow_change:
            logger.info("changed since the checkpoint: %s", change)
        else:
            refused.append(change)
    for difference in differences:
        key = difference.key
        change = f"{key}: {difference.default!r} -> {difference.value!r}"
        if key in data:
            if not data[key]:
                logger.info("%s: other paths than at the checkpoint, the same samples", key)
            continue
        # A schedule that follows metrics depends on how often there are any.
        steers = key in ("LOG_PERIOD", "TEST.EVAL_PERIOD") and follows_metrics(cfg)
        steers |= key == "TEST.EVAL_PERIOD" and bool(cfg.TEST.BEST.METRIC)  # which iterations can be best
        printed = steers or key.startswith(PRINTED) or key in evaluates
        printed |= key in TIMED and _untimed(difference.value) == _untimed(difference.default)
        if key.startswith(FREE) and not printed:
            continue
        if key.startswith(FIXED) and not printed and not allow_change:
            refused.append(change)
        else:
            logger.info("changed since the checkpoint: %s", change)
    if refused:
        raise ConfigError(
            "this is not the run that wrote the checkpoint: " + "; ".join(refused) + ". Use the old values, "
            "another OUTPUT_DIR, or --allow-config-change"
        )


def _untimed(value: Any) -> Any:
    """Return the value of a key in TIMED without the numbers of its lengths.

    >>> _untimed(({"MATCH": "^stem", "UNTIL": 50}, {"MATCH": "^layer1"}))
    [{'MATCH': '^stem', 'UNTIL': None}, {'MATCH': '^layer1'}]
    >>> _untimed((("MixUp", {"alpha": 0.2, "until": 90}), ("Mine", {"until": 3})))
    [('MixUp', {'alpha': 0.2, 'until': None}), ('Mine', {'until': 3})]
    """
    if not isinstance(value, (list, tuple)):
        return value
    found: list[Any] = []
    for entry in value:
        match entry:
            case {"UNTIL": _}:
                found.append({**entry, "UNTIL": None})
            case [name, {"until": _} as arguments] if name in MIXING:
                found.append((name, {**arguments, "until": None}))
            case _:
                found.append(entry)
    return found


def _filled(saved: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's config completed by the defaults of keys that are newer than the checkpoint."""
    sections = {
        key: _filled(saved[key], default)
        for key, default in defaults.items()
        if isinstance(default, dict) and isinstance(saved.get(key), dict)
    }
    return defaults | saved | sections
