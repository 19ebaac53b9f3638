"""What is in the repository: text and small data, no downloads and no build products."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LARGEST = 1_000_000  # bytes
LARGER: set[str] = set()  # files that may be larger, each for a reason that is written here


def test_the_repository_holds_no_file_above_1_mb_that_is_not_listed() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a checkout but an unpacked archive of the source")
    names = [name for name in listed.stdout.split("\0") if name]
    assert "setup.py" in names
    large = {name for name in names if (ROOT / name).is_file() and (ROOT / name).stat().st_size > LARGEST}
    assert large == LARGER
