"""The declared keys, their defaults and the recipes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from warmstart.config import defaults, get_cfg, resolve_durations

ROOT = Path(__file__).parent.parent.parent
SOURCE = inspect.getsource(defaults.get_cfg)
KEYS = [key for key, _ in get_cfg().fields()]


def test_two_configs_share_nothing() -> None:
    one, two = get_cfg(), get_cfg()
    one.merge_from_list(["SEED", "1", "MODEL.ARGS.a", "1", "SOLVER.STEPS", "7"])
    assert two == get_cfg()
    assert not two.is_set("SEED")


def test_every_example_in_a_message_is_a_value_that_its_key_takes() -> None:
    cfg = get_cfg()
    for key, field in cfg.fields():
        cfg.merge_from_list([key, field.example])


def test_every_default_round_trips_and_resolves() -> None:
    cfg = get_cfg()
    cfg.merge_from_other_cfg(get_cfg())
    assert cfg == get_cfg()
    assert resolve_durations(cfg).SOLVER.WARMUP_ITERS == 1000


@pytest.mark.need("B10")
def test_every_key_has_a_comment_above_it_or_shares_one() -> None:
    lines = SOURCE.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\s+cfg\.[A-Z.]+\.?[A-Z_]+ = (?!CfgNode)", line):
            above = lines[number - 1].strip()
            assert above.startswith(("#", "cfg.")), f"no comment above {line.strip()}"


def test_get_cfg_has_the_names_of_detectron2() -> None:
    assert {
        *("SOLVER.LR_SCHEDULER_NAME", "SOLVER.BASE_LR", "SOLVER.BASE_LR_END", "SOLVER.MAX_ITER", "SOLVER.STEPS"),
        *("SOLVER.GAMMA", "SOLVER.NUM_DECAYS", "SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_ITERS"),
        *("SOLVER.WARMUP_METHOD", "SOLVER.RESCALE_INTERVAL", "SOLVER.MOMENTUM", "SOLVER.NESTEROV"),
        *("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.BIAS_LR_FACTOR"),
        *("SOLVER.IMS_PER_BATCH", "SOLVER.CHECKPOINT_PERIOD", "MODEL.DEVICE", "MODEL.WEIGHTS", "DATASETS.TRAIN"),
        *("DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD", "DATALOADER.REPEAT_SQRT"),
        *("DATALOADER.ASPECT_RATIO_GROUPING", "DATALOADER.NUM_WORKERS"),
        *("DATASETS.TEST", "TEST.EVAL_PERIOD", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK"),
    } <= set(KEYS)


RECIPES = sorted((ROOT / "config" / "recipes").glob("*.yaml"))


# A published schedule of COCO has a warm-up of 1,000 updates, whatever the length.
@pytest.mark.parametrize(
    "path", [path for path in RECIPES if not path.name.startswith("coco_")], ids=lambda path: path.name
)
def test_recipes_merge_and_run_at_any_length(path: Path) -> None:
    for max_iter in (20, 1000):
        cfg = get_cfg()
        cfg.merge(f"recipe:{path.name}", ["SOLVER.MAX_ITER", max_iter])
        solver = resolve_durations(cfg, 100).SOLVER
        assert max_iter == solver.MAX_ITER > solver.WARMUP_ITERS
        assert list(solver.STEPS) == sorted(set(solver.STEPS))
