"""The schedules that a config can name: torch's, built-in and registered ones."""

from __future__ import annotations

from collections.abc import Callable

from warmstart.config import ConfigError

from .schedules import Schedule
from .torch_schedules import TORCH_SCHEDULES

# Schedules whose settings are keys of SOLVER; they count from the start of the run unless RESCALE_INTERVAL is set.
KEYED_SCHEDULES = (
    "WarmupMultiStepLR",
    "WarmupCosineLR",
    "WarmupStepWithFixedGammaLR",
    "WarmupPolyLR",
    "WarmupStableDecayLR",
)
# Schedules with arguments in LR_SCHEDULER_ARGS; they count from the end of warm-up.
SCHEDULES: dict[str, Callable[..., Schedule]] = dict(TORCH_SCHEDULES)
# Schedules made of other schedules, with the key that lists these; and the schedule that follows a metric.
COMPOSED_SCHEDULES = {"SequentialLR": "LR_PHASES", "ChainedScheduler": "LR_FACTORS"}
PLATEAU = "ReduceLROnPlateau"


def schedule_names() -> list[str]:
    """Return all valid names for LR_SCHEDULER_NAME.

    >>> "StepLR" in schedule_names()
    True
    """
    return [*KEYED_SCHEDULES, *SCHEDULES, *COMPOSED_SCHEDULES, PLATEAU]


def register_lr_scheduler(name: str, factory: Callable[..., Schedule]) -> None:
    """Register a schedule under a name for SOLVER.LR_SCHEDULER_NAME; warm-up is applied before it.

    Args:
        name: the name.
        factory: a class or function that is called with LR_SCHEDULER_ARGS and, if its signature has them, with
            `num_iters`, the number of iterations after warm-up, and `group`, the parameter group (a `Group`).
            Returns the schedule: a function from the iteration after warm-up (0, 1, 2, ...) to a factor of the
            base learning rate, defined after the end of the run too. A method `drops(end)` is optional.

    Raises:
        ConfigError: the name is taken.

    >>> register_lr_scheduler("StepLR", lambda num_iters: lambda t: max(0.0, 1 - t / num_iters))
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: a schedule called 'StepLR' is registered already; choose another name
    """
    if name in schedule_names():
        raise ConfigError(f"a schedule called {name!r} is registered already; choose another name")
    SCHEDULES[name] = factory
