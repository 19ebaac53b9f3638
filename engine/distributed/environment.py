"""Environment variables in which launchers tell a process its rank, checked before they are used."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

from warmstart.config import ConfigError
from warmstart.data import OWN_CORES, OWN_DEVICE

FILE = "file://"  # in MASTER_ADDR: with --num-gpus on one machine the ranks rendezvous through a file

_PORTS = 2**16 - 1
# The lowest allowed value of each optional variable that is read later.
_LOWEST = {
    "LOCAL_RANK": 0,
    "LOCAL_WORLD_SIZE": 1,
    "TORCHELASTIC_MAX_RESTARTS": 0,
    "TORCHELASTIC_RESTART_COUNT": 0,
    OWN_CORES: 1,
    OWN_DEVICE: 0,
}


def is_rank() -> bool:
    """Return whether a launcher has started this process as one of several, according to the environment."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def local_size() -> int:
    """Return the number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_spokesman() -> bool:
    """Return whether this process prints an error that all ranks find.

    Rank 0 does, and so does a rank whose own environment is invalid: the others may not know of it.
    """
    if not is_rank():
        return True
    try:
        check_environment(os.environ)
        rendezvous_address(os.environ)
    except ConfigError:
        return True
    return int(os.environ["RANK"]) == 0


def check_environment(environ: Mapping[str, str]) -> None:
    """Raise ConfigError if a variable that launchers set is not a number, or out of range.

    >>> check_environment({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    >>> check_environment({"RANK": "2", "WORLD_SIZE": "2"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    warmstart.config.errors.ConfigError: the environment has RANK='2': expected a whole number from 0 to 1, ...
    """
    for name, lowest in _LOWEST.items():
        if name in environ:
            whole_number(environ, name, lowest)
    if "RANK" in environ and "WORLD_SIZE" in environ:
        size = whole_number(environ, "WORLD_SIZE", 1)
        whole_number(environ, "RANK", 0, size - 1)
        if "LOCAL_WORLD_SIZE" in environ:
            whole_number(environ, "LOCAL_WORLD_SIZE", 1, size)
    if "LOCAL_RANK" in environ and "LOCAL_WORLD_SIZE" in environ:
        whole_number(environ, "LOCAL_RANK", 0, int(environ["LOCAL_WORLD_SIZE"]) - 1)


def whole_number(environ: Mapping[str, str], name: str, lowest: int, highest: int | None = None) -> int:
    """Return the number that an environment variable holds.

    Raises:
        ConfigError: it is not set, not a whole number, or out of range.

    >>> whole_number({"MASTER_PORT": "29500"}, "MASTER_PORT", 1)
    29500
    """
    if name not in environ:
        raise ConfigError(f"the environment lacks {name}; start processes with --num-gpus, torchrun or srun")
    value = environ[name]
    number = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else -1
    if number < lowest or (highest is not None and number > highest):
        until = "" if highest is None else f" to {highest}"
        raise ConfigError(
            f"the environment has {name}={value!r}: expected a whole number from {lowest}{until}, which launchers "
            "set; unset it, or start processes with --num-gpus, torchrun or srun"
        )
    return number


def rendezvous_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return the host and port of the ranks' rendezvous, or file:///PATH and 0.

    Raises:
        ConfigError: the environment lacks the address or the port.

    >>> rendezvous_address({"MASTER_ADDR": "node1", "MASTER_PORT": "29500"})
    ('node1', 29500)
    """
    if environ.get("MASTER_ADDR", "").startswith(FILE):
        return environ["MASTER_ADDR"], 0
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing:
        raise ConfigError(
            f"the environment has RANK, but not {' and '.join(missing)}; start processes with --num-gpus, "
            "torchrun or srun"
        )
    return environ["MASTER_ADDR"], whole_number(environ, "MASTER_PORT", 1, _PORTS)


def stay_on_loopback() -> None:
    """Restrict gloo and NCCL to the loopback interface if all ranks are on this machine.

    By default both listen on an address that other machines can reach. Variables that the user has set are kept.
    """
    if os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE"):
        return
    names = {name for _, name in socket.if_nameindex()}
    for name in ("lo", "lo0"):  # Linux, macOS
        if name in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # = as NCCL takes names for prefixes
            return


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make a task of srun a rank; {} if it is the only task, or a rank already.

    Ranks rendezvous on the first host of the step, at a port derived from the job and step numbers, over the
    loopback interface if all are on one machine.

    Raises:
        ConfigError: a variable that srun sets is missing or invalid.

    >>> environ = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
    >>> environ |= {"SLURM_STEP_NODELIST": "rack[1-2]gpu[07-08],big", "SLURM_STEP_TASKS_PER_NODE": "4,2"}
    >>> environ |= {"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "0"}
    >>> slurm_environment(environ)  # doctest: +NORMALIZE_WHITESPACE
    {'RANK': '5', 'WORLD_SIZE': '6', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR':
     'rack1gpu07', 'MASTER_PORT': '25567'}
    """
    # The script of a batch job has a task number too, but only srun has steps. The shell that salloc opens is a
    # step of one task, and has the job's number of tasks in SLURM_NTASKS.
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    if "RANK" in environ or "SLURM_STEP_NODELIST" not in environ or tasks not in environ:
        return {}
    size = whole_number(environ, tasks, 1)
    if size < 2:
        return {}
    here = _tasks_of(environ, whole_number(environ, "SLURM_NODEID", 0))
    job, step = whole_number(environ, "SLURM_JOB_ID", 0), 0
    if "SLURM_STEP_ID" in environ:
        step = whole_number(environ, "SLURM_STEP_ID", 0)
    found = {
        "RANK": str(whole_number(environ, "SLURM_PROCID", 0, size - 1)),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(whole_number(environ, "SLURM_LOCALID", 0, here - 1)),
        "LOCAL_WORLD_SIZE": str(here),
        "MASTER_ADDR": "localhost" if here == size else _first_host(environ),
        # Below the range of ephemeral ports.
        "MASTER_PORT": str(15000 + (job + step) % 17000),
    }
    if "SLURM_GPUS_PER_TASK" in environ:  # each task sees only its own GPU
        found[OWN_DEVICE] = "0"
    if "SLURM_CPUS_PER_TASK" in environ:
        found[OWN_CORES] = str(whole_number(environ, "SLURM_CPUS_PER_TASK", 1))
    return found


def _tasks_of(environ: Mapping[str, str], node: int) -> int:
    """Return the number of tasks on a node of the step: 4(x2),1 is 4 on the first two nodes and 1 on the third."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    for part in environ.get(name, "").split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part)
        if not match:
            break
        node -= int(match[2] or 1)
        if node < 0:
            return int(match[1])
    raise ConfigError(
        f"the environment has {name}={environ.get(name)!r} and SLURM_NODEID={environ['SLURM_NODEID']!r}: expected "
        "a number of tasks for each node, such as 4(x2),1, which srun sets; start the tasks with srun"
    )


def _first_host(environ: Mapping[str, str]) -> str:
    """Return the first host of a list such as rack[1-2]gpu[07-08],big."""
    name = "SLURM_STEP_NODELIST"
    first = re.match(r"(?:[\w.-]|\[[0-9][0-9,-]*\])+", environ[name])  # up to a comma outside of brackets
    if not first:
        raise ConfigError(
            f"the environment has {name}={environ[name]!r}: expected a list of hosts, such as node[1-2], which "
            "srun sets; start the tasks with srun"
        )
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])
