"""Optimizers and learning-rate schedules, from a config or by hand."""

from .build import (
    build_lr_scheduler,
    build_optimizer,
    build_schedule,
    check_solver,
    describe_plan,
    register_lr_scheduler,
    register_optimizer,
)
from .lr_scheduler import LRMultiplier, ScheduleLR, WarmupCosineLR, WarmupMultiStepLR, WarmupParamScheduler
from .param_groups import describe_groups, get_default_optimizer_params

__all__ = [
    "LRMultiplier",
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
    "get_default_optimizer_params",
    "register_lr_scheduler",
    "register_optimizer",
]
