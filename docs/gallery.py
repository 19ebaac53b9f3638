"""The script that draws every schedule and writes GALLERY.md with the keys of each picture.

    python docs/gallery.py [FOLDER]

FOLDER is docs/ by default; the pictures are written to FOLDER/gallery. A new schedule needs its keys in SETTINGS.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from PIL import Image

from warmstart.config import CfgNode, get_cfg
from warmstart.solver import (
    Curve,
    build_lr_scheduler,
    build_plan,
    plan_picture,
    register_lr_lambda,
    save_picture,
    schedule_names,
)

SIZE = (5.2, 2.9)  # inches; higher with the momentum below
COMMON = """\
MAX_ITER: 1000
BASE_LR: 0.1
WARMUP_ITERS: 50
"""
# The keys of SOLVER for the picture of each schedule, in addition to COMMON.
SETTINGS = {
    "WarmupMultiStepLR": "STEPS: [60%, 85%]\nGAMMA: 0.3",
    "WarmupCosineLR": "BASE_LR_END: 0.001",
    "WarmupStepWithFixedGammaLR": "NUM_DECAYS: 4\nGAMMA: 0.5",
    "WarmupPolyLR": "POLY_LR_POWER: 0.9\nPOLY_LR_CONSTANT_ENDING: 0.05",
    "WarmupStableDecayLR": "DECAY_ITERS: 30%\nDECAY_METHOD: sqrt",
    "ConstantLR": "LR_SCHEDULER_ARGS: {factor: 0.3, total_iters: 40%}",
    "CosineAnnealingLR": "LR_SCHEDULER_ARGS: {eta_min: 0.005}",
    "CosineAnnealingWarmRestarts": "LR_SCHEDULER_ARGS: {T_0: 136, T_mult: 2}",
    "CyclicLR": "LR_SCHEDULER_ARGS: {base_lr: 0.01, max_lr: 0.1, step_size_up: 95, mode: triangular2}",
    "ExponentialLR": "LR_SCHEDULER_ARGS: {gamma: 0.996}",
    "LambdaLR": "LR_SCHEDULER_ARGS: {lr_lambda: inverse_sqrt}",
    "LinearLR": "LR_SCHEDULER_ARGS: {start_factor: 1.0, end_factor: 0.05, total_iters: 80%}",
    "MultiStepLR": "LR_SCHEDULER_ARGS: {milestones: [50%, 75%], gamma: 0.3}",
    "MultiplicativeLR": "LR_SCHEDULER_ARGS: {lr_lambda: one_percent_less}",
    "OneCycleLR": "LR_SCHEDULER_ARGS: {max_lr: 0.1}",
    "PolynomialLR": "LR_SCHEDULER_ARGS: {total_iters: 90%, power: 2.0}",
    "StepLR": "LR_SCHEDULER_ARGS: {step_size: 20%, gamma: 0.5}",
    "SequentialLR": """\
LR_PHASES:
  - {NAME: ConstantLR, ARGS: {factor: 1.0}, UNTIL: 40%}
  - {NAME: CosineAnnealingLR, ARGS: {eta_min: 0.02}, UNTIL: 80%}
  - {NAME: ExponentialLR, ARGS: {gamma: 0.99}}""",
    "ChainedScheduler": """\
LR_FACTORS:
  - {NAME: CosineAnnealingLR}
  - {NAME: StepLR, ARGS: {step_size: 30%, gamma: 0.7}}""",
    "ReduceLROnPlateau": "LR_SCHEDULER_ARGS: {factor: 0.5, patience: 3}",
}
NOTES = {
    "LambdaLR": 'After `register_lr_lambda("inverse_sqrt", lambda t: (100 / (100 + t)) ** 0.5)`.',
    "MultiplicativeLR": 'After `register_lr_lambda("one_percent_less", lambda t: 0.99 if t % 5 == 0 else 1.0)`.',
    "ReduceLROnPlateau": "With a metric that is recorded every 25 updates and has its best value after 300.",
}
# Pictures of several curves: their common keys, and the keys of each curve by its name in the legend.
COMPARED = {
    "Warm-up methods": (
        "WARMUP_ITERS: 400\nWARMUP_FACTOR: 0.05\nSTEPS: []",
        {method: f"WARMUP_METHOD: {method}" for method in ("constant", "linear", "cosine", "exponential")},
    ),
    "Where warm-up meets the schedule": (
        "LR_SCHEDULER_NAME: WarmupCosineLR\nWARMUP_ITERS: 300",
        {
            "product": "WARMUP_BLEND: product",
            "interpolate": "WARMUP_BLEND: interpolate",
            "rescaled": "RESCALE_INTERVAL: true",
        },
    ),
}


def main(folder: Path) -> None:
    """Draw everything into `folder`."""
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    register_lr_lambda("inverse_sqrt", lambda t: (100 / (100 + t)) ** 0.5)
    register_lr_lambda("one_percent_less", lambda t: 0.99 if t % 5 == 0 else 1.0)
    sections = [HEAD.format(common=_indented(COMMON))]
    for name in schedule_names():
        if name not in SETTINGS:
            raise SystemExit(f"docs/gallery.py: add the keys that show {name} to SETTINGS")
        keys = f"LR_SCHEDULER_NAME: {name}\n{SETTINGS[name]}"
        cfg = config(keys)
        curves = [after_a_plateau(cfg)] if name == "ReduceLROnPlateau" else build_plan(cfg)
        sections.append(section(folder, name, curves, keys, NOTES.get(name, "")))
    for name, (shared, variants) in COMPARED.items():
        curves = [replace(build_plan(config(shared, keys))[0], name=label) for label, keys in variants.items()]
        note = f"One curve each: {', '.join(f'`{keys}`' for keys in variants.values())}."
        sections.append(section(folder, name, curves, shared, note))
    (folder / "GALLERY.md").write_text("\n".join(sections), encoding="utf-8")


HEAD = """\
# Every schedule, drawn

[SCHEDULES.md](SCHEDULES.md) has the formulas. To plot the schedule of your config:
`python tools/plot_lr.py --config-file x.yaml`.

All pictures on this page use these keys, and the keys below each picture:

```yaml
SOLVER:
{common}
```

`python docs/gallery.py` writes this page.
"""


def config(*texts: str) -> CfgNode:
    """Return a config with COMMON and the given keys of SOLVER."""
    cfg = get_cfg()
    for text in (COMMON, *texts):
        cfg.merge_from_other_cfg({"SOLVER": yaml.safe_load(text)})
    return cfg


def after_a_plateau(cfg: CfgNode) -> Curve:
    """Return the curve of a run whose metric improves for 300 updates and then stops improving."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates, falls = [], []
    for t in range(1, cfg.SOLVER.MAX_ITER + 1):
        rates.append(scheduler.lr_at(t - 1)[0])
        optimizer.step()
        scheduler.step()
        if t % 25 == 0 and t < cfg.SOLVER.MAX_ITER:
            scheduler.observe(1 / min(t, 300))
            falls += [t] if scheduler.lr_at(t)[0] < rates[-1] else []
    return Curve("default", len(rates), rates.__getitem__, warmup_end=cfg.SOLVER.WARMUP_ITERS, drops=tuple(falls))


def section(folder: Path, name: str, curves: list[Curve], keys: str, note: str) -> str:
    """Draw a picture and return its section of the page."""
    file = f"gallery/{name.replace(' ', '_')}.png"
    width, height = SIZE
    save_picture(plan_picture(curves, (width, height + any(curve.momentum for curve in curves))), folder / file)
    with Image.open(folder / file) as image:  # 64 colours are enough, at a third of the file size
        small = image.convert("RGB").quantize(64)
    small.save(folder / file, optimize=True)
    lines = [f"## {name}", "", f"![{name}]({file})", "", "```yaml", "SOLVER:", _indented(keys), "```", ""]
    return "\n".join([*lines, note, ""] if note else lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
