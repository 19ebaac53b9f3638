"""Incompatible options for several ranks, refused before anything is built."""

from __future__ import annotations

import pytest
from torch import nn

from warmstart.config import ConfigError, get_cfg
from warmstart.engine import resolve_config
from warmstart.engine.distributed import build
from warmstart.engine.distributed.build import check_wrap

AMP = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "fp16"]


@pytest.mark.parametrize(
    ("words", "key", "advice"),
    [
        (["MODEL.COMPILE", "default"], "MODEL.COMPILE", 'set it to ""'),
        (AMP, "SOLVER.AMP.PRECISION", "set it to bf16"),
        (["SOLVER.OPTIMIZER", "Muon"], "SOLVER.OPTIMIZER", "Muon needs unsharded tensors; take AdamW or SGD"),
        (["SOLVER.OPTIMIZER", "Rprop"], "SOLVER.OPTIMIZER", "Rprop needs unsharded tensors; take AdamW or SGD"),
    ],
)
def test_resolve_config_refuses_options_that_fsdp_does_not_support(
    words: list[object], key: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SHARDS_ON_CPU", True)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.PARALLEL", "fsdp", *words])
    resolve_config(cfg)  # one process holds the full model
    with pytest.raises(ConfigError) as error:
        resolve_config(cfg, 2)
    assert str(error.value) == f"{key} (override): does not go together with MODEL.PARALLEL fsdp; {advice}"


def test_resolve_config_refuses_fsdp_on_a_cpu_with_an_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SHARDS_ON_CPU", False)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.PARALLEL", "fsdp", "MODEL.DEVICE", "cpu"])
    resolve_config(cfg)
    with pytest.raises(ConfigError, match="fsdp on a CPU needs torch 2.7 or later, .*; set it to ddp"):
        resolve_config(cfg, 2)


def test_check_wrap_names_an_unknown_class_and_those_of_the_model() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NAME", "mine", "MODEL.FSDP.WRAP", ["Linaer"]])
    with pytest.raises(ConfigError) as error:
        check_wrap(cfg, nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)))
    assert str(error.value) == (
        "MODEL.FSDP.WRAP (override): mine has no module of class Linaer; did you mean Linear?"
    )
    cfg.merge_from_list(["MODEL.FSDP.WRAP", ["Block"]])
    with pytest.raises(ConfigError, match="no module of class Block; it has BatchNorm1d, Linear"):
        check_wrap(cfg, nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)))
