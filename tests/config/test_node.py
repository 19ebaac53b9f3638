"""The tree: declaring, merging in layers, sources, copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.config.fields import Float

Merged = Callable[..., CfgNode]


@pytest.mark.need("F2")
def test_everything_wrong_in_file_and_overrides_is_told_at_once(merged: Merged) -> None:
    text = "MODEL:\n  WETGHTS: a.pth\nSOLVER:\n  BASE_LR: fast\n  STEPS: [1, two]\n"
    with pytest.raises(ConfigError) as caught:
        merged(text, "SOLVER.GAMA", "1", "SEED", "-1")
    assert caught.value.problems == [
        "x.yaml:2: unknown key MODEL.WETGHTS; did you mean MODEL.WEIGHTS?",
        "SOLVER.BASE_LR (x.yaml:4): expected a number above 0; got 'fast' (for example: SOLVER.BASE_LR 0.001)",
        "SOLVER.STEPS (x.yaml:5): expected a list, each entry a number of iterations, 1 or more, or a string with "
        'a unit such as "90ep" or "5%"; got [1, \'two\'] (for example: SOLVER.STEPS [30000])',
        "override: unknown key SOLVER.GAMA; did you mean SOLVER.GAMMA?",
        "SEED (override): expected a whole number of at least 0 and at most 9223372036854775807; got '-1' "
        "(for example: SEED 1)",
    ]


def test_a_file_that_cannot_be_read_does_not_hide_wrong_overrides(merged: Merged) -> None:
    with pytest.raises(ConfigError, match=r"(?s)^2 problems:.*x.yaml:1: not valid YAML.*unknown key X;"):
        merged("a: b: c", "X=1")
    with pytest.raises(ConfigError, match=r"(?s)^2 problems:.*got '=3'.*unknown key X;"):
        merged("X: 1", "=3")


def test_a_merge_that_fails_changes_nothing() -> None:
    cfg = get_cfg()
    with pytest.raises(ConfigError, match="SEED"):
        cfg.merge_from_list(["SOLVER.GAMMA", "0.5", "SOLVER.OPTIMIZER", "Adam", "SEED", "x"])
    assert cfg == get_cfg()
    assert not cfg.is_set("SOLVER.GAMMA")


def test_a_key_given_twice_takes_the_last() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SEED", "1", "SEED=2", "SEED", "3"])
    assert cfg.SEED == 3


@pytest.mark.need("F7")
def test_each_value_knows_who_set_it(merged: Merged) -> None:
    cfg = merged("SOLVER:\n  GAMMA: 0.1\n  STEPS: [5]\n", "SOLVER.STEPS", "6", "MODEL.ARGS.a.b", "1")
    cfg.LOG_PERIOD = 7
    assert cfg.label("SOLVER.GAMMA") == "SOLVER.GAMMA (x.yaml:2)"
    assert cfg.label("SOLVER.STEPS") == "SOLVER.STEPS (override)"
    assert cfg.label("LOG_PERIOD") == "LOG_PERIOD (set in Python)"
    assert cfg.label("MODEL.ARGS.a.b") == "MODEL.ARGS.a.b (override)"
    assert cfg.MODEL.ARGS.label("a.b") == "a.b (override)"
    for key in ("SEED", "SOLVER", "SOLVER.NONE", "SOLVER.STEPS.0", "MODEL.ARGS.a", "NONE.NONE"):
        assert cfg.label(key) == key
        assert not cfg.is_set(key)
    assert cfg.is_set("SOLVER.GAMMA")  # to its default
    assert [tuple(d) for d in cfg.differences(get_cfg())] == [
        ("MODEL.ARGS.a.b", None, 1, "override"),
        ("SOLVER.STEPS", ("75%",), (6,), "override"),
        ("LOG_PERIOD", 20, 7, "set in Python"),
    ]


def test_differences_to_a_plain_dict_count_keys_of_either_side() -> None:
    ours = CfgNode({"A": 1, "B": {"C": 2}}).seal()
    assert [tuple(d) for d in ours.differences({"B": {"C": 3}, "D": 4})] == [
        ("A", None, 1, "defaults"),
        ("B.C", 3, 2, "defaults"),
        ("D", 4, None, "defaults"),
    ]
    assert ours.differences(ours.to_dict()) == []


@pytest.mark.parametrize("key", ["SOLVER", "SOLVER.BASE_LR", "SEED", "MODEL.ARGS", "MODEL.ARGS.any.thing"])
def test_has_key(key: str) -> None:
    assert get_cfg().has_key(key)


@pytest.mark.parametrize("key", ["", "x.pth", "SOLVER.LR", "SOLVER.BASE_LR.X", "SEED.", "solver"])
def test_has_not_key(key: str) -> None:
    assert not get_cfg().has_key(key)


@pytest.mark.parametrize(
    "overrides",
    [
        ["SOLVER.OPTIMIZER_ARGS", "{betas: [0.9, 0.95], eps: 1e-6}"],
        ["SOLVER.OPTIMIZER_ARGS", {"betas": [0.9, 0.95], "eps": 1e-6}],
        ["SOLVER.OPTIMIZER_ARGS={betas: [0.9, 0.95]}", "SOLVER.OPTIMIZER_ARGS.eps", "1e-6"],
        ["SOLVER.OPTIMIZER_ARGS.betas", "0.9,0.95", "SOLVER.OPTIMIZER_ARGS.eps=1e-6"],
        ["SOLVER.OPTIMIZER_ARGS.betas", "(0.9, 0.95)", "SOLVER", {"OPTIMIZER_ARGS": {"eps": 1e-6}}],
        ["SOLVER={OPTIMIZER_ARGS: {betas: [0.9, 0.95], eps: 1e-6}}"],
    ],
)
def test_open_arguments_in_many_forms(overrides: list[Any]) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(overrides)
    assert cfg.SOLVER.OPTIMIZER_ARGS.to_dict() == {"betas": [0.9, 0.95], "eps": 1e-6}
    assert cfg.is_set("SOLVER.OPTIMIZER_ARGS.eps")


def test_open_arguments_nest_and_replace() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.ARGS.a.b", "1", "MODEL.ARGS.a.c=", "MODEL.ARGS", "{1: 2, x.y: [{z: 3}]}"])
    assert cfg.MODEL.ARGS.to_dict() == {"a": {"b": 1, "c": None}, "1": 2, "x": {"y": [{"z": 3}]}}
    cfg.merge_from_list(["MODEL.ARGS.a", "4"])
    cfg.merge_from_list(["MODEL.ARGS.x.y.w", "text, more"])
    assert cfg.MODEL.ARGS.to_dict() == {"a": 4, "1": 2, "x": {"y": {"w": "text, more"}}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ARGS", "3"], r"MODEL.ARGS \(override\): expected keys with values, as MODEL.ARGS.NAME; got 3"),
        (["MODEL.ARGS.a", "[1, 2"], r"MODEL.ARGS.a \(override\): not a whole list or mapping: .*; got '\[1, 2'"),
        (["MODEL={ARGS: 1, NAME: x}"], r"MODEL.ARGS \(override\): expected keys with values"),
        (["SOLVER", "1"], r"SOLVER \(override\): expected keys with values, as SOLVER.OPTIMIZER; got 1"),
        (["SOLVER={BASE_LR: 1, X: 2}"], "override: unknown key SOLVER.X; config/defaults.py lists all keys"),
        (
            ["SOLVER.STEPS.0", "3"],
            "override: unknown key SOLVER.STEPS.0; SOLVER.STEPS expects a list, each entry ",
        ),
        (["_BASE_", "x.yaml"], "override: unknown key _BASE_; _BASE_ belongs at the top level of a file"),
    ],
)
def test_wrong_overrides(overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_cfg().merge_from_list(overrides)


BETAS = "SOLVER.OPTIMIZER_ARGS={betas: [0.8, 0.9]}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["SOLVER.OPTIMIZER", "AdamW"], {"eps": 1e-6}),
        (["SOLVER.GAMMA", "0.5"], {"eps": 1e-6}),
        (["SOLVER.OPTIMIZER", "SGD", "SOLVER.OPTIMIZER='AdamW'"], {"eps": 1e-6}),
        (["SOLVER.OPTIMIZER", "SGD"], {}),
        (["SOLVER={OPTIMIZER: SGD}"], {}),
        (["SOLVER.OPTIMIZER", "Adam", BETAS], {"betas": [0.8, 0.9]}),
        ([BETAS, "SOLVER.OPTIMIZER", "Adam"], {"betas": [0.8, 0.9]}),
        ([BETAS], {"eps": 1e-6, "betas": [0.8, 0.9]}),
        ([BETAS, "SOLVER.OPTIMIZER", "AdamW"], {"eps": 1e-6, "betas": [0.8, 0.9]}),
    ],
)
def test_a_new_name_drops_the_arguments_of_the_old_one(
    merged: Merged, overrides: list[str], expected: dict[str, Any]
) -> None:
    cfg = merged(
        "SOLVER:\n  OPTIMIZER_ARGS: {eps: 1e-6}\n  OPTIMIZER: AdamW\nMODEL.ARGS: {norm: group}\n", *overrides
    )
    assert cfg.SOLVER.OPTIMIZER_ARGS.to_dict() == expected
    assert cfg.is_set("SOLVER.OPTIMIZER_ARGS.eps") == ("eps" in expected)
    assert cfg.MODEL.ARGS.to_dict() == {"norm": "group"}


def test_a_new_name_in_a_file_drops_the_arguments_of_its_base(merged: Merged, write: Callable[..., str]) -> None:
    write("SOLVER: {OPTIMIZER: AdamW, OPTIMIZER_ARGS: {eps: 1e-6}}\n", "base.yaml")
    same = merged("_BASE_: base.yaml\nSOLVER: {OPTIMIZER_ARGS: {amsgrad: true}, OPTIMIZER: AdamW}\n")
    assert same.SOLVER.OPTIMIZER_ARGS.to_dict() == {"eps": 1e-6, "amsgrad": True}
    other = merged("_BASE_: base.yaml\nSOLVER: {OPTIMIZER_ARGS: {amsgrad: true}, OPTIMIZER: Adam}\n")
    assert other.SOLVER.OPTIMIZER_ARGS.to_dict() == {"amsgrad": True}


def test_what_is_set_in_python_is_checked_and_typed_too() -> None:
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 1
    cfg.SOLVER.STEPS = [5, 6]
    cfg.SOLVER.OPTIMIZER_ARGS = {"betas": (0.9, 0.95)}
    cfg.SOLVER.OPTIMIZER_ARGS = {"eps": 1e-6}
    cfg.SOLVER.OPTIMIZER_ARGS.amsgrad = True
    cfg.SOLVER = {"GAMMA": 0.5}
    assert isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.SOLVER.STEPS == (5, 6)
    assert cfg.SOLVER.OPTIMIZER_ARGS.to_dict() == {"eps": 1e-6, "amsgrad": True}
    assert (cfg.SOLVER.GAMMA, cfg.SOLVER.MOMENTUM) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("SOLVER", "BASE_LR", "x", r"^BASE_LR \(set in Python\): expected a number above 0; got 'x'"),
        ("SOLVER", "BASE_RL", 1, "^set in Python: unknown key BASE_RL; did you mean BASE_LR?"),
        ("SOLVER", "OPTIMIZER_ARGS", 1, r"^OPTIMIZER_ARGS \(set in Python\): expected keys with values"),
        (None, "SOLVER", 3, r"^SOLVER \(set in Python\): expected keys with values"),
        (None, "SOLVER", {"X": 3}, "^set in Python: unknown key SOLVER.X; "),
        (None, "SOLVER", CfgNode({"X": 3}), "^set in Python: unknown key SOLVER.X; "),
    ],
)
def test_what_is_wrong_in_python(section: str | None, name: str, value: Any, message: str) -> None:
    cfg = get_cfg()
    with pytest.raises(ConfigError, match=message):
        setattr(cfg[section] if section else cfg, name, value)


def test_users_add_sections_and_keys_of_their_own_after_seal() -> None:
    cfg = get_cfg()
    cfg.MINE = CfgNode({"NAMES": ("a",), "DEEP": {"ON": False}})
    cfg.MINE.FACTOR = Float(0.5, above=0)
    cfg.MINE.COUNT = 3
    cfg.SOLVER.MY_FACTOR = Float(1.0, above=0)
    cfg.merge_from_list(["MINE.NAMES", "b,c", "MINE.DEEP.ON", "true", "MINE.FACTOR", "1", "MINE.COUNT", "1e1"])
    assert cfg.MINE.to_dict() == {"NAMES": ("b", "c"), "DEEP": {"ON": True}, "FACTOR": 1.0, "COUNT": 10}
    with pytest.raises(
        ConfigError, match=r"MINE.FACTOR .*above 0(?s:.*)unknown key MINE.CONT; did you mean MINE.COUNT"
    ):
        cfg.merge_from_list(["MINE.FACTOR", "0", "MINE.CONT", "1"])


def test_no_switch_lets_any_key_in() -> None:
    with pytest.raises(TypeError, match="keys are declared one by one"):
        get_cfg().set_new_allowed(True)


def test_a_tree_or_a_dict_can_be_merged() -> None:
    cfg, other = get_cfg(), get_cfg()
    other.merge_from_list(["SOLVER.STEPS", "5%", "INPUT.TRANSFORMS_TRAIN", "A,{B: {c: 1}}", "MODEL.ARGS.a", "1"])
    cfg.merge_from_other_cfg(other)
    assert cfg == other
    cfg.merge_from_other_cfg({"SOLVER": {"STEPS": [3]}, "SEED": 1e3})
    assert (cfg.SOLVER.STEPS, cfg.SEED, cfg.source("SEED")) == ((3,), 1000, "merged config")
    with pytest.raises(ConfigError, match="^merged config: unknown key SOLVER.STEP; did you mean SOLVER.STEPS?"):
        cfg.merge_from_other_cfg({"SOLVER": {"STEP": [3]}})


RICH = [
    *("OUTPUT_DIR", "1e5", "MODEL.NAME", "0o17", "MODEL.WEIGHTS", "on", "MODEL.DEVICE", "null"),
    *("SOLVER.STEPS", "1,5%", "SOLVER.BASE_LR", "1e-10", "SOLVER.WEIGHT_DECAY_BIAS", "0", "INPUT.MEAN", "0.5"),
    *("INPUT.TRANSFORMS_TRAIN", "[A, {B: {c: 1, d: [1, 2]}}]", "DATASETS.TRAIN", "'a,b', c"),
    *("SOLVER.OPTIMIZER_ARGS", "{betas: [0.9, 0.95], s: '1e3', n: null, d: {e: 1e-8}}"),
]


def test_a_dump_merges_to_the_same_config(merged: Merged) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(RICH)
    text = cfg.dump()
    assert merged(text) == cfg
    assert [line for line in text.splitlines() if not line.startswith(" ")] == [
        *("MODEL:", "DATASETS:", "INPUT:", "DATALOADER:", "SOLVER:", "TEST:", "DISTRIBUTED:"),
        *("OUTPUT_DIR: '1e5'", "LOG_PERIOD: 20", "MEMORY_STATS: false", "PROFILER:", "SEED: 0"),
        *("PROFILE: auto", "CUDNN_BENCHMARK: null"),
    ]


@pytest.mark.parametrize(
    "copied", [CfgNode.clone, copy.deepcopy, copy.copy, lambda cfg: pickle.loads(pickle.dumps(cfg))]
)
def test_a_copy_is_whole(copied: Callable[[CfgNode], CfgNode]) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(RICH)
    cfg.freeze()
    other = copied(cfg)
    assert other == cfg
    assert other.is_frozen()
    assert other.label("SOLVER.STEPS") == "SOLVER.STEPS (override)"
    assert [(k, f.expected) for k, f in other.fields()] == [(k, f.expected) for k, f in cfg.fields()]
    other = copy.deepcopy(other)
    other.defrost()
    other.merge_from_list(["SOLVER.STEPS", "7", "SOLVER.OPTIMIZER", "Adam"])
    with pytest.raises(ConfigError, match="unknown key SEEED; did you mean SEED?"):
        other.SEEED = 3
    assert cfg.SOLVER.STEPS == (1, "5%")
    assert len(cfg.SOLVER.OPTIMIZER_ARGS) == 4


def test_a_frozen_config_takes_nothing() -> None:
    cfg = get_cfg()
    cfg.freeze()
    for change in (
        lambda: cfg.merge_from_list(["SEED", "1"]),
        lambda: cfg.merge_from_other_cfg({"SEED": 1}),
        lambda: setattr(cfg, "SEED", 1),
        lambda: setattr(cfg.SOLVER, "GAMMA", 1),
        lambda: setattr(cfg.MODEL.ARGS, "norm", "group"),
    ):
        with pytest.raises(AttributeError, match="the config is frozen"):
            change()
    assert cfg == get_cfg()
    cfg.defrost()
    cfg.merge_from_list(["SEED", "1"])
    assert cfg.SEED == 1


def test_yacs_users_find_what_they_know() -> None:
    cfg = get_cfg()
    assert isinstance(cfg, dict)
    assert "BASE_LR: 0.001" in str(cfg)
    assert not hasattr(cfg.SOLVER, "BASE_RL")
    with pytest.raises(AttributeError, match="BASE_RL"):
        _ = cfg.SOLVER.BASE_RL
