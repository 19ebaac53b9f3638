"""Several ranks in a test: forks of this process with the environment of a launcher."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo
import torch.distributed.fsdp
import torchmetrics
import torchvision

from warmstart.engine import run_tool
from warmstart.tools import train_net

# Imported here once, before the fork, rather than by each rank when it first needs them.
IMPORTED = (torch._dynamo, torch.distributed.fsdp, torchmetrics, torchvision)

SECONDS = 60  # more than any of them takes


class Ended(NamedTuple):
    """A rank that has exited: its exit code, its output, and the result of its function."""

    code: int
    out: str
    err: str
    result: Any


def free_port() -> int:
    """Return a free port below the range of ephemeral ports, so that no other program takes it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return the variables that torchrun sets for a rank on one machine."""
    numbers = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_PORT": port,
    }
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


class Ranks:
    """Ranks that run a function within `run_tool`; they start at once.

    Args:
        folder: the folder of their outputs.
        ranks: the number of ranks.
        function: takes no arguments; its result is passed through a file.
    """

    def __init__(self, folder: Path, ranks: int, function: Callable[[], Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, port = folder, free_port()
        fork = multiprocessing.get_context("fork")
        self.processes = [
            fork.Process(target=self._run, args=(environment(rank, ranks, port), function))
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def _run(self, environ: dict[str, str], function: Callable[[], Any]) -> None:
        os.environ.update(environ, OMP_NUM_THREADS="1")
        torch.set_num_threads(1)
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(self._path(int(environ["RANK"]), name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)

        def main() -> int:
            torch.save(function(), self._path(int(environ["RANK"]), "result"))
            return 0

        run_tool(main)

    def _path(self, rank: int, name: str) -> Path:
        return self.folder / f"rank{rank}.{name}"

    def end(self) -> list[Ended]:
        """Wait until all have exited."""
        for process in self.processes:
            process.join(SECONDS)
        late = [process for process in self.processes if process.exitcode is None]
        for process in late:
            process.kill()
        assert not late, [self._path(rank, "err").read_text() for rank in range(len(self.processes))]
        ended = []
        for rank, process in enumerate(self.processes):
            result = self._path(rank, "result")
            ended.append(
                Ended(
                    process.exitcode or 0,
                    *(self._path(rank, name).read_text() for name in ("out", "err")),
                    torch.load(result, weights_only=False) if result.exists() else None,
                )
            )
        return ended


def trained(folder: Path, ranks: int, words: list[str]) -> list[Ended]:
    """Run train_net.py on several ranks."""
    return Ranks(folder, ranks, lambda: train_net.main(words)).end()
