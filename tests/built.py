"""What builds data, with the task that a config names: `build_train_loader(cfg)` and the like."""

from __future__ import annotations

from typing import Any

from warmstart import data
from warmstart.config import CfgNode
from warmstart.data import data_spec
from warmstart.tasks import Classification, build_task


def build_train_loader(cfg: CfgNode, *args: Any, **kwargs: Any) -> Any:
    return data.build_train_loader(cfg, build_task(cfg), *args, **kwargs)


def build_test_loader(cfg: CfgNode, *args: Any, **kwargs: Any) -> Any:
    return data.build_test_loader(cfg, build_task(cfg), *args, **kwargs)


def check_data(cfg: CfgNode, *args: Any, **kwargs: Any) -> None:
    data.check_data(cfg, data_spec(cfg), build_task(cfg), *args, **kwargs)


def choose_backend(cfg: CfgNode) -> str:
    return data.choose_backend(cfg, data_spec(cfg), build_task(cfg))


def describe_loader(cfg: CfgNode) -> str:
    return data.describe_loader(cfg, data_spec(cfg), build_task(cfg))


def classification(num_classes: int) -> Classification:
    return Classification(data.DatasetInfo(0, num_classes, 1, None))
