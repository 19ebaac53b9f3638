"""The loop and what runs around it: hooks, records, checkpoints, evaluation."""

from .best import BestHook, EarlyStoppingHook, ScoreHook, is_best_average
from .checkpoint import load_checkpoint, load_newest, save_checkpoint
from .comm import is_main, on_main, process_group, rank, together, world_size
from .defaults import (
    build_test_loaders,
    build_trainer,
    default_hooks,
    evaluate_all,
    log_run,
    log_scores,
    read_command_line,
    read_configs,
    register_hook,
    run_tool,
)
from .device import check_device, get_device, prepare_torch
from .evaluation import evaluate, evaluation_mode
from .first_weights import build_for_ranks, init_from_data, read_weights
from .fsdp import is_sharded, shard, take_weights
from .hook_base import HookBase, every, next_multiple
from .hooks import EvaluationHook, FolderHook, PreciseBNHook, ProfilerHook
from .launch import LAUNCH_FLAGS, adopt_slurm, launch, refuse_ranks, wants_launch
from .logs import setup_logging
from .losses import LossWindow, NonFiniteLossError
from .lr_range import RangeTest, find_lr, range_picture
from .metrics import MetricHook
from .parallel import with_synchronised_norms
from .picture import PictureHook
from .precise_bn import set_statistics
from .precision import LossScaler, build_scaler, compiled
from .records import RecordHook
from .resolve import iters_per_epoch, resolve_config
from .resume import (
    claim_files,
    compare_configs,
    complete_run,
    find_start,
    hold_folder,
    is_restart,
    load_average,
    load_model,
    load_start,
    prepare_folder,
    read_parts,
    read_start,
    why_done,
)
from .rng import preserved_rng, rng_state, seed_all, set_rng_state
from .saving import CheckpointHook, SaveError, finish_saves
from .scale_model import MODES, Cluster, Link, Prediction, Profile, Work, predict, workers_needed
from .scaling import log_scaling, scale_of, scaled
from .signals import Interrupted, stop_signals
from .step_profile import measure_loader, measure_profile
from .trainer import Trainer
from .writers import ConsoleWriter, JSONWriter, PictureWriter, TensorBoardWriter, Writer

__all__ = [
    "LAUNCH_FLAGS",
    "MODES",
    "BestHook",
    "CheckpointHook",
    "Cluster",
    "ConsoleWriter",
    "EarlyStoppingHook",
    "EvaluationHook",
    "FolderHook",
    "HookBase",
    "Interrupted",
    "JSONWriter",
    "Link",
    "LossScaler",
    "LossWindow",
    "MetricHook",
    "NonFiniteLossError",
    "PictureHook",
    "PictureWriter",
    "PreciseBNHook",
    "Prediction",
    "Profile",
    "ProfilerHook",
    "RangeTest",
    "RecordHook",
    "SaveError",
    "ScoreHook",
    "TensorBoardWriter",
    "Trainer",
    "Work",
    "Writer",
    "adopt_slurm",
    "build_for_ranks",
    "build_scaler",
    "build_test_loaders",
    "build_trainer",
    "check_device",
    "claim_files",
    "compare_configs",
    "compiled",
    "complete_run",
    "default_hooks",
    "evaluate",
    "evaluate_all",
    "evaluation_mode",
    "every",
    "find_lr",
    "find_start",
    "finish_saves",
    "get_device",
    "hold_folder",
    "init_from_data",
    "is_best_average",
    "is_main",
    "is_restart",
    "is_sharded",
    "iters_per_epoch",
    "launch",
    "load_average",
    "load_checkpoint",
    "load_model",
    "load_newest",
    "load_start",
    "log_run",
    "log_scaling",
    "log_scores",
    "measure_loader",
    "measure_profile",
    "next_multiple",
    "on_main",
    "predict",
    "prepare_folder",
    "prepare_torch",
    "preserved_rng",
    "process_group",
    "range_picture",
    "rank",
    "read_command_line",
    "read_configs",
    "read_parts",
    "read_start",
    "read_weights",
    "refuse_ranks",
    "register_hook",
    "resolve_config",
    "rng_state",
    "run_tool",
    "save_checkpoint",
    "scale_of",
    "scaled",
    "seed_all",
    "set_rng_state",
    "set_statistics",
    "setup_logging",
    "shard",
    "stop_signals",
    "take_weights",
    "together",
    "wants_launch",
    "why_done",
    "with_synchronised_norms",
    "workers_needed",
    "world_size",
]
