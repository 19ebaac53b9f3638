"""Starting the processes of a run, and knowing those that others have started."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from torch.distributed.distributed_c10d import Store

from warmstart.config import CfgNode, ConfigError, Flag
from warmstart.data import OWN_CORES, OWN_DEVICE

from . import comm
from .meeting import meet
from .resolve import resolve_config
from .scaling import scaled
from .signals import LAUNCHER_SIGNALS, is_heard


def _count(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise ValueError("expected a whole number from 1, such as 2")
    return number


def _number(text: str) -> int:
    if not text.isdigit():
        raise ValueError("expected a whole number from 0, such as 1")
    return int(text)


LAUNCH_FLAGS = (
    Flag("--num-gpus", "one", "processes on this machine, one a GPU; cores with MODEL.DEVICE cpu", convert=_count),
    Flag("--num-machines", "one", "machines, each of which runs the same command", convert=_count),
    Flag("--machine-rank", "one", "which of them this is, from 0", convert=_number),
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
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from .agent import Agent, exit_code

    ranks, machines = flags["num_gpus"] or 1, flags["num_machines"] or 1
    comm.check_devices(cfg, ranks)
    every = ranks * machines
    resolve_config(scaled(cfg, every), every, given=cfg, trains=not flags.get("eval_only"))
    store = None
    if machines == 1:
        # A port that is free, chosen where it is listened to: two runs never meet.
        meeting = RendezvousParameters("c10d", "localhost:0", str(uuid4()), 1, 1, local_addr="localhost")
    else:
        store = _meet_machines(flags, cfg.DISTRIBUTED.TIMEOUT)  # the server, which torch's own store will share
        endpoint = flags["dist_url"].removeprefix("tcp://")
        rank = flags["machine_rank"]
        meeting = RendezvousParameters("static", endpoint, "warmstart", machines, machines, rank=rank)
    words = [sys.argv[0], *(sys.argv[1:] if argv is None else argv)]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(
        each.name for each in LAUNCHER_SIGNALS if is_heard(each)
    )
    logging.disable()  # what torch says of failures the ranks have said themselves
    try:
        spec = WorkerSpec(
            role="rank",
            local_world_size=ranks,
            entrypoint=sys.executable,
            args=tuple(word.replace("$", "$$") for word in words),  # $$ is its $
            rdzv_handler=get_rendezvous_handler(meeting),
            max_restarts=cfg.DISTRIBUTED.MAX_RESTARTS,
            local_addr=meeting.local_addr,
        )
        agent = Agent(spec, cfg.DISTRIBUTED.GRACE)
        failed = agent.run().is_failed()
        spec.rdzv_handler.shutdown()
    except SignalException as error:
        return 128 + error.sigval
    finally:
        logging.disable(logging.NOTSET)
        del store
    return exit_code(agent.codes) if failed else 0


def _meet_machines(flags: Mapping[str, Any], timeout: float) -> Store:
    """Wait until all machines are there; return the store in which they are.

    Raises:
        ConfigError: the port is taken.
        LateError: not all came in time.
    """
    host, port = _endpoint(flags["dist_url"])
    serves, count = flags["machine_rank"] == 0, flags["num_machines"]
    try:
        return meet(host, port, serves=serves, count=count, who="machines", timeout=timeout, prefix="machines")
    except ConfigError as error:
        raise ConfigError(f"command line: --dist-url {flags['dist_url']}: {error}") from None


def _endpoint(url: str) -> tuple[str, int]:
    """Return host and port of a URL.

    >>> _endpoint("tcp://node1:29500"), _endpoint("[::1]:29500")
    (('node1', 29500), ('::1', 29500))
    """
    match = re.fullmatch(r"(?:tcp://)?(?:([^/:\s]+)|\[([0-9a-fA-F:]+)\]):(\d+)", url)
    if not match or not 0 < int(match[3]) < 2**16:
        raise ConfigError(
            f"command line: --dist-url {url}: expected tcp://HOST:PORT, such as tcp://node1:29500, with a port "
            "from 1 to 65535"
        )
    return match[1] or match[2], int(match[3])


def adopt_slurm() -> None:
    """Make a task of SLURM's srun a rank: put into the environment what other launchers do."""
    os.environ.update(slurm_environment(os.environ))


def refuse_ranks(tool: str) -> None:
    """Raise ConfigError where a launcher has started several of a tool that is one process.

    Args:
        tool: what to call it, and where there is one what to take instead.
    """
    adopt_slurm()
    if comm.is_rank():
        raise ConfigError(f"{tool}, and {os.environ['WORLD_SIZE']} were started: leave torchrun or srun out")


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what makes one of several tasks of an srun a rank; {} where this is none, or a rank already.

    The first host of the step is where ranks meet, at a port that follows from the numbers of job and step.

    >>> environ = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    >>> environ |= {"SLURM_STEP_NODELIST": "rack[1-2]gpu[07-08],big", "SLURM_STEP_TASKS_PER_NODE": "4,2"}
    >>> environ |= {"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "0"}
    >>> slurm_environment(environ)  # doctest: +NORMALIZE_WHITESPACE
    {'RANK': '5', 'WORLD_SIZE': '6', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR':
     'rack1gpu07', 'MASTER_PORT': '25567'}
    """
    # The script of a batch job has a number too; only srun has steps. The shell that salloc opens is a step of one
    # task, beside which the job's number of tasks stands.
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    if "RANK" in environ or "SLURM_STEP_NODELIST" not in environ or int(tasks) < 2:
        return {}
    # Up to a comma outside of brackets.
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", environ["SLURM_STEP_NODELIST"])
    assert first, "a list of nodes begins with a name"
    sizes: list[int] = []
    for size, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ["SLURM_STEP_TASKS_PER_NODE"]):  # 4(x2),1
        sizes += [int(size)] * int(times or 1)
    # Below the ports that systems give to whoever asks for any.
    port = 15000 + (int(environ["SLURM_JOB_ID"]) + int(environ.get("SLURM_STEP_ID", "0"))) % 17000
    found = {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(sizes[int(environ["SLURM_NODEID"])]),
        "MASTER_ADDR": re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0]),
        "MASTER_PORT": str(port),
    }
    if "SLURM_GPUS_PER_TASK" in environ:  # each sees its own only
        found[OWN_DEVICE] = "0"
    if "SLURM_CPUS_PER_TASK" in environ:
        found[OWN_CORES] = environ["SLURM_CPUS_PER_TASK"]
    return found
