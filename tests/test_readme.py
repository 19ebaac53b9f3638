"""The blocks of the README as a reader runs them: shell in order in one folder, each Python one alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SHELL = [body for language, body in BLOCKS if language == "bash" and "pip install" not in body]
PYTHON = [body for language, body in BLOCKS if language == "python"]


def test_the_quick_start_is_the_first_thing_that_mentions_training_or_testing() -> None:
    quick = [body.strip() for language, body in BLOCKS if language == "bash"][:2]
    assert quick == [
        "pip install -e . && python tools/train_net.py --config-file config/recipes/digits.yaml",
        "pip install -e '.[test]' && pytest",
    ]
    first = min(TEXT.index(word) for word in ("train_net.py", "pytest"))
    assert TEXT.rindex("```bash", 0, first) < TEXT.index(quick[0])
    assert TEXT.index(quick[0]) < first < TEXT.index(quick[0]) + len(quick[0])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("tools", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_the_shell_blocks_run_in_order(checkout: Path) -> None:
    assert len(SHELL) >= 3
    for block in SHELL:
        done = run(["bash", "-euo", "pipefail", "-c", block], checkout)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_a_python_block_runs(checkout: Path, index: int) -> None:
    done = run([sys.executable, "-W", "error", "-c", PYTHON[index]], checkout)
    assert done.returncode == 0, f"{PYTHON[index]}\n{done.stderr}"


def test_there_are_python_blocks() -> None:
    assert len(PYTHON) >= 3


def test_the_tree_in_the_readme_names_every_folder() -> None:
    code = ("config", "solver", "data", "modeling", "tasks", "engine", "tools")
    for folder in (*code, "tests", "benchmarks", "docs"):
        assert re.search(rf"^{folder}/", TEXT, re.MULTILINE), folder
