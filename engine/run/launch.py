"""Launch of a run in several processes, after its config has been checked once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.config import CfgNode, started_as

from ..distributed.launch import _endpoint, _meet_machines, _run_ranks, run_here
from ..distributed.process_group import check_devices
from ..distributed.rendezvous import Place
from .resolve import resolve_scaled
from .world_size_scaling import check_scaled


def launch(cfg: CfgNode, flags: Mapping[str, Any], argv: Sequence[str] | None = None) -> int:
    """Run this command in several processes and return its exit code when all have exited.

    When a process fails, all are ended. Signals are forwarded to them. Each runs the same command line, with its
    rank in environment variables.

    Args:
        cfg: not resolved; it is checked here, so that mistakes are reported once.
        flags: `LAUNCH_FLAGS` with their values, and --eval-only if the tool has it.
        argv: the arguments after the program's name; None: sys.argv.

    Raises:
        ConfigError: the config is invalid.
    """
    ranks, machines = flags["num_gpus"] or 1, flags["num_machines"] or 1
    check_devices(cfg, ranks)
    every = ranks * machines
    trains = not flags.get("eval_only")
    resolved = resolve_scaled(cfg, every, every, trains=trains)
    if trains and flags.get("resume") is None:  # else each process knows to how many processes the run is scaled
        check_scaled(cfg, resolved)
    argv = sys.argv[1:] if argv is None else argv
    words = [*started_as(argv), *argv]
    restarts, grace = cfg.DISTRIBUTED.MAX_RESTARTS, cfg.DISTRIBUTED.GRACE
    if machines == 1:
        return run_here(words, ranks, restarts, grace)
    store = _meet_machines(flags, cfg.DISTRIBUTED.TIMEOUT)
    place = Place(store, flags["machine_rank"], machines, *_endpoint(flags["dist_url"]))
    return _run_ranks(words, ranks, place, restarts, grace)
