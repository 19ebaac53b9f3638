"""Error messages and their hints."""

from __future__ import annotations

import pickle

import pytest

from warmstart.config import ConfigError, get_cfg, unknown_name
from warmstart.config.errors import gathering, nearest, unknown_key

KEYS = list(get_cfg()._names())


@pytest.mark.need("F2")
@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("MODEL.WETGHTS", "did you mean MODEL.WEIGHTS?"),
        ("SOLVER.BASE_RL", "did you mean SOLVER.BASE_LR?"),
        ("SOLVR.BASE_LR", "did you mean SOLVER.BASE_LR?"),
        ("SOLVR", "did you mean SOLVER?"),
        ("solver.base_lr", "did you mean SOLVER.BASE_LR?"),
        ("SOLVER..BASE_LR", "did you mean SOLVER.BASE_LR?"),
        ("BASE_LR", "did you mean SOLVER.BASE_LR?"),
        ("gamma", "did you mean SOLVER.GAMMA?"),
        ("SOLVER.EVAL_PERIOD", "did you mean TEST.EVAL_PERIOD?"),
        ("IMS_PER_BATCH", "did you mean SOLVER.IMS_PER_BATCH or TEST.IMS_PER_BATCH?"),
        ("MODEL.ARG.depth", "did you mean MODEL.ARGS?"),
        ("MAX_EPOCHS", "a length in epochs is written SOLVER.MAX_ITER 90ep"),
        ("SOLVER._BASE_", "_BASE_ belongs at the top level of a file"),
        ("SOLVER.XYZ", "config/defaults.py lists all keys"),
        ("1", "config/defaults.py lists all keys"),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(key: str, hint: str) -> None:
    assert str(unknown_key("x.yaml:3", key, KEYS)) == f"x.yaml:3: unknown key {key}; {hint}"


def test_an_unknown_name_lists_the_known_ones_and_ends_its_sentence() -> None:
    known = ["SGD", "Adam"]
    near, far = unknown_name("K (x:1)", "optimizer", "adm", known), unknown_name("K", "optimizer", "zzz", known)
    assert str(near) == "K (x:1): no optimizer is called 'adm'; did you mean 'Adam'? Known: Adam, SGD"
    assert str(far) == "K: no optimizer is called 'zzz'. Known: Adam, SGD"


@pytest.mark.parametrize(
    ("name", "match"),
    [("adam", "Adam"), ("ADAM", "Adam"), ("Adamm", "Adam"), ("SDG", "SGD"), ("zebra", ""), ("", "")],
)
def test_nearest_ignores_case_and_finds_nothing_far(name: str, match: str) -> None:
    assert nearest(name, ["Adam", "SGD", "RMSprop"]) == match


def test_gathering_takes_config_errors_and_nothing_else() -> None:
    problems = ["zero"]
    with gathering(problems):
        raise ConfigError(["one", "two"])
    with pytest.raises(ValueError, match="other"), gathering(problems):
        raise ValueError("other")
    assert problems == ["zero", "one", "two"]


def test_config_error_can_be_pickled() -> None:
    error = ConfigError(["one", "two"])
    assert str(pickle.loads(pickle.dumps(error))) == "2 problems:\n  one\n  two"


def test_config_error_lists_the_first_of_many_problems() -> None:
    error = ConfigError([f"problem {n}" for n in range(1000)])
    assert len(error.problems) == 1000
    assert str(error).splitlines()[0] == "1000 problems:"
    assert str(error).splitlines()[-2:] == ["  problem 49", "  and 950 more"]
