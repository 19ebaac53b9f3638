"""The wheel: it carries what a run needs, and runs in a folder whose files are called like ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools builds in the source tree, and takes what an earlier build left there.
    skipped = shutil.ignore_patterns(".*", "build", "dist", "output", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, folder / "source", ignore=skipped)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("warmstart-*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_recipes_digits_and_type_markers(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for recipe in (ROOT / "config" / "recipes").glob("*.yaml"):
        assert f"warmstart/config/recipes/{recipe.name}" in names
    assert {"warmstart/data/digits/digits.npz", "warmstart/data/digits/NOTICE.md"} <= names
    for folder in ("config", "solver", "data", "modeling", "tasks", "engine", "tools"):
        assert f"warmstart/{folder}/py.typed" in names
    assert "warmstart/__init__.py" not in names  # a namespace package
    for path in ROOT.glob("[cdmest]*/**/*.py"):
        folder = path.relative_to(ROOT).parts[0]
        if folder in ("config", "solver", "data", "modeling", "tasks", "engine", "tools"):
            assert f"warmstart/{path.relative_to(ROOT).as_posix()}" in names


@pytest.mark.slow
def test_the_wheel_has_the_command_warmstart(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "warmstart = warmstart.tools.console:main" in archive.read(name).decode().splitlines()


@pytest.mark.slow
def test_an_installed_wheel_trains_among_files_called_like_ours(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    user = tmp_path / "user"
    (user / "data").mkdir(parents=True)
    for name in ("config.py", "solver.py", "data/__init__.py"):
        (user / name).write_text("raise RuntimeError('shadowed')\n")
    done = subprocess.run(
        [sys.executable, "-m", "warmstart.tools.train_net", "--config-file", "recipe:digits.yaml"]
        + ["SOLVER.MAX_ITER", "20", "OUTPUT_DIR", "out"],
        cwd=user,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (user / "out" / "model_final.pth").exists()
