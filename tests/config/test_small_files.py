"""Reading of regular files up to a size limit."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from warmstart.config import ConfigError, get_cfg, read_small, read_small_text


def test_read_small_returns_the_content_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("é\r\n".encode())
    (tmp_path / "link").symlink_to("file")
    assert read_small(tmp_path / "link") == b"\xc3\xa9\r\n"
    assert read_small_text(str(tmp_path / "file")) == "é\r\n"


def test_read_small_reads_no_more_than_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert read_small(file, limit=10) == b"x" * 10
    with pytest.raises(OSError, match="larger than 9 bytes"):
        read_small(file, limit=9)
    with open(file, "r+b") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(OSError, match="larger than 1,048,576 bytes"):
        read_small(file)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "fifo", "socket"])
def test_read_small_opens_only_regular_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(OSError, match="not a regular file"):
            read_small(tmp_path / path)


def test_read_small_raises_the_errors_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_small(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "gone")


@pytest.mark.parametrize("via_base", [False, True])
@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_load_file_refuses_a_path_that_is_not_a_regular_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, via_base: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("x.yaml").write_text(f"_BASE_: {path}\n")
    with pytest.raises(ConfigError, match=f"{path}: cannot read the config file: not a regular file"):
        get_cfg().merge("x.yaml" if via_base else path)
