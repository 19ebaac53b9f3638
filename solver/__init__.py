"""Optimizers, parameter groups, and learning rate schedules that are functions of the iteration."""

from .ascii_plot import ascii_plot
from .build import begin_to_train, build_optimizer, check_solver
from .build_curves import named_schedules
from .build_schedule import build_lr_scheduler, build_schedule, check_schedule, decay_starts, follows_metrics
from .clipping import GradientClipping, build_gradient_clipping
from .describe import describe_drops, describe_groups, describe_plan
from .ema import EMA, build_ema
from .lr_lambdas import register_lr_lambda
from .lr_scheduler import GroupSchedules, ScheduleLR
from .metric_scheduler import MetricLR, Progress
from .muon import MuonWithAdamW
from .optimizers import register_optimizer
from .param_groups import GroupRule, get_default_optimizer_params
from .param_scheduler import LRMultiplier, WarmupParamScheduler
from .picture import new_picture, picture_bytes, picture_path, plan_picture, save_picture
from .plan import Curve, build_plan, scheduler_plan
from .registry import PLATEAU, SCHEDULES, register_lr_scheduler, schedule_names
from .schedules import Group, Schedule, drops
from .warmup_schedulers import WarmupCosineLR, WarmupMultiStepLR

__all__ = [
    "EMA",
    "PLATEAU",
    "SCHEDULES",
    "Curve",
    "GradientClipping",
    "Group",
    "GroupRule",
    "GroupSchedules",
    "LRMultiplier",
    "MetricLR",
    "MuonWithAdamW",
    "Progress",
    "Schedule",
    "ScheduleLR",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
    "ascii_plot",
    "begin_to_train",
    "build_ema",
    "build_gradient_clipping",
    "build_lr_scheduler",
    "build_optimizer",
    "build_plan",
    "build_schedule",
    "check_schedule",
    "check_solver",
    "decay_starts",
    "describe_drops",
    "describe_groups",
    "describe_plan",
    "drops",
    "follows_metrics",
    "get_default_optimizer_params",
    "named_schedules",
    "new_picture",
    "picture_bytes",
    "picture_path",
    "plan_picture",
    "register_lr_lambda",
    "register_lr_scheduler",
    "register_optimizer",
    "save_picture",
    "schedule_names",
    "scheduler_plan",
]
