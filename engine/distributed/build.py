"""The strategy that a config asks for."""

from __future__ import annotations

import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError

from ..runtime.device import build_device
from . import comm
from .ddp import DDP
from .fsdp import FSDP2, SHARDS_ON_CPU, modules_to_wrap
from .strategy import SingleProcess, Strategy

_NOT_SHARDED = ("Adafactor", "Muon", "Rprop")  # optimizers that compute with complete tensors


def build_strategy(cfg: CfgNode) -> Strategy:
    """Return how the ranks of this run share a model; cheap, and without waiting for another rank.

    Args:
        cfg: resolved.
    """
    if comm.world_size() == 1:
        return SingleProcess()
    bf16_gradients = cfg.DISTRIBUTED.GRADIENTS == "bf16"
    if cfg.MODEL.PARALLEL == "fsdp":
        options = cfg.MODEL.FSDP
        return FSDP2(
            build_device(cfg),
            options.WRAP,
            sync_bn=cfg.MODEL.SYNC_BN,
            compute=torch.bfloat16 if options.PRECISION == "bf16" else None,
            reduce=torch.bfloat16 if bf16_gradients else torch.float32,
            reshard=options.RESHARD_AFTER_FORWARD,
            offload=options.CPU_OFFLOAD,
            label=f"{cfg.label('MODEL.PARALLEL')}: torch cannot shard {cfg.MODEL.NAME}",
            wrap_label=f"{cfg.label('MODEL.FSDP.WRAP')}: {cfg.MODEL.NAME}",
        )
    or_static = ", or, if they never get one, DISTRIBUTED.STATIC_GRAPH" if cfg.SOLVER.GRAD_ACCUM_STEPS == 1 else ""
    return DDP(
        sync_bn=cfg.MODEL.SYNC_BN,
        static_graph=cfg.DISTRIBUTED.STATIC_GRAPH,
        unused_parameters=cfg.DISTRIBUTED.UNUSED_PARAMETERS,
        bf16_gradients=bf16_gradients,
        label=cfg.label("DISTRIBUTED.UNUSED_PARAMETERS"),
        fix=f"set it to true{or_static}",
    )


def check_parallel(cfg: CfgNode, ranks: int) -> None:
    """Raise ConfigError if keys ask for something that several ranks cannot do.

    Args:
        cfg: resolved.
        ranks: of the run.
    """
    if ranks == 1:
        return
    if cfg.MODEL.SYNC_BN and build_device(cfg).type == "cpu":
        raise ConfigError(
            f"{cfg.label('MODEL.SYNC_BN')}: torch synchronises BatchNorm on CUDA devices only; set it to false"
        )
    if cfg.DISTRIBUTED.STATIC_GRAPH and cfg.SOLVER.GRAD_ACCUM_STEPS > 1:
        raise ConfigError(
            f"{cfg.label('DISTRIBUTED.STATIC_GRAPH')}: torch has no static graph with accumulation; set it to "
            "false, or SOLVER.GRAD_ACCUM_STEPS to 1"
        )
    if cfg.DISTRIBUTED.STATIC_GRAPH and cfg.DISTRIBUTED.UNUSED_PARAMETERS:
        raise ConfigError(
            f"{cfg.label('DISTRIBUTED.UNUSED_PARAMETERS')}: with DISTRIBUTED.STATIC_GRAPH torch finds once which "
            "parameters get no gradient; set one of the two to false"
        )
    if cfg.MODEL.PARALLEL == "fsdp":
        check_fsdp(cfg)


def check_fsdp(cfg: CfgNode) -> None:
    """Raise ConfigError if keys ask for something that a sharded model, or this torch with one, cannot do."""
    if build_device(cfg).type == "cpu" and not SHARDS_ON_CPU:
        raise ConfigError(
            f"{cfg.label('MODEL.PARALLEL')}: fsdp on a CPU needs torch 2.7 or later, and this is "
            f"{torch.__version__}; set it to ddp"
        )
    amp, optimizer = cfg.SOLVER.AMP, cfg.SOLVER.OPTIMIZER
    contradictions = (
        ("MODEL.COMPILE", bool(cfg.MODEL.COMPILE), 'set it to ""'),
        ("TEST.LOSSES", cfg.TEST.LOSSES, "set it to false"),
        ("SOLVER.AMP.PRECISION", amp.ENABLED and amp.PRECISION == "fp16", "set it to bf16"),
        ("SOLVER.OPTIMIZER", optimizer in _NOT_SHARDED, f"{optimizer} needs unsharded tensors; take AdamW or SGD"),
    )
    for key, contradicts, advice in contradictions:
        if contradicts:
            raise ConfigError(f"{cfg.label(key)}: does not go together with MODEL.PARALLEL fsdp; {advice}")


def check_wrap(cfg: CfgNode, model: nn.Module) -> list[nn.Module]:
    """Return the modules of the classes that MODEL.FSDP.WRAP names, outer ones before those within them.

    Raises:
        ConfigError: the model has no module of a class.
    """
    return modules_to_wrap(model, cfg.MODEL.FSDP.WRAP, f"{cfg.label('MODEL.FSDP.WRAP')}: {cfg.MODEL.NAME}")
