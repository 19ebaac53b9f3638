"""The rendezvous of processes: its messages, timeout, signals, and errors."""

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
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from warmstart.config import ConfigError, get_cfg
from warmstart.engine import build_process_group
from warmstart.engine.distributed import rendezvous as meeting
from warmstart.engine.distributed.rendezvous import LateError, Participants

from ..ranks import free_port

WHO: Any = {"who": "machines", "timeout": 20, "prefix": "p"}


def rendezvous(host: str, port: int, *, serves: bool, timeout: float, **participants: Any) -> Any:
    return meeting.rendezvous((host, port), Participants(**participants), timeout, serves=serves)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture(params=["silent", "closes", "http", "ssh"])
def other_program(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a program that accepts connections but is not a store."""

    def serve(listening: socket.socket) -> None:
        kept = []
        while True:
            connection, _ = listening.accept()
            if request.param == "closes":
                connection.close()
                continue
            kept.append(connection)
            if request.param == "ssh":
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            if request.param == "http":
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = multiprocessing.get_context("fork").Process(target=serve, args=(listening,))
        process.start()
        yield listening.getsockname()[1]
        process.kill()
        process.join()


class Told(NamedTuple):
    """The result of a process: the value of its function, or the error, and its output."""

    result: Any
    error: str
    said: str


def apart(function: Callable[[], Any]) -> Told:
    """Run a function in a separate process: a store starts a thread, after which no test could fork."""
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


def test_rendezvous_succeeds_if_the_server_joins_last(port: int) -> None:
    fork = multiprocessing.get_context("fork")
    other = fork.Process(
        target=lambda: rendezvous("localhost", port, serves=False, count=2, **WHO).set("said", "hello")
    )
    other.start()
    time.sleep(0.3)
    told = apart(lambda: rendezvous("localhost", port, serves=True, count=2, **WHO).get("said"))
    assert told == (b"hello", "", "")
    other.join(10)
    assert other.exitcode == 0


@pytest.mark.parametrize("host", ["localhost", "node1"])
def test_rendezvous_does_not_count_processes_of_an_earlier_attempt_or_run(port: int, host: str) -> None:
    def again() -> None:
        first = rendezvous(host, port, serves=True, count=1, **WHO, again=True)
        second = rendezvous(host, port, serves=True, count=1, **WHO, again=True)
        first.set("address", "gone")
        assert not second.check(["address"])
        rendezvous(host, port, serves=True, count=2, **WHO | {"timeout": 0.2, "prefix": "q"})

    late = f"LateError: the rendezvous at {host}:{port} timed out after 0.2 s (DISTRIBUTED.TIMEOUT)"
    assert apart(again).error == f"{late}: 1 of 2 machines joined"


def test_rendezvous_prints_once_how_many_have_joined(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_PATIENCE", 0.1)
    told = apart(lambda: rendezvous("localhost", port, serves=True, count=3, **WHO | {"timeout": 1}))
    place, state = f"the rendezvous at localhost:{port}", "1 of 3 machines joined"
    assert told.said == f"waiting for {place}: {state}; it times out after 1 s (DISTRIBUTED.TIMEOUT)\n"
    assert told.error == f"LateError: {place} timed out after 1 s (DISTRIBUTED.TIMEOUT): {state}"


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid"])
def test_rendezvous_names_an_address_that_does_not_answer(port: int, host: str) -> None:
    told = apart(lambda: rendezvous(host, port, serves=False, count=2, **WHO | {"timeout": 0.3}))
    text = f"the rendezvous at {host}:{port} timed out after 0.3 s (DISTRIBUTED.TIMEOUT): no server answers there"
    assert told == (None, f"LateError: {text}", "")


def test_rendezvous_times_out_at_a_program_that_is_not_a_store(
    other_program: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """torch would wait forever for a silent program, and print pages about any other answer."""
    began = time.monotonic()
    told = apart(lambda: rendezvous("localhost", other_program, serves=False, count=2, **WHO | {"timeout": 0.5}))
    assert time.monotonic() - began < 10
    late = f"the rendezvous at localhost:{other_program} timed out after 0.5 s (DISTRIBUTED.TIMEOUT)"
    assert told == (None, f"LateError: {late}: another program is listening there", "")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_rendezvous_times_out_if_the_server_stops_answering(port: int) -> None:
    fork = multiprocessing.get_context("fork")
    server = fork.Process(target=lambda: rendezvous("localhost", port, serves=True, count=3, **WHO))
    server.start()

    are_there = meeting._Joining.are_there

    def stopped_when_both_are_there() -> None:
        def count(joining: meeting._Joining, number: int) -> bool:
            if number == 2:
                os.kill(server.pid, signal.SIGSTOP)
            return are_there(joining, number)

        meeting._Joining.are_there = count  # type: ignore[method-assign]
        rendezvous("localhost", port, serves=False, count=3, **WHO | {"timeout": 1})

    began = time.monotonic()
    told = apart(stopped_when_both_are_there)
    assert time.monotonic() - began < 10
    late = f"the rendezvous at localhost:{port} timed out after 1 s (DISTRIBUTED.TIMEOUT)"
    assert told.error == f"LateError: {late}: 2 of 3 machines joined"
    server.kill()
    server.join()


def test_rendezvous_through_a_file(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/store"
    fork = multiprocessing.get_context("fork")
    other = fork.Process(target=lambda: rendezvous(place, 0, serves=False, count=2, **WHO).set("said", "hello"))
    other.start()
    told = apart(lambda: rendezvous(place, 0, serves=True, count=2, **WHO).get("said"))
    assert told == (b"hello", "", "")
    other.join(10)
    assert other.exitcode == 0
    told = apart(lambda: rendezvous(place, 0, serves=False, count=2, **WHO | {"timeout": 0.2, "prefix": "q"}))
    late = f"the rendezvous at {place} timed out after 0.2 s (DISTRIBUTED.TIMEOUT)"
    assert told.error == f"LateError: {late}: 1 of 2 machines joined"


@pytest.mark.need("G1")
@pytest.mark.parametrize("host", ["localhost", "node1"])
def test_rendezvous_refuses_a_port_in_use(taken: int, host: str, capfd: pytest.CaptureFixture[str]) -> None:
    told = apart(lambda: rendezvous(host, taken, serves=True, count=1, **WHO))
    assert told.error == f"ConfigError: port {taken} of this machine is in use; choose another"
    assert capfd.readouterr().err == ""


@pytest.mark.need("G1")
def test_build_process_group_names_a_missing_variable_and_a_port_in_use(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    told = apart(build_process_group(cfg).__enter__)
    text = "the environment has RANK, but not MASTER_PORT; start processes with --num-gpus, torchrun or srun"
    assert told.error == f"ConfigError: {text}"
    monkeypatch.setenv("MASTER_PORT", str(taken))
    told = apart(build_process_group(cfg).__enter__)
    assert told.error == f"ConfigError: MASTER_PORT: port {taken} of this machine is in use; choose another"


@pytest.mark.slow
@pytest.mark.need("D14", "G1")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 5)])
@pytest.mark.parametrize("alone", ["machine", "rank", "machine at another program"])
def test_train_net_waiting_for_a_rendezvous_handles_signals_and_times_out(
    tiny_words: list[str], port: int, taken: int, alone: str, signum: signal.Signals | None, code: int
) -> None:
    """One machine of two, one rank of two of which only one was started, and a machine with a wrong port."""
    words, environ = (
        [*tiny_words, "MODEL.DEVICE=cpu", f"DISTRIBUTED.TIMEOUT={60 if signum else 1}"],
        dict(os.environ),
    )
    state = "1 of 2 machines joined"
    if alone == "machine":
        words += ["--num-machines=2", "--machine-rank=0", f"--dist-url=tcp://localhost:{port}"]
    elif alone == "rank":
        state = "1 of 2 processes joined"
        environ |= {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    else:
        state, port = "another program is listening there", taken
        words += ["--num-machines=2", "--machine-rank=1", f"--dist-url=tcp://localhost:{port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "warmstart.tools.train_net", *words],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    if signum:
        assert process.stderr.readline().startswith(f"waiting for the rendezvous at localhost:{port}: {state}; ")
        process.send_signal(signum)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    late = f"the rendezvous at localhost:{port} timed out after 1 s (DISTRIBUTED.TIMEOUT): {state}\n"
    assert err == f"interrupted by {signum.name}\n" if signum else err.endswith(f": {late}")
