"""Exposure of a run on one machine: it listens on no port except on the loopback interface."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.config import CfgNode
from warmstart.engine import build_process_group

from ..ranks import Ranks

ROOT = Path(__file__).parent.parent.parent.parent
_LISTENS = "0A"  # in /proc/net/tcp

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")


def tree(pid: int) -> list[int]:
    """Return a process and those of its descendants that still run."""
    found = [pid]
    for each in found:
        try:
            words = Path(f"/proc/{each}/task/{each}/children").read_text().split()
        except OSError:
            continue
        found += [int(word) for word in words]
    return found


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    inodes = set()
    try:
        for each in os.listdir(f"/proc/{pid}/fd"):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{each}"))
            if match:
                inodes.add(match[1])
    except OSError:
        pass  # the process has exited, or closed the file meanwhile
    return inodes


def listening() -> dict[str, str]:
    """Return the addresses on which this machine listens, by inode."""
    found = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTENS:
                numbers = words[1].partition(":")[0]  # 32 bits at a time, in the machine's byte order
                packed = b"".join(
                    struct.pack("=I", int(numbers[at : at + 8], 16)) for at in range(0, len(numbers), 8)
                )
                found[words[9]] = str(ipaddress.ip_address(packed))
    return found


def exposed(process: subprocess.Popen[str]) -> tuple[set[str], set[str]]:
    """Return the addresses on which the launcher and its ranks listen while they run."""
    launcher: set[str] = set()
    ranks: set[str] = set()
    while process.poll() is None:
        pids = tree(process.pid)
        held = [sockets_of(pid) for pid in pids]
        addresses = listening()
        for number, inodes in enumerate(held):
            (ranks if number else launcher).update(addresses[each] for each in inodes & addresses.keys())
        time.sleep(0.1)
    return launcher, ranks


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def test_listening_finds_a_socket_of_this_process() -> None:
    with socket.create_server(("", 0)):
        assert "0.0.0.0" in {listening().get(each) for each in sockets_of(os.getpid())}


def test_ranks_of_one_machine_listen_on_loopback_alone(tiny: Callable[..., CfgNode], tmp_path: Path) -> None:
    """So does the store of rank 0, which tasks of srun use."""
    cfg = tiny("MODEL.DEVICE", "cpu")

    def addresses() -> set[str]:
        with build_process_group(cfg):
            found = listening()
            return {found[each] for each in sockets_of(os.getpid()) & found.keys()}

    ended = Ranks(tmp_path / "ranks", 2, addresses).end()
    assert [each.code for each in ended] == [0, 0], ended
    found = [each.result for each in ended]
    assert all(found), found
    assert all(is_loopback(each) for addresses in found for each in addresses), found


@pytest.mark.slow
def test_num_gpus_listens_on_loopback_alone_and_removes_its_temporary_folder(
    tiny_words: list[str], tmp_path: Path
) -> None:
    """The launcher does not listen at all: nobody can send it data."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "tools/train_net.py", *tiny_words, "MODEL.DEVICE=cpu", "--num-gpus=2"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    launcher, ranks = exposed(process)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert launcher == set()
    assert ranks
    assert all(map(is_loopback, ranks)), ranks
    # torch's compiler keeps a cache for the next run of the same user.
    assert [each for each in temporary.iterdir() if not each.name.startswith("torchinductor_")] == []
