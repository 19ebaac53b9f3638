"""The loop and what runs around it: hooks, records, checkpoints, evaluation."""

from .analysis.cost_model import MODES, Prediction, Profile, Work, predict, workers_needed
from .analysis.links import Cluster, Link
from .analysis.lr_finder import RangeTest, find_lr, range_picture
from .checkpoint.reader import classes_of, load_checkpoint
from .checkpoint.run_folder import load_newest
from .checkpoint.saver import SaveError, finish_saves, save_checkpoint
from .distributed.build import build_strategy
from .distributed.comm import is_main, rank, world_size
from .distributed.errors import on_main, raise_together
from .distributed.launch import LAUNCH_FLAGS, adopt_slurm, refuse_ranks, wants_launch
from .distributed.process_group import build_process_group
from .hooks.best_checkpoint import BestHook
from .hooks.checkpointing import CheckpointHook
from .hooks.early_stopping import EarlyStoppingHook
from .hooks.evaluation import EvaluationHook, PreciseBNHook
from .hooks.metric_logging import RecordHook
from .hooks.metric_schedule import MetricHook
from .hooks.plot_schedule import PictureHook
from .hooks.profiler import ProfilerHook
from .hooks.run_lock import FolderHook
from .hooks.unfreezing import UnfreezingHook, unfreeze
from .loop.evaluate import evaluate, evaluation_mode
from .loop.forward import ModelForward, losses_of
from .loop.hook import HookBase, every
from .loop.losses import LossWindow
from .loop.non_finite import NonFiniteLossError
from .loop.score_hook import ScoreHook
from .loop.trainer import Trainer
from .loop.update import seed_forward
from .records.console import ConsoleWriter
from .records.json_lines import JSONWriter
from .records.logging import setup_logging
from .records.tensorboard import TensorBoardWriter
from .records.writers import PictureWriter, Writer
from .run.build import build_trainer
from .run.command_line import read_command_line, read_configs
from .run.config_diff import compare_configs
from .run.default_hooks import build_test_loaders, default_hooks, evaluate_all, register_hook
from .run.describe import log_run, log_scores, output_names
from .run.evaluate import evaluate_only, set_statistics
from .run.exit_codes import run_tool
from .run.folder import claim_files, complete_run, hold_folder, is_restart, prepare_folder
from .run.init_from_data import build_for_ranks, init_from_data, read_weights
from .run.launch import launch
from .run.load import load_start, why_done
from .run.measure import measure_loader, measure_profile
from .run.prepare_torch import prepare_torch
from .run.resolve import iters_per_epoch, resolve_config
from .run.resume import find_start, read_parts, read_start
from .run.scores import is_best_average
from .run.summary import log_next_commands
from .run.train import train
from .run.world_size_scaling import check_scaled, log_scaling, scale_of, scaled
from .runtime.device import build_device, check_device
from .runtime.precision import LossScaler, build_autocast, build_scaler, compiled
from .runtime.rng import preserved_rng, rng_state, seed_all, set_rng_state
from .runtime.signals import Interrupted, stop_signals

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
    "ModelForward",
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
    "UnfreezingHook",
    "Work",
    "Writer",
    "adopt_slurm",
    "build_autocast",
    "build_device",
    "build_for_ranks",
    "build_process_group",
    "build_scaler",
    "build_strategy",
    "build_test_loaders",
    "build_trainer",
    "check_device",
    "check_scaled",
    "claim_files",
    "classes_of",
    "compare_configs",
    "compiled",
    "complete_run",
    "default_hooks",
    "evaluate",
    "evaluate_all",
    "evaluate_only",
    "evaluation_mode",
    "every",
    "find_lr",
    "find_start",
    "finish_saves",
    "hold_folder",
    "init_from_data",
    "is_best_average",
    "is_main",
    "is_restart",
    "iters_per_epoch",
    "launch",
    "load_checkpoint",
    "load_newest",
    "load_start",
    "log_next_commands",
    "log_run",
    "log_scaling",
    "log_scores",
    "losses_of",
    "measure_loader",
    "measure_profile",
    "on_main",
    "output_names",
    "predict",
    "prepare_folder",
    "prepare_torch",
    "preserved_rng",
    "raise_together",
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
    "seed_forward",
    "set_rng_state",
    "set_statistics",
    "setup_logging",
    "stop_signals",
    "train",
    "unfreeze",
    "wants_launch",
    "why_done",
    "workers_needed",
    "world_size",
]
