"""Processes that wait for each other say so, give up in time, and are told what to do where they cannot meet."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from warmstart.config import ConfigError, get_cfg
from warmstart.engine import meeting, process_group
from warmstart.engine.meeting import LateError, meet

from .ranks import free_port

WHO: Any = {"who": "machines", "timeout": 20, "prefix": "p"}


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen()
        yield listening.getsockname()[1]


class Told(NamedTuple):
    """What a process has come to: what its function has returned, or the error, and what it has said."""

    result: Any
    error: str
    said: str


def apart(function: Callable[[], Any]) -> Told:
    """Run a function in a process of its own: a store has a thread, after which no test could fork."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)

    def run() -> None:
        result, error = None, ""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                result = function()
            except (LateError, ConfigError) as caught:
                error = f"{type(caught).__name__}: {caught}"
        there.send((result, error, said.getvalue()))
        os._exit(0)

    process = fork.Process(target=run)
    process.start()
    there.close()
    told = Told(*here.recv())
    process.join()
    return told


def test_the_first_may_come_last(port: int) -> None:
    fork = multiprocessing.get_context("fork")
    other = fork.Process(target=lambda: meet("localhost", port, serves=False, count=2, **WHO).set("said", "hello"))
    other.start()
    time.sleep(0.3)
    told = apart(lambda: meet("localhost", port, serves=True, count=2, **WHO).get("said"))
    assert told == (b"hello", "", "")
    other.join(10)
    assert other.exitcode == 0


def test_those_of_an_earlier_attempt_or_run_do_not_count(port: int) -> None:
    def again() -> None:
        first = meet("localhost", port, serves=True, count=1, **WHO, again=True)
        second = meet("localhost", port, serves=True, count=1, **WHO, again=True)
        first.set("address", "gone")
        assert not second.check(["address"])
        meet("localhost", port, serves=True, count=2, **WHO | {"timeout": 0.2, "prefix": "q"})

    assert apart(again).error.startswith(f"LateError: localhost:{port}: 1 of 2 machines are there after 0.2 s")


def test_it_is_said_once_who_is_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_PATIENCE", 0.1)
    told = apart(lambda: meet("localhost", port, serves=True, count=3, **WHO | {"timeout": 1}))
    text = f"localhost:{port}: 1 of 3 machines are there"
    assert told.said == f"waiting at {text}; it ends after 1 s (DISTRIBUTED.TIMEOUT)\n"
    assert told.error == f"LateError: {text} after 1 s (DISTRIBUTED.TIMEOUT)"


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid"])
def test_a_place_that_does_not_answer_is_named(port: int, host: str) -> None:
    told = apart(lambda: meet(host, port, serves=False, count=2, **WHO | {"timeout": 0.3}))
    text = f"{host}:{port}: nobody answers there to machines after 0.3 s (DISTRIBUTED.TIMEOUT)"
    assert told == (None, f"LateError: {text}", "")


@pytest.mark.need("G1")
def test_a_port_that_is_taken_is_a_mistake(taken: int) -> None:
    told = apart(lambda: meet("localhost", taken, serves=True, count=1, **WHO))
    assert told.error == f"ConfigError: port {taken} of this machine is in use; choose another"


@pytest.mark.need("G1")
def test_a_rank_says_what_its_environment_lacks(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    told = apart(process_group(cfg).__enter__)
    text = "the environment has RANK, but not MASTER_PORT; start processes with --num-gpus, torchrun or srun"
    assert told.error == f"ConfigError: {text}"
    monkeypatch.setenv("MASTER_PORT", str(taken))
    told = apart(process_group(cfg).__enter__)
    assert told.error == f"ConfigError: MASTER_PORT: port {taken} of this machine is in use; choose another"


@pytest.mark.slow
@pytest.mark.need("D14", "G1")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 5)])
@pytest.mark.parametrize("alone", ["machine", "rank"])
def test_who_waits_for_others_hears_signals_and_ends_in_time(
    tiny_words: list[str], port: int, alone: str, signum: signal.Signals | None, code: int
) -> None:
    """One machine of two, and one rank of two of which somebody has started only one."""
    words, environ = (
        [*tiny_words, "MODEL.DEVICE=cpu", f"DISTRIBUTED.TIMEOUT={60 if signum else 1}"],
        dict(os.environ),
    )
    if alone == "machine":
        words += ["--num-machines=2", "--machine-rank=0", f"--dist-url=tcp://localhost:{port}"]
    else:
        environ |= {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "warmstart.tools.train_net", *words],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    if signum:
        assert process.stderr.readline().startswith(f"waiting at localhost:{port}: 1 of 2 ")
        process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    who = {"machine": "machines", "rank": "processes"}[alone]
    late = f"localhost:{port}: 1 of 2 {who} are there after 1 s (DISTRIBUTED.TIMEOUT)\n"
    assert err == f"interrupted by {signum.name}\n" if signum else err.endswith(late)
