"""The command `warmstart`: it passes on arguments and exit codes, and imports torch only to run a tool."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from warmstart.config import ConfigError
from warmstart.engine import load_checkpoint
from warmstart.tools import console, env, train_net

from ..engine.dying import assert_same_bits
from ..engine.ranks import free_port

ROOT = Path(__file__).parent.parent.parent
SECONDS = 200  # more than any of them takes
# What pip writes, so that no test depends on how the package was installed.
SCRIPT = "import sys\nfrom warmstart.tools.console import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / "warmstart"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def warmstart(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `warmstart` with words in this process; return its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/warmstart", *words])
        code = 0
        try:
            console.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    return run


def test_commands_name_every_tool() -> None:
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__", "console"}
    assert {module for module, _ in console.COMMANDS.values()} == tools


def test_the_readme_of_the_tools_lists_every_command() -> None:
    text = (ROOT / "tools" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \| `warmstart ([a-z-]+)` \|", text, re.MULTILINE)
    assert rows == [(module, command) for command, (module, _) in console.COMMANDS.items()]


def test_help_without_a_command_imports_no_torch(script: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')")
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    for words in ([], ["help"], ["--help"], ["-h"], ["help", "help"]):
        command = [sys.executable, str(script), *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, console.overview() + "\n", "")
    for command in console.COMMANDS:
        assert f"\n  {command} " in console.overview()


def test_version_is_the_package_version(warmstart: Command) -> None:
    assert warmstart("--version") == (0, f"warmstart {version('warmstart')}\n", "")


@pytest.mark.parametrize("command", console.COMMANDS)
def test_help_of_a_command_is_the_help_of_its_tool(warmstart: Command, command: str) -> None:
    code, out, err = warmstart(command, "--help")
    assert (code, err) == (0, "")
    assert re.match(rf"usage: warmstart {command}( \S.*)?\n\n\S", out)
    assert warmstart("help", command) == warmstart("--help", command) == (0, out, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "unknown command trian; did you mean warmstart train?"),
        ("train_net.py", "unknown command train_net.py; did you mean warmstart train?"),
        ("tools/plot_lr.py SEED 1", "unknown command tools/plot_lr.py; did you mean warmstart plot-lr?"),
        ("help tran", "unknown command tran; did you mean warmstart train?"),
        ("halp", "unknown command halp; did you mean warmstart help?"),
        ("zzz", f"unknown command zzz; known: {', '.join(console.COMMANDS)}, help"),
        ("a\x1b[2Jb", r"unknown command a\x1b[2Jb; known: "),
        ("--config-file x", "expected a command before --config-file, such as warmstart train --config-file"),
        ("help train SEED", "help takes one command; got train SEED"),
    ],
)
def test_unknown_command_gets_one_sentence_and_code_2(warmstart: Command, words: str, message: str) -> None:
    code, out, err = warmstart(*words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: command line: {message}")


def test_train_passes_words_and_exit_codes_on(warmstart: Command, tiny_words: list[str], tmp_path: Path) -> None:
    assert train_net.main([*tiny_words, f"OUTPUT_DIR={tmp_path}/tool"]) == 0
    assert warmstart("train", *tiny_words)[0] == 0
    a, b = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("tool", "out"))
    assert_same_bits(a["model"], b["model"])
    code, _, err = warmstart("train", *tiny_words)
    assert (code, err.count("\n")) == (2, 1)
    assert "give --resume to continue it" in err
    assert warmstart("train", *tiny_words, "--resume")[0] == 0


def test_train_starts_ranks_with_its_own_command(
    warmstart: Command, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = []
    monkeypatch.setattr("warmstart.engine.run.launch.run_here", lambda words, *_: ranks.append(words) or 7)
    words = [*tiny_words, "MODEL.DEVICE=cpu", "--num-gpus", "2"]
    assert warmstart("train", *words)[0] == 7
    assert ranks == [["/usr/bin/warmstart", "train", *words]]


def test_env_prints_versions_and_devices(warmstart: Command) -> None:
    code, out, err = warmstart("env")
    assert (code, err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert found["warmstart"] == version("warmstart")
    assert found["torch"] == torch.__version__
    assert found["threads"] == "1"
    assert {"python", "torchvision", "numpy", "CUDA", "GPU", "CPU", "system"} <= found.keys()
    with pytest.raises(ConfigError, match="^command line: expected no arguments; got SEED$"):
        env.main(["SEED"])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["--num-gpus", "torchrun"])
def test_train_on_2_ranks_restarts_after_a_kill(
    script: Path, tiny_words: list[str], tmp_path: Path, launcher: str
) -> None:
    words = [*tiny_words, "MODEL.DEVICE=cpu", "SOLVER.CHECKPOINT_PERIOD=3", "--import=tests.engine.failing"]
    if launcher == "--num-gpus":
        start = [str(script), "train", *words, "--num-gpus=2", "DISTRIBUTED.MAX_RESTARTS=1"]
    else:
        run = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
        start = [*run, f"--master-port={free_port()}", str(script), "train", *words]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "FAIL": "kill", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *start], env=environ, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("continuing after iteration 6") == 1
    assert done.stdout.count("processes: 2, with 4 of the 8 images of a batch each") == 2
    assert load_checkpoint(tmp_path / "out" / "model_final.pth")["iteration"] == 14
