"""Find a learning rate for a config: a short run in which the learning rate grows until the loss diverges.

python tools/find_lr.py --config-file config/recipes/digits.yaml --iters 200

The result is a table and a picture of the loss over the learning rate; nothing is written to OUTPUT_DIR.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from warmstart.tools import interruptible

with interruptible(__name__):
    from warmstart.config import CfgNode, ConfigError, Flag, printable
    from warmstart.data import build_train_loader
    from warmstart.engine import (
        RangeTest,
        build_autocast,
        build_for_ranks,
        build_scaler,
        find_lr,
        init_from_data,
        prepare_torch,
        range_picture,
        read_command_line,
        refuse_ranks,
        resolve_config,
        run_tool,
        setup_logging,
    )
    from warmstart.solver import build_gradient_clipping, build_optimizer, new_picture, picture_path, save_picture
    from warmstart.tasks import build_task


def number(text: str) -> float:
    """Return a number from a command line."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number, such as 1e-5") from None


def count(text: str) -> int:
    """Return a whole number from a command line."""
    if not text.isdecimal():
        raise ValueError("expected a whole number, such as 100")
    return int(text)


FLAGS = (
    Flag("--min-lr", "one", "the first learning rate; default: 1e-7", convert=number),
    Flag("--max-lr", "one", "the last one, unless the loss diverges before; default: 10", convert=number),
    Flag("--iters", "one", "updates between the two; default: 100", convert=count),
    Flag(
        "--smooth",
        "one",
        "weight of a loss in the moving average; 1: no average; default: 0.05",
        convert=number,
    ),
    Flag(
        "--out",
        "one",
        "the picture, .png or .svg; default: find_lr.png in the current folder",
        convert=picture_path,
    ),
    Flag("--trust-checkpoint", "none", "read MODEL.WEIGHTS even if that can run code in it"),
)
# Schedules whose max_lr takes the place of BASE_LR.
_ABSOLUTE = ("CyclicLR", "OneCycleLR")
_ROWS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    refuse_ranks("find_lr.py runs in one process")
    flags, cfg = read_command_line(argv, FLAGS, "Find a learning rate for the model that a YAML file describes.")
    path = flags["out"] or new_picture("find_lr.png")
    setup_logging()
    cfg = resolve_config(cfg)
    names = ("min_lr", "max_lr", "iters", "smooth")
    limits = {name: flags[name] for name in names if flags[name] is not None}
    found = run_test(cfg, flags["trust_checkpoint"], **limits)
    try:
        save_picture(range_picture(found), path)
    except OSError as error:
        raise ConfigError(f"command line: --out {path}: cannot be written: {error.strerror}") from None
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    key = "SOLVER.LR_SCHEDULER_ARGS.max_lr" if name in _ABSOLUTE else "SOLVER.BASE_LR"
    print(f"{describe_test(found)}\n\nto use the first of them: {key} {found.steepest:.2g}")
    print(f"saved {printable(str(path))}")
    return 0


def run_test(cfg: CfgNode, trust: bool = False, **limits: float) -> RangeTest:
    """Return the range test of a config's model, optimizer and batches, without warm-up and schedule.

    Args:
        cfg: resolved.
        trust: whether to read MODEL.WEIGHTS even if that can run code in the file.
        limits: arguments of `find_lr`.
    """
    device, task = prepare_torch(cfg), build_task(cfg)
    model = build_for_ranks(cfg, trust, task=task).to(device)
    loader = build_train_loader(cfg, task)
    init_from_data(cfg, task, model, loader)
    with closing(loader.batches()) as batches:
        return find_lr(
            model,
            build_optimizer(cfg, model),
            batches,
            task,
            base_lr=cfg.SOLVER.BASE_LR,
            device=device,
            accum_steps=cfg.SOLVER.GRAD_ACCUM_STEPS,
            clip=build_gradient_clipping(cfg),
            scaler=build_scaler(cfg, model),
            autocast=build_autocast(cfg),
            **limits,  # type: ignore[arg-type]
        )


def describe_test(found: RangeTest) -> str:
    """Return a table of the loss at some learning rates, and suggestions."""
    last = len(found.rates) - 1
    lines = ["    rate      loss  smoothed"]
    for t in sorted({round(row * last / (_ROWS - 1)) for row in range(_ROWS)}):
        lines.append(f"{found.rates[t]:8.2g}  {found.losses[t]:8.4g}  {found.smoothed[t]:8.4g}")
    if found.burst:
        lines.append("then the loss diverged")
    elif found.lowest == found.rates[-1]:
        lines.append("the loss was still falling: a higher --max-lr would show more")
    lines += [
        "",
        f"the loss falls fastest at learning rate {found.steepest:.2g}",
        f"it is lowest at {found.lowest:.2g}; a tenth of that, {found.lowest / 10:.2g}, is another good start",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_tool(main)
