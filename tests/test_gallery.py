"""The gallery, which shows every schedule and is reproduced by its script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
NAMES = sorted(path.name for path in (DOCS / "gallery").iterdir())
# In a separate process: other tests register schedules that are not in the gallery.
LIST = "from warmstart.solver import schedule_names; print(*schedule_names())"


def run(*words: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_the_script_reproduces_the_page_and_its_pictures(tmp_path: Path) -> None:
    run(str(DOCS / "gallery.py"), str(tmp_path))
    assert (tmp_path / "GALLERY.md").read_text() == (DOCS / "GALLERY.md").read_text()
    assert sorted(path.name for path in (tmp_path / "gallery").iterdir()) == NAMES
    assert {path.name for path in tmp_path.iterdir()} == {"GALLERY.md", "gallery"}


@pytest.mark.need("B10")
def test_every_schedule_has_a_picture_and_the_page_shows_each() -> None:
    page = (DOCS / "GALLERY.md").read_text()
    pictures = [f"{name}.png" for name in run("-c", LIST).split()]
    assert {*pictures} < {*NAMES}
    for name in NAMES:
        assert page.count(f"](gallery/{name})") == 1


def test_pictures_are_small() -> None:
    files = list((DOCS / "gallery").iterdir())
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for file in files:
        with Image.open(file) as image:
            assert image.width == 520
