"""Draw the learning rate of every update that configs describe, and print it as a table; nothing is trained.

python tools/plot_lr.py --config-file config/recipes/digits.yaml --config-file mine.yaml SOLVER.BASE_LR 0.05
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from warmstart.tools import interruptible, table

with interruptible(__name__):
    from warmstart.config import CfgNode, ConfigError, Flag, printable, resolve_durations
    from warmstart.data import train_info
    from warmstart.engine import read_configs, refuse_ranks, run_tool
    from warmstart.solver import (
        Curve,
        ascii_plot,
        build_plan,
        describe_drops,
        follows_metrics,
        new_picture,
        picture_path,
        plan_picture,
        save_picture,
    )


def dataset_size(text: str) -> int:
    """Return the value of --dataset-size.

    >>> dataset_size("1437")
    1437
    """
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("expected the number of training samples, 1 or more")
    return int(text)


FLAGS = (
    Flag("--out", "one", "the picture, .png or .svg; default: lr.png in the current folder", convert=picture_path),
    Flag("--ascii", "none", "draw in the terminal instead"),
    Flag(
        "--dataset-size",
        "one",
        "number of training samples, for lengths in epochs if the data set is not available",
        convert=dataset_size,
    ),
)
_SHOWN_DROPS = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    refuse_ranks("plot_lr.py runs in one process")
    flags, cfgs = read_configs(argv, FLAGS, "Draw the learning rate that YAML files describe, and print it.")
    if flags["ascii"] and flags["out"]:
        raise ConfigError("command line: --ascii draws in the terminal, so --out has no meaning; give one of them")
    names = config_names(flags["config_file"])
    plans = [build_plan(cfg, length_of_epoch(cfg, flags["dataset_size"])) for cfg in cfgs]
    curves = [
        curve for name, plan in zip(names, plans, strict=True) for curve in named(plan, name, len(plans) > 1)
    ]
    if flags["ascii"]:
        picture = ascii_plot(curves)
    else:
        path = flags["out"] or new_picture("lr.png")
        try:
            save_picture(plan_picture(curves), path)
        except OSError as error:
            raise ConfigError(f"command line: --out {path}: cannot be written: {error.strerror}") from None
        picture = f"saved {path}"
    print(describe_curves(curves))
    for name, cfg, plan in zip(names, cfgs, plans, strict=True):
        print(f"\n{name}\n{describe_posts(plan)}")
        if follows_metrics(cfg):
            print("this schedule follows metrics; it is drawn as if there were none")
    print(f"\n{picture}")
    return 0


def config_names(files: Sequence[str]) -> list[str]:
    """Return a short name for each config: of its file, with the folder only if two names would be equal.

    >>> config_names(["runs/a.yaml", "runs/b.yaml"]), config_names(["x/a.yaml", "y/a.yaml"]), config_names([])
    (['a.yaml', 'b.yaml'], ['x/a.yaml', 'y/a.yaml'], ['defaults'])
    """
    short = [Path(file).name for file in files]
    return [printable(name) for name in (short if len({*short}) == len(short) else files)] or ["defaults"]


def named(plan: Sequence[Curve], name: str, several: bool) -> list[Curve]:
    """Return the curves of a config under names that are unique in the picture.

    Args:
        plan: the curves, with the names of parameter groups.
        name: of the config.
        several: whether there are other configs.
    """
    if len(plan) == 1:
        return [replace(plan[0], name=name)]
    return [replace(curve, name=f"{name}: {curve.name}") for curve in plan] if several else list(plan)


def length_of_epoch(cfg: CfgNode, size: int | None) -> Fraction | None:
    """Return len(data set) / IMS_PER_BATCH; None if no length is in epochs and no size is given.

    Raises:
        ConfigError: the size is needed, and neither given nor known.
    """
    # Two lengths of an epoch result in two different configs exactly if some length is in epochs.
    resolved = (resolve_durations(cfg, length) for length in (10**6, 10**7))
    if size is None and cfg.SOLVER.LR_STEP_UNIT != "epoch" and len({one.dump() for one in resolved}) == 1:
        return None
    try:
        size = size or train_info(cfg).size
    except ConfigError as error:
        raise ConfigError(f"{error}; or give its number of training samples: --dataset-size N") from None
    return Fraction(size, cfg.SOLVER.IMS_PER_BATCH)


def describe_curves(curves: Sequence[Curve]) -> str:
    """Return one line per curve: its length, its turning points, its learning rates.

    >>> print(describe_curves([Curve("x.yaml", 800, lambda t: 0.1 if t < 536 else 0.01, drops=(536,))]))
            iterations  warm-up ends at  drops at  peak rate  first update  last update
    x.yaml         800                -       536        0.1           0.1         0.01
    """
    rows = [["", "iterations", "warm-up ends at", "drops at", "peak rate", "first update", "last update"]]
    for curve in curves:
        rates = (curve.rate(t) for t in (curve.peak(_sampled(curves)), 0, curve.length - 1))
        turns = [f"{curve.warmup_end:,}" if curve.warmup_end else "-"]
        turns.append(describe_drops(curve.drops, _SHOWN_DROPS) or "-")
        rows.append([curve.name, f"{curve.length:,}", *turns, *(f"{rate:.4g}" for rate in rates)])
    return table(rows)


def _sampled(curves: Sequence[Curve]) -> int:
    """Return how many iterations are searched for the peak of each curve."""
    return max(100_000 // len(curves), 1000)


def describe_posts(plan: Sequence[Curve]) -> str:
    """Return one line for each update at which the curve turns: the learning rate in each group.

    >>> print(describe_posts([Curve("x.yaml", 800, lambda t: 0.1 if t < 536 else 0.01, drops=(536,))]))
    update  rate
         0   0.1  first update, highest
       536  0.01  drop
       799  0.01  last update
       800  0.01  past the end
    """
    what: dict[int, list[str]] = {0: ["first update"]}
    for curve in plan:
        turns = dict.fromkeys(curve.drops[:_SHOWN_DROPS], "drop")
        if curve.warmup_end:
            turns |= {curve.warmup_end - 1: "last of warm-up", curve.warmup_end: "first after warm-up"}
        for t, text in (*turns.items(), (curve.peak(_sampled(plan)), "highest")):
            what.setdefault(t, []).append(text)
    length = plan[0].length
    what.setdefault(length - 1, []).append("last update")
    what.setdefault(length, []).append("past the end")
    columns = {curve.name if len(plan) > 1 else "rate": curve.rate for curve in plan}
    for curve in plan:
        if curve.momentum is not None:
            columns[f"{curve.name} momentum" if len(plan) > 1 else "momentum"] = curve.momentum
    rows = [["update", *columns, ""]]
    for t in sorted(what):
        values = [f"{schedule(t):.4g}" for schedule in columns.values()]
        rows.append([f"{t:,}", *values, ", ".join(dict.fromkeys(what[t]))])
    return table(rows, text=-1)


if __name__ == "__main__":
    run_tool(main)
