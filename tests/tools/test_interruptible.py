"""Ctrl-C while a tool is importing: one line and exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.tools import interruptible

ROOT = Path(__file__).parent.parent.parent
TOOLS = [
    [str(path), *(["train"] if path.stem == "console" else [])]
    for path in sorted((ROOT / "tools").glob("*.py"))
    if path.stem != "__init__"
]
RUN = ["--config-file", "recipe:digits.yaml", "SOLVER.MAX_ITER", "100000"]

pytestmark = pytest.mark.skipif(not hasattr(os, "setsid"), reason="no Ctrl-C for one process there")


def start(words: list[str], folder: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell's background has started ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def slow_torch(tmp_path: Path) -> str:
    """A torch that never comes, and takes Ctrl-C for its own."""
    (tmp_path / "torch.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('importing').touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(60)\n"
    )
    return f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


@pytest.mark.need("D14")
@pytest.mark.parametrize("words", [*TOOLS, ["-m", "warmstart.tools.train_net"]])
def test_ctrl_c_during_the_imports_of_a_tool(words: list[str], slow_torch: str, tmp_path: Path) -> None:
    process = start(words, tmp_path, PYTHONPATH=slow_torch)
    wait_for((tmp_path / "importing").exists)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "interrupted by SIGINT\n")
    assert process.returncode == 130


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell how far a process is")
@pytest.mark.parametrize("delay", [0, 0.4, 1.2, 2.0])
def test_ctrl_c_while_the_real_torch_comes(delay: float, tmp_path: Path) -> None:
    process = start([str(ROOT / "tools" / "train_net.py"), *RUN], tmp_path)
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch" in maps.read_text())
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 130
    assert said in (
        ["interrupted by SIGINT"],
        ["SIGINT: finishing this iteration, then saving; a second signal exits at once"],
    )


def test_an_imported_tool_and_an_ignored_ctrl_c_change_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        for name, handler in (
            ("warmstart.tools.train_net", signal.default_int_handler),
            ("__main__", signal.SIG_IGN),
        ):
            signal.signal(signal.SIGINT, handler)
            with interruptible(name):
                assert signal.getsignal(signal.SIGINT) is handler
            assert signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with interruptible("__main__"):
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
