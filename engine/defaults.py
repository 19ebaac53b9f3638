"""From a command line to a config, and from a config to a trainer with the default hooks."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from warmstart.config import (
    CfgNode,
    ConfigError,
    Flag,
    get_cfg,
    import_module,
    parse_command_line,
    printable,
    usage,
)
from warmstart.data import (
    TrainLoader,
    build_test_loader,
    build_train_loader,
    describe_loader,
    input_shape,
    train_info,
)
from warmstart.solver import (
    build_ema,
    build_gradient_clipping,
    build_lr_scheduler,
    build_optimizer,
    describe_groups,
    describe_plan,
)

from . import comm
from .best import build_score_hooks
from .device import NO_DETERMINISTIC_KERNEL, describe_profile, get_device, prepare_torch
from .environment import is_rank, is_spokesman
from .evaluation import evaluate
from .first_weights import build_for_ranks, init_from_data
from .fsdp import computing_device, is_sharded, shard, take_weights
from .hook_base import HookBase
from .hooks import EvaluationHook, FolderHook, PreciseBNHook, ProfilerHook
from .logs import log_to_file, silence_stdout
from .losses import NonFiniteLossError
from .meeting import LateError
from .metrics import build_metric_hook
from .parallel import check_of, data_parallel, no_sync_of, with_synchronised_norms
from .picture import PictureHook
from .precision import build_scaler, compiled
from .records import RecordHook
from .resolve import iters_per_epoch, resolve_config
from .rng import seed_rank
from .run_files import PROFILE, subfolders_of
from .saving import CheckpointHook, SaveError
from .signals import leave, stop_signals
from .trainer import Trainer
from .writers import ConsoleWriter, JSONWriter, TensorBoardWriter, Writer, memory_stats, score_lines

logger = logging.getLogger(__name__)

CONFIG_FLAGS = (
    Flag("--config-file", "one", "YAML file; recipe:NAME.yaml takes one that ships with the package"),
    Flag("--import", "one", "module that registers your data sets, models, schedules, hooks", repeated=True),
    Flag("--print-config", "none", "print what differs from the defaults, and who set it, then stop"),
)

_HOOKS: dict[str, Callable[[CfgNode], HookBase]] = {}


def register_hook(name: str, builder: Callable[[CfgNode], HookBase]) -> None:
    """Add a hook to every run: `builder(cfg)` makes it; it runs after evaluation, before the records.

    Raises:
        ValueError: the name is taken.
    """
    if name in _HOOKS:
        raise ValueError(f"a hook called {name!r} is registered already")
    _HOOKS[name] = builder


def read_command_line(
    argv: Sequence[str] | None, flags: Sequence[Flag], summary: str
) -> tuple[dict[str, Any], CfgNode]:
    """Return a tool's flags and the config: defaults, then the file, then the overrides, frozen.

    Prints and exits at --help and --print-config. Modules given with --import are imported first, from
    the Python path or the current folder.

    Args:
        argv: the words behind the program's name; None takes them from sys.argv.
        flags: the tool's own flags; those of `CONFIG_FLAGS` come by themselves.
        summary: what the tool does, for --help.

    Raises:
        ConfigError: anything wrong on the command line or in the file.
    """
    found, (cfg,) = _read_command_line(argv, (*CONFIG_FLAGS, *flags), summary)
    return found, cfg


def read_configs(
    argv: Sequence[str] | None, flags: Sequence[Flag], summary: str
) -> tuple[dict[str, Any], list[CfgNode]]:
    """Return a tool's flags and one config for each --config-file, in their order; overrides hold for each.

    Without a file the only config is the defaults'. The rest is as for `read_command_line`.
    """
    one_file, *others = CONFIG_FLAGS
    files = one_file._replace(help=f"{one_file.help}; may be repeated", repeated=True)
    return _read_command_line(argv, (files, *others, *flags), summary)


def _read_command_line(
    argv: Sequence[str] | None, flags: Sequence[Flag], summary: str
) -> tuple[dict[str, Any], list[CfgNode]]:
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        print(usage(Path(sys.argv[0]).name, summary, flags))
        raise SystemExit(0)
    found, overrides = parse_command_line(argv, flags, get_cfg().has_key)
    for module in found["import"]:
        import_module(module, f"command line: --import {module}")
    given = found["config_file"]  # a list where the flag may be repeated
    files = given if isinstance(given, list) else [given]
    cfgs = []
    for file in files or [None]:
        cfg = get_cfg()
        cfg.merge(file or "", overrides, source="command line")
        cfg.freeze()
        cfgs.append(cfg)
    if found["print_config"]:
        print("\n\n".join(map(describe_config, cfgs)))
        raise SystemExit(0)
    return found, cfgs


def describe_config(cfg: CfgNode) -> str:
    """Return one line for each key that is not at its default: its value, the default, who set it.

    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", "0.1"])
    >>> print(describe_config(cfg))
    SOLVER.BASE_LR: 0.1  (default 0.001; set by override)
    """
    lines = []
    for difference in cfg.differences(get_cfg()):
        default = "none" if difference.default is None else difference.default
        text = f"{difference.key}: {difference.value}  (default {default}; set by {difference.source})"
        lines.append(printable(text))
    return "\n".join(lines) or "every key is at its default"


def build_trainer(cfg: CfgNode, trust: bool = False, weights: bool = True) -> Trainer:
    """Return a trainer for a config: seeded model, optimizer, schedule, data and the default hooks.

    On several ranks (see comm.py) each is given its part of every batch; waits for all ranks.

    Args:
        cfg: resolved or not; the checks of `resolve_config` run in any case.
        trust: whether code in the file that MODEL.WEIGHTS names may run, as --trust-checkpoint says.
        weights: whether that file is read or, without one, first weights may follow from training images; a
            checkpoint that is loaded afterwards holds all weights.

    Raises:
        ConfigError: the config is not one that can run.
    """
    cfg = resolve_config(cfg)
    device = prepare_torch(cfg)
    model = with_synchronised_norms(cfg, build_for_ranks(cfg, trust, weights))
    if not is_sharded(cfg):  # else the whole may not fit
        model = model.to(device)
    loader = comm.in_turn(lambda: build_train_loader(cfg, comm.rank(), comm.world_size()))
    if weights and (comm.is_main() or not is_sharded(cfg)):
        init_from_data(cfg, model, loader)
    whole = take_weights(model) if is_sharded(cfg) else {}
    ema = build_ema(cfg, model)
    if is_sharded(cfg):
        for each in (model,) if ema is None else (model, ema.model):
            shard(cfg, each, whole)
    optimizer = build_optimizer(cfg, model)  # before torch looks at the model: it refuses what cannot train
    parallel = data_parallel(cfg, model)
    forward = model if parallel is None else parallel
    if comm.world_size() > 1:
        seed_rank(cfg.SEED)
    return Trainer(
        model,
        optimizer,
        build_lr_scheduler(cfg, optimizer, iters_per_epoch(cfg)),
        loader,
        default_hooks(cfg, model, loader, ema.model if ema is not None else None),
        max_iter=cfg.SOLVER.MAX_ITER,
        device=device,
        accum_steps=cfg.SOLVER.GRAD_ACCUM_STEPS,
        clip=build_gradient_clipping(cfg),
        ema=ema,
        nan_limit=cfg.SOLVER.NAN_LIMIT if cfg.SOLVER.NAN_POLICY == "skip" else 0,
        scaler=build_scaler(cfg, model),
        forward=compiled(forward, cfg.MODEL.COMPILE) if cfg.MODEL.COMPILE else forward,
        no_sync=no_sync_of(model if parallel is None else parallel),
        check=check_of(cfg, parallel),
    )


def default_hooks(
    cfg: CfgNode, model: nn.Module, loader: TrainLoader, averaged: nn.Module | None = None
) -> list[HookBase]:
    """Return the hooks of a run, in an order that has reasons.

    1. The folder is made, or refused, before anything is written into it.
    2. The profiler, where PROFILER asks for it: its last iteration ends before the work of the other hooks.
    3. Precise BatchNorm, where TEST.PRECISE_BN asks for it: what is evaluated has its statistics.
    4. Evaluation: its scores belong to this iteration's record and checkpoint.
    5. The user's hooks see the scores, and what they add to `trainer.scalars` is still recorded.
    6. The picture of the plan is drawn after the first update, in TensorBoard too. It comes before the record, so
       that what both import does not count as training.
    7. Records take everything that was found out about this iteration.
    8. The best score and early stopping, where keys ask for them, see what was recorded; it may be a score of the
       user's.
    9. So does a schedule that follows metrics.
    10. The checkpoint comes last, so that it holds what all the others know after this iteration.

    The moving average (SOLVER.EMA) is no hook: the trainer brings it up to date before any of them runs.

    Args:
        cfg: resolved.
        model: the model that is trained.
        loader: training's.
        averaged: the moving average, evaluated beside it.
    """
    output = Path(cfg.OUTPUT_DIR)
    device = get_device(cfg)
    writers: list[Writer] = []
    if comm.is_main():
        writers = [
            ConsoleWriter(cfg.SOLVER.MAX_ITER, device),
            JSONWriter(output / "metrics.json"),
            TensorBoardWriter(output),
        ]
    constants = {"config": cfg.to_dict()}
    loaders = build_test_loaders(cfg)

    def scores(trainer: Trainer) -> dict[str, float]:
        return evaluate_all(model, loaders, averaged, trainer.give_way, cfg.TEST.FLIP)

    gauges = [lambda: memory_stats(device)] if cfg.MEMORY_STATS else []
    metric_hooks = build_metric_hook(cfg)
    hooks: list[HookBase] = [FolderHook(output, subfolders_of(cfg))]
    if cfg.PROFILER.ITERS:
        hooks.append(ProfilerHook(cfg.PROFILER.START, cfg.PROFILER.ITERS, output / PROFILE))
    if cfg.TEST.PRECISE_BN.ENABLED:
        models = [model] if averaged is None else [model, averaged]
        hooks.append(PreciseBNHook(cfg.TEST.EVAL_PERIOD, models, loader.batches, cfg.TEST.PRECISE_BN.NUM_ITER))
    return [
        *hooks,
        EvaluationHook(cfg.TEST.EVAL_PERIOD, scores),
        *(builder(cfg) for builder in _HOOKS.values()),
        PictureHook(output, writers),
        RecordHook(cfg.LOG_PERIOD, writers, gauges, at_once=bool(metric_hooks)),
        *build_score_hooks(cfg, with_own=bool(_HOOKS)),
        *metric_hooks,
        CheckpointHook(
            cfg.SOLVER.CHECKPOINT_PERIOD, output, constants, cfg.SOLVER.CHECKPOINT_KEEP, cfg.DISTRIBUTED.TIMEOUT
        ),
    ]


def evaluate_all(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Any]],
    averaged: nn.Module | None = None,
    between: Callable[[], object] | None = None,
    flip: bool = False,
) -> dict[str, float]:
    """Return the scores on every test set: {"digits_test/accuracy": 0.98, ...}.

    Those of the moving average, where there is one, stand beside them: "digits_test/ema/accuracy". On several
    ranks buffers become those of rank 0, and the scores those of all loaders together; waits for all ranks.

    Args:
        model: the model.
        loaders: one a test set, by its name.
        averaged: the moving average.
        between: called at the beginning and before each batch; what it raises ends the evaluation.
        flip: TEST.FLIP.
    """
    if between is not None:  # also where a rank has no batch
        between()
    device = computing_device(model)
    models = {"": model} | ({"ema/": averaged} if averaged is not None else {})
    for each in models.values():
        comm.share_buffers(each)
    return {
        f"{name}/{prefix}{score}": value
        for name, loader in loaders.items()
        for prefix, evaluated in models.items()
        for score, value in evaluate(evaluated, loader, device, between, flip).items()
    }


def build_test_loaders(cfg: CfgNode) -> dict[str, Iterable[Any]]:
    """Return a loader for each of DATASETS.TEST by its name; on several ranks of this one's part."""

    def build() -> dict[str, Iterable[Any]]:
        ranks = comm.rank(), comm.world_size()
        return {name: build_test_loader(cfg, name, *ranks) for name in cfg.DATASETS.TEST}

    return comm.in_turn(build)


def log_scores(scores: dict[str, float]) -> None:
    """Log one line a test set."""
    for name, line in score_lines(scores).items():
        logger.info("%s: %s", name, line)


def log_run(cfg: CfgNode, trainer: Trainer) -> None:
    """Log what is about to run: machine, data, model, plan, parameter groups."""
    samples = train_info(cfg).size
    channels, height, width = input_shape(cfg)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    device, threads = trainer.device, torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    logger.info("torch %s on %s; output in %s", torch.__version__, machine, cfg.OUTPUT_DIR)
    logger.info("%s", describe_profile(cfg, device))
    if samples < cfg.SOLVER.IMS_PER_BATCH and comm.is_main():
        text = "%s: a batch of %s images holds each of the %s training images about %s times; set it to %s or less"
        images, times = cfg.SOLVER.IMS_PER_BATCH, f"{cfg.SOLVER.IMS_PER_BATCH / samples:.3g}"
        logger.warning(text, cfg.label("SOLVER.IMS_PER_BATCH"), f"{images:,}", f"{samples:,}", times, samples)
    logger.info(
        "data: %s, %s images of %dx%dx%d, %d classes",
        " + ".join(cfg.DATASETS.TRAIN),
        f"{samples:,}",
        channels,
        height,
        width,
        cfg.MODEL.NUM_CLASSES,
    )
    logger.info("loader: %s", describe_loader(cfg))
    logger.info("model: %s, %s parameters", cfg.MODEL.NAME, f"{parameters:,}")
    logger.info("plan: %s", describe_plan(cfg, samples))
    ranks = comm.world_size()
    if ranks > 1:
        text = "processes: %d, with %d of the %d images of a batch each; gradients are averaged in %s"
        part, images = cfg.SOLVER.IMS_PER_BATCH // ranks, cfg.SOLVER.IMS_PER_BATCH
        logger.info(text, ranks, part, images, cfg.DISTRIBUTED.GRADIENTS)
        if is_sharded(cfg):
            wrapped = ", ".join(cfg.MODEL.FSDP.WRAP) or "one step"
            logger.info("model: in %d parts (fsdp), put together by %s", ranks, wrapped)
    if trainer.accum_steps > 1:
        images = cfg.SOLVER.IMS_PER_BATCH // (trainer.accum_steps * ranks)
        logger.info("accumulation: %d micro-batches of %d images an update", trainer.accum_steps, images)
    if trainer.skipped.limit:
        text = "SOLVER.NAN_POLICY: non-finite updates are skipped, up to %d in a row; each step waits for the loss"
        logger.info(text, trainer.skipped.limit)
    for line in describe_groups(trainer.optimizer).splitlines():
        logger.info("group %s", line)


def run_tool(main: Callable[[], int]) -> None:
    """Run a tool and exit with its code.

    0 is success, 2 a mistake in what the user wrote (one message on stderr, nothing was overwritten), 3 a loss
    that is not finite, 4 a last checkpoint that could not be written, 128 + its number a signal: 130 Ctrl-C, 143
    SIGTERM, 138 SIGUSR1 (on Linux), 129 SIGHUP. Anything else that fails is a bug and shows its traceback. The
    run's log.txt holds the traceback, or the message of 2, 3 and 4, too. Of several ranks, which fail alike then,
    the main one prints it; 5 is one that ends since another has, or did not come.
    """
    try:
        with stop_signals(leave):
            sys.exit(main())
    except ConfigError as error:
        message, code = f"error: {error}", 2
    except NonFiniteLossError as error:
        message, code = f"error: {printable(str(error))}", 3
    except SaveError as error:
        message, code = f"error: {printable(str(error))}", 4
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except PermissionError as error:
        message, code = f"error: {printable(str(error.filename))}: permission denied", 2
    except RuntimeError as error:
        if isinstance(error, LateError) or (is_rank() and comm.is_lost(error)):
            who = f"{_who()}: another process has ended, or did not come in time" if is_rank() else "error"
            print(f"{who}: {comm.why_lost(error)}", file=sys.stderr)
            sys.exit(comm.LOST)
        if NO_DETERMINISTIC_KERNEL not in str(error):
            _tell_bug()
            raise
        message, code = f"error: PROFILE exact: {str(error).partition(', but you set')[0]}; use PROFILE auto", 2
    except BrokenPipeError:  # --print-config | head
        silence_stdout()
        sys.exit(0)
    except Exception:
        _tell_bug()
        raise
    if is_spokesman():
        log_to_file(message)
        with contextlib.suppress(OSError):  # a full disk does not make the exit code another one
            print(message, file=sys.stderr)
    sys.exit(code)


def _tell_bug() -> None:
    """Write the traceback into the run's log.txt, and say above the console's which of the ranks it is of."""
    who = f"{_who()} has failed:\n" if is_rank() else ""
    print(who, end="", file=sys.stderr)
    log_to_file(f"{who}{traceback.format_exc().rstrip()}")


def _who() -> str:
    return f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, on {socket.gethostname()}"
