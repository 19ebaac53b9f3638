"""Environment variables of launchers: how they are read, and the errors for invalid ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from warmstart.config import ConfigError
from warmstart.engine.distributed.environment import (
    check_environment,
    is_rank,
    is_spokesman,
    rendezvous_address,
    slurm_environment,
    stay_on_loopback,
)

ROOT = Path(__file__).parent.parent.parent.parent
RANK = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
PLACE = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
TASK = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NODELIST": "a7,b[3-4]",
    "SLURM_STEP_TASKS_PER_NODE": "3,1(x2)",
    "SLURM_JOB_ID": "17000",
    "SLURM_STEP_ID": "2",
}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"RANK": "x"}, "RANK='x': expected a whole number from 0 to 1, which launchers set; unset it, or start"),
        ({"RANK": "-1"}, "RANK='-1': expected a whole number from 0 to 1, "),
        ({"RANK": "2"}, "RANK='2': expected a whole number from 0 to 1, "),
        ({"RANK": "1\n\x1b[2J"}, r"RANK='1\n\x1b[2J': expected a whole number from 0 to 1, "),
        ({"RANK": "²"}, "RANK='²': expected a whole number from 0 to 1, "),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x': expected a whole number from 1, "),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0': expected a whole number from 1, "),
        ({"WORLD_SIZE": "9" * 5000}, f"WORLD_SIZE='{'9' * 5000}': expected a whole number from 1, "),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK='': expected a whole number from 0, "),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK='2': expected a whole number from 0 to 1, "),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE='3': expected a whole number from 1 to 2, "),
        ({"WARMSTART_CORES": "0"}, "WARMSTART_CORES='0': expected a whole number from 1, "),
        ({"WARMSTART_DEVICE": "cuda"}, "WARMSTART_DEVICE='cuda': expected a whole number from 0, "),
        (
            {"TORCHELASTIC_RESTART_COUNT": "one"},
            "TORCHELASTIC_RESTART_COUNT='one': expected a whole number ",
        ),
        ({"TORCHELASTIC_MAX_RESTARTS": "-1"}, "TORCHELASTIC_MAX_RESTARTS='-1': expected a whole number from 0, "),
    ],
)
def test_check_environment_refuses_invalid_numbers(changed: dict[str, str], text: str) -> None:
    check_environment(RANK)
    with pytest.raises(ConfigError, match="^the environment has " + re.escape(text)):
        check_environment(RANK | changed)


def test_check_environment_ignores_variables_that_are_not_read() -> None:
    check_environment({"WORLD_SIZE": "x", "MASTER_PORT": "abc", "SLURM_JOB_ID": "x"})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"MASTER_PORT": "abc"}, "has MASTER_PORT='abc': expected a whole number from 1 to 65535, "),
        ({"MASTER_PORT": "0"}, "has MASTER_PORT='0': expected a whole number from 1 to 65535, "),
        ({"MASTER_PORT": "65536"}, "has MASTER_PORT='65536': expected a whole number from 1 to 65535, "),
        ({"MASTER_ADDR": ""}, "has RANK, but not MASTER_ADDR; start processes with --num-gpus, torchrun or srun$"),
    ],
)
def test_rendezvous_address_refuses_a_missing_address_and_an_invalid_port(
    changed: dict[str, str], text: str
) -> None:
    assert rendezvous_address(PLACE) == ("node1", 29500)
    with pytest.raises(ConfigError, match=f"^the environment {text}"):
        rendezvous_address(PLACE | changed)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"SLURM_NTASKS": "x"}, "has SLURM_NTASKS='x': expected a whole number from 1, "),
        ({"SLURM_STEP_NUM_TASKS": "0"}, "has SLURM_STEP_NUM_TASKS='0': expected a whole number from 1, "),
        ({"SLURM_PROCID": "5"}, "has SLURM_PROCID='5': expected a whole number from 0 to 4, "),
        ({"SLURM_PROCID": None}, "lacks SLURM_PROCID; start processes with --num-gpus, torchrun or srun$"),
        ({"SLURM_LOCALID": "1"}, "has SLURM_LOCALID='1': expected a whole number from 0 to 0, "),
        ({"SLURM_NODEID": "x"}, "has SLURM_NODEID='x': expected a whole number from 0, "),
        (
            {"SLURM_NODEID": "3"},
            r"has SLURM_STEP_TASKS_PER_NODE='3,1\(x2\)' and SLURM_NODEID='3': expected a number",
        ),
        ({"SLURM_STEP_TASKS_PER_NODE": "x"}, "has SLURM_STEP_TASKS_PER_NODE='x' and SLURM_NODEID='1': expected a"),
        ({"SLURM_STEP_TASKS_PER_NODE": None}, "has SLURM_STEP_TASKS_PER_NODE=None and SLURM_NODEID='1': expected"),
        (
            {"SLURM_STEP_NODELIST": ","},
            r"has SLURM_STEP_NODELIST=',': expected a list of hosts, such as node\[1-2\]",
        ),
        ({"SLURM_JOB_ID": "x"}, "has SLURM_JOB_ID='x': expected a whole number from 0, "),
        ({"SLURM_STEP_ID": "batch"}, "has SLURM_STEP_ID='batch': expected a whole number from 0, "),
        ({"SLURM_CPUS_PER_TASK": "0"}, "has SLURM_CPUS_PER_TASK='0': expected a whole number from 1, "),
    ],
)
def test_slurm_environment_refuses_invalid_variables(changed: dict[str, str | None], text: str) -> None:
    assert slurm_environment(TASK)["RANK"] == "3"
    environ = {name: value for name, value in (TASK | changed).items() if value is not None}
    with pytest.raises(ConfigError, match=f"^the environment {text}"):
        slurm_environment(environ)


def test_slurm_environment_puts_the_rendezvous_of_one_machine_on_loopback() -> None:
    one = {"SLURM_STEP_NODELIST": "a7", "SLURM_STEP_TASKS_PER_NODE": "5", "SLURM_NODEID": "0"}
    assert slurm_environment(TASK | one)["MASTER_ADDR"] == "localhost"


def test_slurm_environment_does_not_expand_a_huge_number_of_nodes() -> None:
    nodes = {"SLURM_STEP_TASKS_PER_NODE": "1(x999999999)", "SLURM_NODEID": "999999998"}
    assert slurm_environment(TASK | nodes)["LOCAL_WORLD_SIZE"] == "1"


@pytest.mark.parametrize(
    ("environ", "speaks"),
    [
        ({}, True),
        (RANK | PLACE, False),
        (RANK | PLACE | {"RANK": "0"}, True),
        (RANK | PLACE | {"WORLD_SIZE": "x"}, True),
        (RANK | PLACE | {"MASTER_PORT": "abc"}, True),
        (RANK, True),
    ],
)
def test_is_spokesman_is_true_on_rank_0_and_with_an_invalid_environment(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], speaks: bool
) -> None:
    monkeypatch.setattr(os, "environ", environ)
    assert is_spokesman() is speaks
    assert is_rank() is bool(environ)


def test_stay_on_loopback_keeps_variables_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NCCL_SOCKET_IFNAME": "eth1"}
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    stay_on_loopback()
    assert environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert environ["NCCL_SOCKET_IFNAME"] == "eth1"
    del environ["NCCL_SOCKET_IFNAME"]
    stay_on_loopback()
    assert environ["NCCL_SOCKET_IFNAME"] == "=lo"


def test_stay_on_loopback_sets_nothing_for_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    monkeypatch.setattr(os, "environ", environ)
    stay_on_loopback()
    assert environ == {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "text"),
    [
        (RANK | PLACE | {"MASTER_PORT": "abc"}, "has MASTER_PORT='abc': expected a whole number from 1 to 65535"),
        (RANK | PLACE | {"WORLD_SIZE": "x"}, "has WORLD_SIZE='x': expected a whole number from 1, which"),
        (RANK | PLACE | {"RANK": "-1"}, "has RANK='-1': expected a whole number from 0 to 1, which launchers set"),
        (
            TASK | {"SLURM_JOB_ID": "x"},
            "has SLURM_JOB_ID='x': expected a whole number from 0, which launchers set",
        ),
    ],
)
def test_train_net_exits_with_2_and_one_sentence_for_an_invalid_environment(
    tiny_words: list[str], tmp_path: Path, environ: dict[str, str], text: str
) -> None:
    done = subprocess.run(
        [sys.executable, "tools/train_net.py", *tiny_words, "MODEL.DEVICE=cpu"],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(f"error: the environment {text}.*\n", done.stderr)
    assert not (tmp_path / "out").exists()
