"""The hook that passes metrics to a schedule that follows them."""

from __future__ import annotations

import logging

from warmstart.config import CfgNode, did_you_mean
from warmstart.data import named_test_sets
from warmstart.solver import PLATEAU, MetricLR, follows_metrics

from ..distributed import comm
from ..loop.hook import HookBase
from ..loop.trainer import Trainer

logger = logging.getLogger(__name__)


def build_metric_hook(cfg: CfgNode, watched: str) -> list[MetricHook]:
    """Return the hook that passes metrics to the schedule, if it follows any.

    Args:
        cfg: resolved.
        watched: the name, in records, of the metric that ReduceLROnPlateau watches.
    """
    if not follows_metrics(cfg):
        return []
    until, watches = cfg.SOLVER.WARMUP_UNTIL, cfg.SOLVER.LR_SCHEDULER_NAME == PLATEAU
    return [
        MetricHook(
            watched if watches else "",
            (until.METRIC, until.BELOW, until.ABOVE) if until.METRIC else None,
            tuple(f"{name}/" for name in named_test_sets(cfg)),
        )
    ]


class MetricHook(HookBase):
    """Passes the metric of each record to the scheduler, and ends its warm-up when a metric crosses a threshold.

    Args:
        metric: the name of the metric that ReduceLROnPlateau watches; "" for none.
        until: the name of the metric that ends warm-up, and the values below or above which it does (None: no such
            threshold).
        scores: prefixes of the names of scores, which only records with an evaluation hold.
    """

    period, takes = 0, "record"

    def __init__(
        self,
        metric: str,
        until: tuple[str, float | None, float | None] | None = None,
        scores: tuple[str, ...] = (),
    ) -> None:
        self.metric = metric
        self.until = until
        self.scores = scores
        self._missing = {name for name in (metric, until[0] if until else "") if name}

    def after_step(self, trainer: Trainer) -> None:
        """Look at this iteration's record."""
        scheduler = trainer.scheduler
        if not isinstance(scheduler, MetricLR):
            return
        record = trainer.record = comm.broadcast_object(trainer.record)  # scalars may differ between ranks
        if record.get("iteration") != trainer.iteration:  # after the last update, without a record of it
            return
        self._tell_missing(trainer)
        if self.metric in record:
            before, best = scheduler.get_last_lr(), scheduler.progress.patience.best
            scheduler.observe(record[self.metric])
            now = scheduler.get_last_lr()
            changes = [f"{float(a):g} -> {float(b):g}" for a, b in zip(before, now, strict=True) if a != b]
            if changes:
                logger.info(
                    "iteration %d: %s is %.4g and has not improved on %s: learning rate %s",
                    trainer.iteration,
                    self.metric,
                    record[self.metric],
                    "anything yet" if best is None else f"{best:.4g}",
                    ", ".join(dict.fromkeys(changes)),
                )
        if self.until and self.until[0] in record and scheduler.in_warmup:
            name, below, above = self.until
            value = record[name]
            if (below is not None and value < below) or (above is not None and value > above):
                scheduler.end_warmup()
                logger.info("warm-up ends at iteration %d: %s is %.4g", trainer.iteration, name, value)

    def after_train(self, trainer: Trainer) -> None:
        """Warn of metrics that no record had, unless the run was interrupted."""
        for name in sorted(self._missing) if not trainer.interrupted else ():
            logger.warning("no record had %s, so the schedule never followed it", name)

    def _tell_missing(self, trainer: Trainer) -> None:
        for name in sorted(self._missing):
            if name in trainer.record:
                self._missing.discard(name)
            elif not self._comes_later(name, trainer):
                hint = did_you_mean(name, trainer.record, f"; it has {', '.join(trainer.record)}", show=str)
                logger.warning("the schedule watches %s, which is not in the record%s", name, hint)
                self._missing.discard(name)

    def _comes_later(self, name: str, trainer: Trainer) -> bool:
        """Return whether `name` is a score of a test set of which this record has no scores."""
        own = tuple(test for test in self.scores if name.startswith(test))
        return bool(own) and not any(key.startswith(own) for key in trainer.record)
