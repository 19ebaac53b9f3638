"""Downloads: what arrives is verified, and a file is complete or absent whatever happens."""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import ConfigError, disk
from warmstart.modeling import download as module
from warmstart.modeling.download import Remote, check_url, download

from ..weights_server import Answer, WeightsServer

BODY = b"weights" * 1000
DIGITS = hashlib.sha256(BODY).hexdigest()
LABEL = "MODEL.WEIGHTS (x.yaml:2)"


def message(remote: Remote) -> str:
    with pytest.raises(ConfigError) as error:
        download(remote, LABEL)
    return str(error.value)


def test_download_keeps_the_file_and_asks_once(server: WeightsServer, hub: Path) -> None:
    server.answers["/a.pth"] = Answer(BODY)
    remote = Remote(f"{server.url}/a.pth", "a.pth", DIGITS[:8])
    for _ in range(2):
        assert download(remote, LABEL) == hub / "a.pth"
    assert (hub / "a.pth").read_bytes() == BODY
    assert [path.name for path in hub.iterdir()] == ["a.pth"]
    assert server.asked == ["/a.pth"]


def test_download_accepts_an_answer_of_unknown_size(server: WeightsServer, hub: Path) -> None:
    server.answers["/a.pth"] = Answer(BODY, headers={"Content-Length": "", "Connection": "close"})
    assert download(Remote(f"{server.url}/a.pth", "a.pth"), LABEL).read_bytes() == BODY


def test_download_refuses_another_checksum(server: WeightsServer, hub: Path) -> None:
    server.answers["/a-01234567.pth"] = Answer(BODY)
    url = f"{server.url}/a-01234567.pth"
    assert message(Remote(url, "a.pth", "01234567")) == (
        f"{LABEL}: {url} could not be downloaded: its SHA-256 checksum begins with {DIGITS[:8]} instead of"
        f" 01234567, so the file is damaged or another one; try again, or put the file at {hub}/a.pth"
    )
    assert [*hub.iterdir()] == []


def test_download_refuses_an_incomplete_file(server: WeightsServer, hub: Path) -> None:
    server.answers["/a.pth"] = Answer(BODY, headers={"Content-Length": "9000"})
    assert "the connection ended after 7,000 of 9,000 bytes; try again" in message(
        Remote(f"{server.url}/a.pth", "a.pth")
    )
    assert [*hub.iterdir()] == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (404, "there is no such file; check the name (HTTP 404); try again"),
        (403, "it does not exist, or it is private or gated and needs a login (HTTP 403)"),
        (401, "it does not exist, or it is private or gated and needs a login (HTTP 401)"),
        (503, "Service Unavailable (HTTP 503)"),
    ],
)
def test_download_names_what_the_server_refuses(server: WeightsServer, hub: Path, code: int, reason: str) -> None:
    server.answers["/a.pth"] = Answer(b"sorry", code)
    assert f"{server.url}/a.pth could not be downloaded: {reason}" in message(
        Remote(f"{server.url}/a.pth", "a.pth")
    )


def test_download_names_address_and_path_without_a_connection(hub: Path, server: WeightsServer) -> None:
    url = f"{server.url}/a.pth"
    server.close()
    assert message(Remote(url, "a.pth")) == (
        f"{LABEL}: {url} could not be downloaded: the server cannot be reached (Connection refused); try again, or"
        f" put the file at {hub}/a.pth"
    )


def test_download_gives_up_on_a_server_that_falls_silent(
    server: WeightsServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    server.answers["/a.pth"] = Answer(BODY, pause=0.5)
    assert "the server has not answered for 0.1 seconds" in message(Remote(f"{server.url}/a.pth", "a.pth"))
    assert [*hub.iterdir()] == []


def test_download_follows_a_redirect_and_verifies_the_checksum_in_its_headers(
    server: WeightsServer, hub: Path
) -> None:
    """Hugging Face's hub sends the SHA-256 checksum and the size with its redirect."""
    server.answers["/blob"] = Answer(BODY)
    for name, digits in (("good", DIGITS), ("bad", "0" * 64)):
        headers = {"Location": f"{server.url}/blob", "X-Linked-ETag": f'"{digits}"', "X-Linked-Size": "7000"}
        server.answers[f"/{name}"] = Answer(code=302, headers=headers)
    assert download(Remote(f"{server.url}/good", "good"), LABEL).read_bytes() == BODY
    assert f"its SHA-256 checksum begins with {DIGITS} instead of {'0' * 64}" in message(
        Remote(f"{server.url}/bad", "bad")
    )
    assert [path.name for path in hub.iterdir()] == ["good"]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "http://example.org/a.pth", "ftp://127.0.0.1/a.pth"])
def test_download_refuses_redirects_to_other_protocols(server: WeightsServer, hub: Path, target: str) -> None:
    server.answers["/a.pth"] = Answer(code=302, headers={"Location": target})
    said = message(Remote(f"{server.url}/a.pth", "a.pth"))
    assert target in said
    assert "not" in said
    assert not (hub / "a.pth").exists()


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a.pth", "file:///a.pth", "ftp://x/a.pth", "https:///a.pth", "https://[::1/a.pth", ""],
)
def test_check_url_refuses_what_is_not_https(url: str) -> None:
    with pytest.raises(
        ConfigError, match="^MODEL.WEIGHTS: weights are downloaded from https:// addresses only; got"
    ):
        check_url(url, "MODEL.WEIGHTS")


@pytest.mark.parametrize("url", ["https://example.org/a.pth", "http://localhost:1/a.pth", "http://[::1]:1/a"])
def test_check_url_accepts_https_and_this_machine(url: str) -> None:
    check_url(url, "MODEL.WEIGHTS")


def test_download_leaves_nothing_behind_when_the_disk_is_full(
    server: WeightsServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/a.pth"] = Answer(BODY)
    remote = Remote(f"{server.url}/a.pth", "a.pth")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "free_bytes", lambda folder: 6999)
        assert message(remote) == (
            f"{LABEL}: {remote.url} cannot be kept at {hub}/a.pth: it needs 7,000 bytes, and 6,999 are free; make"
            " room, or set TORCH_HOME to another folder"
        )

    def full(file: Any, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    assert "cannot be kept at" in message(remote)
    assert [*hub.iterdir()] == []


def test_download_names_a_folder_that_cannot_be_made(server: WeightsServer, hub: Path) -> None:
    hub.parent.mkdir(parents=True)
    hub.write_text("a file")
    assert f"cannot be kept at {hub}/a.pth: File exists" in message(Remote(f"{server.url}/a.pth", "a.pth"))


def test_download_leaves_nothing_behind_when_interrupted(
    server: WeightsServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Any, data: bytes) -> int:
        raise KeyboardInterrupt

    server.answers["/a.pth"] = Answer(BODY)
    monkeypatch.setattr(disk, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(Remote(f"{server.url}/a.pth", "a.pth"), LABEL)
    assert [*hub.iterdir()] == []


def test_download_shows_a_bar_on_a_terminal(
    server: WeightsServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    server.answers["/a.pth"] = Answer(BODY)
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        download(Remote(f"{server.url}/a.pth", f"a{shown}.pth"), LABEL)
        assert (f"a{shown}.pth" in stream.getvalue(), "7.00k" in stream.getvalue()) == (shown, shown)


def test_download_logs_address_size_and_path(server: WeightsServer, hub: Path, logged: list[Any]) -> None:
    server.answers["/a.pth"] = Answer(BODY)
    download(Remote(f"{server.url}/a.pth", "a.pth"), LABEL)
    assert [record.getMessage() for record in logged] == [
        f"downloading {server.url}/a.pth (0.0 MB) to {hub}/a.pth"
    ]


def test_download_is_complete_after_a_kill_and_a_second_try(server: WeightsServer, hub: Path) -> None:
    server.answers["/a.pth"] = Answer(BODY, pause=30)
    remote = Remote(f"{server.url}/a.pth", "a.pth")
    process = multiprocessing.get_context("fork").Process(target=download, args=(remote, LABEL))
    process.start()
    while not (hub.is_dir() and [*hub.iterdir()]):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    process.close()
    (left,) = hub.iterdir()
    assert disk.is_temporary(left.name, hub / "a.pth")

    server.answers["/a.pth"] = Answer(BODY)
    download(remote, LABEL)
    assert (hub / "a.pth").read_bytes() == BODY
    assert left.exists()  # it may belong to a download that is under way

    (hub / "a.pth").unlink()
    yesterday = time.time() - 25 * 3600
    os.utime(left, (yesterday, yesterday))
    download(remote, LABEL)
    assert [path.name for path in hub.iterdir()] == ["a.pth"]
