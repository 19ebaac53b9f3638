"""Starting the processes of a run, and knowing those that others have started."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from warmstart.config import CfgNode, ConfigError, Flag

from . import comm
from .resolve import resolve_config
from .scaling import scaled
from .signals import SIGNALS, signal_name


def _count(text: str) -> int:
    number = int(text) if text.isdigit() else -1
    if number < 0:
        raise ValueError("expected a whole number, such as 2")
    return number


LAUNCH_FLAGS = (
    Flag("--num-gpus", "one", "processes on this machine, one a GPU; cores with MODEL.DEVICE cpu", convert=_count),
    Flag("--num-machines", "one", "machines, each of which runs the same command", convert=_count),
    Flag("--machine-rank", "one", "which of them this is, from 0", convert=_count),
    Flag("--dist-url", "one", "where machine 0 listens: tcp://HOST:PORT"),
)


def wants_launch(flags: Mapping[str, Any]) -> bool:
    """Return whether the flags ask for processes that are still to be started.

    Raises:
        ConfigError: they contradict each other, or what has been started.
    """
    gpus, machines = flags["num_gpus"] or 0, flags["num_machines"] or 1
    if comm.is_rank():
        if gpus not in (0, comm.local_size()):
            raise ConfigError(
                f"command line: --num-gpus {gpus}: {comm.local_size()} processes have been started here already; "
                "leave it out"
            )
        return False
    if machines > 1 and (flags["machine_rank"] is None or not flags["dist_url"]):
        raise ConfigError(
            f"command line: --num-machines {machines} needs --machine-rank, from 0 to {machines - 1}, and "
            "--dist-url tcp://HOST:PORT of machine 0, the same on all"
        )
    if (flags["machine_rank"] or 0) >= machines:
        raise ConfigError(
            f"command line: --machine-rank {flags['machine_rank']}: the machines are 0 to {machines - 1}; "
            "--num-machines says how many they are"
        )
    if flags["dist_url"]:
        _endpoint(flags["dist_url"])
    return gpus > 1 or machines > 1


def launch(cfg: CfgNode, flags: Mapping[str, Any], argv: Sequence[str] | None = None) -> int:
    """Run this command in several processes and return its exit code, once all have ended.

    The first one that fails ends all. Signals go on to them. Each runs the same command line; the environment says
    which it is.

    Args:
        cfg: not resolved; checked here, so that what is wrong is said once.
        flags: those of `LAUNCH_FLAGS`, and --eval-only where the tool has it.
        argv: the words behind the program's name; None takes them from sys.argv.

    Raises:
        ConfigError: anything wrong with the config.
    """
    # Slow to import: only who starts processes pays.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    ranks, machines = flags["num_gpus"] or 1, flags["num_machines"] or 1
    comm.check_devices(cfg, ranks)
    every = ranks * machines
    resolve_config(scaled(cfg, every), every, given=cfg, trains=not flags.get("eval_only"))
    if machines == 1:
        # A port that is free, chosen where it is listened to: two runs never meet.
        place: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    else:
        rank = {"rank": flags["machine_rank"]}
        place = {"rdzv_backend": "static", "rdzv_endpoint": _endpoint(flags["dist_url"]), "rdzv_configs": rank}
    options = {
        "run_id": str(uuid4()) if machines == 1 else "warmstart",
        "max_restarts": cfg.DISTRIBUTED.MAX_RESTARTS,
        "signals_to_handle": ",".join(each.name for each in SIGNALS),
        "shutdown_timeout": cfg.DISTRIBUTED.GRACE,
    }
    known = {field.name for field in dataclasses.fields(LaunchConfig)}  # the last two came after torch 2.6
    options = {name: value for name, value in options.items() if name in known}
    config = LaunchConfig(min_nodes=machines, max_nodes=machines, nproc_per_node=ranks, **place, **options)
    words = [sys.argv[0], *(sys.argv[1:] if argv is None else argv)]
    logging.disable()  # what torch says of failures the ranks have said themselves
    try:
        elastic_launch(config, sys.executable)(*(word.replace("$", "$$") for word in words))  # $$ is its $
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        return _first_code({rank: failure.exitcode for rank, failure in error.failures.items()})
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _first_code(codes: Mapping[int, int]) -> int:
    """Return the exit code of the rank whose failure was the cause; where it was killed, say so.

    Args:
        codes: that of each rank that failed, negative after a signal.

    >>> _first_code({0: comm.LOST, 1: 3}), _first_code({0: 143, 1: 1})
    (3, 1)
    """
    # Last come those that have ended since another had; before them those that were killed, perhaps by torch.
    order = {comm.LOST: 2, 128 + signal.SIGTERM: 2, -signal.SIGTERM: 2, -signal.SIGKILL: 1}
    rank, code = min(codes.items(), key=lambda item: order.get(item[1], 0))
    if code < 0:
        with contextlib.suppress(OSError):
            print(f"error: rank {rank} was ended by {signal_name(-code)}", file=sys.stderr)
        return 128 - code
    return code


def _endpoint(url: str) -> str:
    """Return HOST:PORT of a URL.

    >>> _endpoint("tcp://node1:29500")
    'node1:29500'
    """
    match = re.fullmatch(r"(?:tcp://)?([^/:\s]+:\d+|\[[0-9a-fA-F:]+\]:\d+)", url)
    if not match:
        raise ConfigError(f"command line: --dist-url {url}: expected tcp://HOST:PORT, such as tcp://node1:29500")
    return match[1]


def adopt_slurm() -> None:
    """Make a task of SLURM's srun a rank: put into the environment what other launchers do."""
    os.environ.update(slurm_environment(os.environ))


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what makes one of several tasks of an srun a rank; {} where this is none, or a rank already.

    The first host of the step is where ranks meet, at a port that follows from the numbers of job and step.

    >>> environ = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    >>> environ |= {"SLURM_STEP_NODELIST": "gpu[07-08],big", "SLURM_STEP_TASKS_PER_NODE": "4,2"}
    >>> environ |= {"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "0"}
    >>> slurm_environment(environ)  # doctest: +NORMALIZE_WHITESPACE
    {'RANK': '5', 'WORLD_SIZE': '6', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': 'gpu07',
     'MASTER_PORT': '25567'}
    """
    # The script of a batch job has a number too; only srun has steps.
    if "RANK" in environ or "SLURM_STEP_NODELIST" not in environ or int(environ.get("SLURM_NTASKS", "1")) < 2:
        return {}
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", environ["SLURM_STEP_NODELIST"])
    assert first, "a list of nodes begins with a name"
    sizes: list[int] = []
    for size, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ["SLURM_STEP_TASKS_PER_NODE"]):  # 4(x2),1
        sizes += [int(size)] * int(times or 1)
    # Below the ports that systems give to whoever asks for any.
    port = 15000 + (int(environ["SLURM_JOB_ID"]) + int(environ.get("SLURM_STEP_ID", "0"))) % 17000
    found = {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_NTASKS"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(sizes[int(environ["SLURM_NODEID"])]),
        "MASTER_ADDR": first[1] + (first[2] or ""),
        "MASTER_PORT": str(port),
    }
    if "SLURM_GPUS_PER_TASK" in environ:  # each sees its own only
        found |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    if "SLURM_CPUS_PER_TASK" in environ:
        found["OMP_NUM_THREADS"] = environ.get("OMP_NUM_THREADS", environ["SLURM_CPUS_PER_TASK"])
    return found
