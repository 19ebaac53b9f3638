"""Launching of the processes of a run, and recognition of those that another launcher has started."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from warmstart.config import ConfigError, Flag

from ..runtime.signals import LAUNCHER_SIGNALS, is_heard
from .environment import FILE, check_environment, is_rank, local_size, slurm_environment
from .rendezvous import Participants, Place, rendezvous


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
    """Return whether the flags ask for processes that this one must start.

    Raises:
        ConfigError: the flags contradict each other, or the processes that a launcher has started.
    """
    gpus, machines = flags["num_gpus"] or 0, flags["num_machines"] or 1
    if is_rank():
        if gpus not in (0, local_size()):
            raise ConfigError(
                f"command line: --num-gpus {gpus}: a launcher has already started {local_size()} processes here; "
                "leave the flag out"
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
            "--num-machines sets their number"
        )
    if flags["dist_url"]:
        _endpoint(flags["dist_url"])
    return gpus > 1 or machines > 1


def run_here(words: Sequence[str], ranks: int, restarts: int = 0, grace: float = 1) -> int:
    """Run a Python command in several processes on this machine; return its exit code when all have exited.

    The ranks rendezvous through a file that no other user can open; the launcher's own store is private.

    Args:
        words: the command line after the name of the interpreter.
        ranks: the number of processes.
        restarts: how often all ranks are restarted after one has failed.
        grace: seconds in which ranks must exit after a signal.
    """
    with _own_folder() as folder:
        alone: Store = dist.HashStore()  # type: ignore[attr-defined]
        return _run_ranks(words, ranks, Place(alone, 0, 1, f"{FILE}{folder}/store", 0), restarts, grace)


def _own_folder() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix="warmstart_")
    except OSError as error:
        raise ConfigError(
            f"the processes need a temporary folder for their rendezvous: {error.strerror}; set TMPDIR to a "
            "writable folder"
        ) from None


def _run_ranks(words: Sequence[str], ranks: int, place: Place, restarts: int, grace: float) -> int:
    """Run a command in processes that rendezvous at `place`; return the exit code of the first failure, or 0."""
    # Imported here because it is slow, and needed only to start processes.
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import SignalException

    from .elastic_agent import Agent, Rendezvous, exit_code

    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(
        each.name for each in LAUNCHER_SIGNALS if is_heard(each)
    )
    logging.disable()  # torch would log failures that the ranks have printed themselves
    try:
        spec = WorkerSpec(
            role="rank",
            local_world_size=ranks,
            entrypoint=sys.executable,
            args=tuple(word.replace("$", "$$") for word in words),  # $$ is its $
            rdzv_handler=Rendezvous(place),
            max_restarts=restarts,
        )
        agent = Agent(spec, grace)
        failed = agent.run().is_failed()
    except SignalException as error:
        return 128 + error.sigval
    finally:
        logging.disable(logging.NOTSET)
    return exit_code(agent.codes) if failed else 0


def _meet_machines(flags: Mapping[str, Any], timeout: float) -> Store:
    """Wait until all machines have joined the rendezvous; return its store.

    Raises:
        ConfigError: the port is in use.
        LateError: the rendezvous timed out.
    """
    address = _endpoint(flags["dist_url"])
    machines = Participants("machines", flags["num_machines"], prefix="machines")
    try:
        return rendezvous(address, machines, timeout, serves=flags["machine_rank"] == 0)
    except ConfigError as error:
        raise ConfigError(f"command line: --dist-url {flags['dist_url']}: {error}") from None


def _endpoint(url: str) -> tuple[str, int]:
    """Return the host and port of a URL.

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
    """Make a task of SLURM's srun a rank, by setting the environment variables that other launchers set.

    Raises:
        ConfigError: a variable that SLURM or another launcher has set is invalid.
    """
    os.environ.update(slurm_environment(os.environ))
    check_environment(os.environ)


def refuse_ranks(tool: str) -> None:
    """Raise ConfigError if a launcher has started several processes of a tool that runs in one.

    Args:
        tool: the start of the message: the tool's name, and what to use instead, if anything.
    """
    adopt_slurm()
    if is_rank():
        raise ConfigError(f"{tool}, and {os.environ['WORLD_SIZE']} were started: leave torchrun or srun out")
