"""The solver: optimizers with their parameter groups, and rates that are functions of the iteration."""

from .build import (
    build_lr_scheduler,
    build_optimizer,
    build_schedule,
    check_solver,
)
from .catalog import register_lr_scheduler, register_optimizer
from .describe import describe_groups, describe_plan
from .lr_scheduler import ScheduleLR, WarmupCosineLR, WarmupMultiStepLR
from .param_groups import get_default_optimizer_params
from .param_scheduler import LRMultiplier, WarmupParamScheduler
from .schedules import Schedule, drops

__all__ = [
    "LRMultiplier",
    "Schedule",
    "ScheduleLR",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "build_schedule",
    "check_solver",
    "describe_groups",
    "describe_plan",
    "drops",
    "get_default_optimizer_params",
    "register_lr_scheduler",
    "register_optimizer",
]
