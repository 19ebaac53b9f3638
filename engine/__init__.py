"""The loop and what runs around it: hooks, records, checkpoints, evaluation."""

from .checkpoint import load_checkpoint, load_newest, save_checkpoint
from .defaults import (
    build_test_loaders,
    build_trainer,
    default_hooks,
    evaluate_all,
    log_run,
    log_scores,
    read_command_line,
    register_hook,
    run_tool,
)
from .evaluation import evaluate, evaluation_mode
from .hooks import CheckpointHook, EvaluationHook, FolderHook, PreciseBNHook, ProfilerHook, RecordHook
from .logs import setup_logging
from .losses import LossWindow, NonFiniteLossError
from .metrics import MetricHook
from .resolve import check_device, get_device, iters_per_epoch, resolve_config
from .resume import compare_configs, find_start, load_average, load_model, load_start, prepare_folder, read_start
from .rng import preserved_rng, rng_state, seed_all, set_rng_state
from .trainer import HookBase, Trainer, every
from .writers import ConsoleWriter, JSONWriter, TensorBoardWriter, Writer

__all__ = [
    "CheckpointHook",
    "ConsoleWriter",
    "EvaluationHook",
    "FolderHook",
    "HookBase",
    "JSONWriter",
    "LossWindow",
    "MetricHook",
    "NonFiniteLossError",
    "PreciseBNHook",
    "ProfilerHook",
    "RecordHook",
    "TensorBoardWriter",
    "Trainer",
    "Writer",
    "build_test_loaders",
    "build_trainer",
    "check_device",
    "compare_configs",
    "default_hooks",
    "evaluate",
    "evaluate_all",
    "evaluation_mode",
    "every",
    "find_start",
    "get_device",
    "iters_per_epoch",
    "load_average",
    "load_checkpoint",
    "load_model",
    "load_newest",
    "load_start",
    "log_run",
    "log_scores",
    "prepare_folder",
    "preserved_rng",
    "read_command_line",
    "read_start",
    "register_hook",
    "resolve_config",
    "rng_state",
    "run_tool",
    "save_checkpoint",
    "seed_all",
    "set_rng_state",
    "setup_logging",
]
