"""Train, resume or evaluate what a YAML file describes.

python tools/train_net.py --config-file config/recipes/digits.yaml SOLVER.BASE_LR 0.01 --resume
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.tools import interruptible

with interruptible(__name__):
    from warmstart.config import CfgNode, ConfigError, Flag
    from warmstart.engine import (
        LAUNCH_FLAGS,
        adopt_slurm,
        build_autocast,
        build_for_ranks,
        build_process_group,
        build_shards,
        build_test_loaders,
        build_trainer,
        compare_configs,
        complete_run,
        evaluate_all,
        find_start,
        hold_folder,
        is_main,
        is_restart,
        is_sharded,
        launch,
        load_average,
        load_model,
        load_start,
        log_run,
        log_scaling,
        log_scores,
        on_main,
        prepare_folder,
        prepare_torch,
        raise_together,
        read_command_line,
        read_parts,
        read_start,
        read_weights,
        resolve_config,
        run_tool,
        scale_of,
        scaled,
        set_statistics,
        setup_logging,
        stop_signals,
        take_weights,
        wants_launch,
        why_done,
        with_synchronised_norms,
        world_size,
    )
    from warmstart.tasks import build_task, default_arguments, evaluation_arguments

logger = logging.getLogger("warmstart.tools")

FLAGS = (
    Flag("--resume", "path", "continue the run in OUTPUT_DIR, or from a checkpoint file or folder"),
    Flag("--eval-only", "none", "only evaluate MODEL.WEIGHTS or, with --resume, a checkpoint"),
    Flag("--overwrite", "none", "start anew; the run that OUTPUT_DIR holds goes when this one has saved"),
    Flag("--allow-config-change", "none", "resume although model, data or seed differ"),
    Flag("--trust-checkpoint", "none", "read a checkpoint or MODEL.WEIGHTS even if that can run code in it"),
    *LAUNCH_FLAGS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the words of a command line and return its exit code."""
    adopt_slurm()
    flags, cfg = read_command_line(argv, FLAGS, "Train the model that a YAML file describes.")
    if flags["eval_only"] and flags["overwrite"]:
        raise ConfigError("command line: --eval-only writes nothing, so --overwrite has no meaning; leave it out")
    if flags["eval_only"] and flags["allow_config_change"]:
        raise ConfigError("command line: --eval-only compares no configs; leave --allow-config-change out")
    if wants_launch(flags):
        return launch(cfg, flags, argv)
    with build_process_group(cfg):
        setup_logging()
        if flags["eval_only"]:
            return evaluate_only(cfg, flags)
        with raise_together():
            resolved = resolve_config(scaled(cfg, world_size()), given=cfg)
        with hold_folder(resolved):
            return train(cfg, resolved, flags)


def train(given: CfgNode, cfg: CfgNode, flags: Mapping[str, Any]) -> int:
    """Train from iteration 0, or from the checkpoint that --resume means.

    Args:
        given: the config as the user wrote it.
        cfg: the same, resolved.
        flags: of the command line.
    """
    resume, overwrite, trust = flags["resume"], flags["overwrite"], flags["trust_checkpoint"]
    if on_main(lambda: is_restart(Path(cfg.OUTPUT_DIR))):
        logger.info("started anew after a failure: --resume is implied")
        resume, overwrite = "", False
    found = on_main(lambda: find_start(cfg, resume, overwrite, trust))
    start = None if found is None else read_parts(cfg, found[1])
    if start is not None and scale_of(start):
        with raise_together():
            cfg = resolve_config(scaled(given, scale_of(start)), given=given)
    log_scaling(given, cfg)
    if start is not None:
        with raise_together():
            arguments = default_arguments(cfg.MODEL.TASK), evaluation_arguments(cfg.MODEL.TASK)
            compare_configs(cfg, start["config"], flags["allow_config_change"], *arguments)
            done = why_done(cfg, start)
        if done:
            if found is not None and not resume:
                on_main(lambda: complete_run(cfg, found))
            logger.info(done)
            return 0
    with raise_together():
        trainer = build_trainer(cfg, trust, weights=start is None)
        if start is not None:
            load_start(trainer, start)
    on_main(lambda: prepare_folder(cfg, overwrite, trainer.iteration, trainer, found))
    setup_logging(cfg.OUTPUT_DIR)  # each rank: the main one has, and it changes nothing there
    log_run(cfg, trainer)
    with stop_signals(trainer.interrupt, is_main):
        trainer.train()
    return 0


def evaluate_only(given: CfgNode, flags: Mapping[str, Any]) -> int:
    """Evaluate on every test set, as the run that wrote the weights does; nothing is written.

    Args:
        given: the config as the user wrote it.
        flags: of the command line.
    """
    resume, trust = flags["resume"], flags["trust_checkpoint"]
    with raise_together():
        cfg = _resolved(given, world_size())
    found = None if resume is None else on_main(lambda: read_start(cfg, resume, trust))
    start = None if found is None else read_parts(cfg, found[1])
    with raise_together():
        if start is not None and scale_of(start):  # its batches, which TEST.PRECISE_BN takes
            cfg = _resolved(given, scale_of(start))
        if start is None and not cfg.MODEL.WEIGHTS:
            missing = "needs weights" if resume is None else f"found no checkpoint in {cfg.OUTPUT_DIR}"
            raise ConfigError(f"command line: --eval-only {missing}; give MODEL.WEIGHTS FILE or --resume=PATH")
        if not cfg.DATASETS.TEST:
            raise ConfigError(f"{cfg.label('DATASETS.TEST')}: names no data set to evaluate on")
        device, task = prepare_torch(cfg), build_task(cfg)
        file = read_weights(cfg, trust) if start is None else None
        model = build_for_ranks(cfg, weights=file or start is None, extra_outputs=task.extra_outputs)
        model = with_synchronised_norms(model, cfg.MODEL.SYNC_BN)
    with raise_together():  # apart from what one rank alone may fail in: from here on ranks wait for each other
        if not is_sharded(cfg.MODEL.PARALLEL):
            model = model.to(device)
        whole = take_weights(model) if is_sharded(cfg.MODEL.PARALLEL) else {}
        averaged = None
        if start is not None:
            averaged = load_average(cfg, model, start)  # a copy of the model, which is not cut yet
        if is_sharded(cfg.MODEL.PARALLEL):
            build_shards(cfg, model, whole)
        if start is not None:
            load_model(model, start)
    if cfg.TEST.PRECISE_BN.ENABLED:
        content = start if file is None else file.content
        set_statistics(cfg, task, [model] if averaged is None else [model, averaged], content)
    loaders = build_test_loaders(cfg, task)
    log_scores(evaluate_all(model, task, loaders, averaged, autocast=build_autocast(cfg)), task)
    return 0


def _resolved(given: CfgNode, ranks: int) -> CfgNode:
    """Return a config resolved for an evaluation; only TEST.PRECISE_BN takes training's batches there."""
    return resolve_config(scaled(given, ranks), given=given, trains=given.TEST.PRECISE_BN.ENABLED)


if __name__ == "__main__":
    run_tool(main)
