"""A learning rate scheduler that also follows metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.optim.optimizer import Optimizer

from .lr_scheduler import GroupSchedules, ScheduleLR, saved_iteration
from .plateau import Patience, Plateau
from .schedules import Schedule


@dataclass(frozen=True)
class Progress:
    """The effect of all metrics so far on a schedule.

    Args:
        warmup_end: the iteration at which a metric ended warm-up; None: no metric did.
        patience: the state of the plateau.
    """

    warmup_end: int | None = None
    patience: Patience = field(default_factory=Patience)


class MetricLR(ScheduleLR):
    """A ScheduleLR that also follows metrics: they end warm-up, or reduce the learning rates on a plateau.

    The learning rate is a function of the iteration and of `progress`, a few numbers that the state contains too.
    `lr_at` returns the learning rate if there are no further metrics.

    Args:
        optimizer: as for `ScheduleLR`.
        schedule_after: from the progress to the schedule.
        warmup_iters: length of warm-up in iterations; during warm-up `observe` ignores metrics.
        plateau: the rule for `observe`; None: metrics are ignored.
        last_epoch: as for `ScheduleLR`, as if there had been no metric; load a state to continue from one.

    >>> import torch
    >>> from .schedules import Level
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> plateau = Plateau(patience=0, factor=0.5)
    >>> scheduler = MetricLR(optimizer, lambda p: Level(0.5**p.patience.reductions), plateau=plateau)
    >>> scheduler.observe(0.1)
    >>> scheduler.observe(0.2)
    >>> scheduler.get_last_lr(), scheduler.state_dict()["num_reductions"]
    ([0.25], 1)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule_after: Callable[[Progress], Schedule | GroupSchedules],
        warmup_iters: int = 0,
        plateau: Plateau | None = None,
        last_epoch: int = -1,
    ) -> None:
        self.schedule_after = schedule_after
        self.warmup_iters = warmup_iters
        self.plateau = plateau
        self.progress = Progress()
        super().__init__(optimizer, schedule_after(self.progress), last_epoch)

    @property
    def in_warmup(self) -> bool:
        """Whether the next update belongs to warm-up."""
        end = self.progress.warmup_end
        return self.last_epoch < (self.warmup_iters if end is None else min(end, self.warmup_iters))

    def observe(self, metric: float) -> None:
        """Pass a metric to the plateau, after `step()`; the learning rates are set before it returns."""
        if self.plateau is not None and not self.in_warmup:
            patience = self.plateau.after(self.progress.patience, float(metric))
            self._go_to(replace(self.progress, patience=patience))

    def end_warmup(self) -> None:
        """End warm-up, after `step()`: the next update uses the full learning rate. No effect after warm-up."""
        if self.in_warmup:
            self._go_to(replace(self.progress, warmup_end=self.last_epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and the progress as numbers and None.

        Keys: last_epoch, warmup_end, best, num_bad, cooldown, num_reductions.
        """
        patience = self.progress.patience
        return {
            "last_epoch": self.last_epoch,
            "warmup_end": self.progress.warmup_end,
            "best": patience.best,
            "num_bad": patience.num_bad,
            "cooldown": patience.cooldown,
            "num_reductions": patience.reductions,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved iteration and progress; from the state of another schedule, its iteration.

        Raises:
            ValueError: "last_epoch" is not an integer of at least 0.
            KeyError: the progress is incomplete.
        """
        self.last_epoch = saved_iteration(state_dict)
        names = {"best": "best", "num_bad": "num_bad", "cooldown": "cooldown", "reductions": "num_reductions"}
        found = {name: state_dict[key] for name, key in names.items() if key in state_dict}
        missing = {"warmup_end", *names.values()} - state_dict.keys()
        if found and missing:
            raise KeyError(f"the scheduler's saved state lacks {', '.join(sorted(missing))}")
        self._go_to(Progress(state_dict.get("warmup_end"), Patience(**found)))

    def _go_to(self, progress: Progress) -> None:
        changed = progress.warmup_end != self.progress.warmup_end
        changed |= progress.patience.reductions != self.progress.patience.reductions
        self.progress = progress
        if changed:
            self.schedule = self.schedule_after(progress)
            self._bind()
        else:
            self._write()
