"""The atomic write, and copies of files, on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import disk


def copied(source: Path, target: Path) -> bytes:
    with open(source, "rb") as original, open(target, "xb") as file:
        disk.copy(original, file)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (b"", b"", True),
        (b"abcdefgh", b"abcdefgh", True),
        (b"abcdefghi", b"abcdefghi", True),
        (b"abcdefghi", b"abcdefghj", False),
        (b"abcdefgh", b"Xbcdefgh", False),
        (b"abcd", b"abcde", False),
        (b"abcde", b"abcd", False),
    ],
)
def test_is_same_compares_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bytes, theirs: bytes, same: bool
) -> None:
    monkeypatch.setattr(disk, "_CHUNK", 4)
    (tmp_path / "a").write_bytes(ours)
    (tmp_path / "b").write_bytes(theirs)
    assert disk.is_same(tmp_path / "a", tmp_path / "b") == same


@pytest.mark.parametrize("size", [0, 1, 3 * 2**20 + 7])
@pytest.mark.parametrize("by", ["the system", "nothing", "an error", "no function"])
def test_copy_copies_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, by: str) -> None:
    def refused(*arguments: Any) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    if by == "no function":  # Windows and macOS
        monkeypatch.delattr(os, "copy_file_range")
    elif by != "the system":  # some drives say that nothing was copied
        monkeypatch.setattr(os, "copy_file_range", (lambda *arguments: 0) if by == "nothing" else refused)
    assert copied(tmp_path / "a", tmp_path / "b") == content


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_copy_does_not_try_again_on_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(*arguments: Any) -> int:
        raise OSError(code, os.strerror(code))

    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr(os, "copy_file_range", fails)
    with pytest.raises(OSError, match=os.strerror(code)):
        copied(tmp_path / "a", tmp_path / "b")


def test_clone_shares_blocks_or_leaves_the_file_empty(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with open(tmp_path / "a", "rb") as original, open(tmp_path / "b", "xb") as file:
        cloned = disk.clone(original, file)
    assert (tmp_path / "b").read_bytes() == (b"abc" if cloned else b"")


def test_replacement_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), disk.replacement(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_replacement_by_two_writers_at_once_leaves_the_file_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with disk.replacement(path) as first, disk.replacement(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a"]
