"""Two machines, simulated by network namespaces with a virtual cable that can be cut."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warmstart.engine import load_checkpoint

from ..dying import assert_same_bits
from ..ranks import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent.parent
ADDRESSES = ("10.77.0.1", "10.77.0.2")
SECONDS = 150  # more than any of them takes


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Machines:
    """Two machines, named after this process, so that concurrent tests do not interfere."""

    def __init__(self) -> None:
        self.names = [f"warm{os.getpid()}{letter}" for letter in "ab"]

    def build(self) -> None:
        a, b = self.names
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def cut(self) -> None:
        ip("-n", self.names[1], "link", "set", "cable", "down")

    def mend(self) -> None:
        ip("-n", self.names[1], "link", "set", "cable", "up")

    def train(self, words: list[str]) -> list[subprocess.Popen[str]]:
        """Start the same command on both."""
        common = ["--num-gpus", "1", "--num-machines", "2", "--dist-url", f"tcp://{ADDRESSES[0]}:{free_port()}"]
        environ = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
        return [
            subprocess.Popen(
                [
                    *("ip", "netns", "exec", name, sys.executable, "tools/train_net.py"),
                    *(*words, *common, "--machine-rank", str(number)),
                ],
                cwd=ROOT,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number, name in enumerate(self.names)
        ]


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    try:
        found.build()
    except (OSError, subprocess.CalledProcessError) as error:
        found.remove()
        reason = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"network namespaces are not permitted here: {reason.strip()}")
    yield found
    found.remove()


def finished(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Return the outputs of the processes after all have succeeded."""
    said = []
    try:
        for process in processes:
            said.append(process.communicate(timeout=SECONDS)[0])
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    return said


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def assert_same_run(folder: Path, other: Path) -> None:
    a, b = (load_checkpoint(each / "model_final.pth") for each in (folder, other))
    for part in ("model", "optimizer", "scheduler", "iteration"):
        assert_same_bits(a[part], b[part], part)


@pytest.fixture
def words(tiny_words: list[str]) -> list[str]:
    return [
        *tiny_words,
        "MODEL.DEVICE=cpu",
        "SOLVER.MAX_ITER=2000",
        "SOLVER.CHECKPOINT_PERIOD=50",
        "DISTRIBUTED.TIMEOUT=5",
    ]


@pytest.mark.need("G4")
def test_disconnected_machine_rejoins_after_a_restart_and_the_weights_are_bit_exact(
    machines: Machines, words: list[str], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finished(machines.train([*words, f"OUTPUT_DIR={whole}"]))
    processes = machines.train([*words, f"OUTPUT_DIR={cut}", "DISTRIBUTED.MAX_RESTARTS=3"])
    wait_for((cut / "model_0000099.pth").exists)
    machines.cut()
    time.sleep(8)  # longer than DISTRIBUTED.TIMEOUT
    machines.mend()
    main, other = finished(processes)
    assert "Timed out" in main
    assert main.count("restarted after a failure: --resume is implied") == 1
    assert "--resume is implied" not in other  # one rank speaks for all
    assert_same_run(whole, cut)
