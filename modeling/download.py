"""Downloads of weights into torch's hub folder: verified, and complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch

from warmstart.config import ConfigError, disk

logger = logging.getLogger(__name__)

_CHUNK = 2**20  # bytes
_TIMEOUT = 30  # seconds without an answer from the server
_ABANDONED = 24 * 3600  # seconds after which an unfinished file belongs to a download that was killed
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Remote(NamedTuple):
    """A file of weights on a server.

    Args:
        url: its address.
        name: its name in torch's hub folder.
        sha256: the first digits of its SHA-256 checksum; "": unknown, or told by the server.
    """

    url: str
    name: str
    sha256: str = ""

    @property
    def path(self) -> Path:
        """Where the file is kept: `checkpoints` in `torch.hub.get_dir()`, as torchvision keeps it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name


def download(remote: Remote, label: str) -> Path:
    """Return the path of a file in torch's hub folder; download it if it is not there yet.

    The file is verified (its size and its checksum, as far as they are known) before it gets its name, so that a
    kill at any instant leaves a complete file or none. A bar on a terminal shows the progress.

    Args:
        remote: the file.
        label: the key that named it, for errors.

    Raises:
        ConfigError: the URL or a redirect is not https, the server cannot be reached or does not have the file,
            what arrived is incomplete or has another checksum, or the disk is full.
    """
    path = remote.path
    if path.is_file():
        return path
    check_url(remote.url, label)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(remote, path)
    except _FailedError as error:
        raise ConfigError(
            f"{label}: {remote.url} could not be downloaded: {error}; try again, or put the file at {path}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{label}: {remote.url} cannot be kept at {path}: {error.strerror or error}; make room, or set"
            " TORCH_HOME to another folder"
        ) from None
    return path


def check_url(url: str, label: str) -> None:
    """Raise ConfigError unless a URL begins with https://, or with http:// and this machine's own name.

    >>> check_url("http://localhost:8000/w.pth", "MODEL.WEIGHTS")
    >>> check_url("file:///etc/passwd", "MODEL.WEIGHTS")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.WEIGHTS: weights are downloaded from https:// addresses only; got \
file:///etc/passwd
    """
    if not _is_safe(url):
        raise ConfigError(f"{label}: weights are downloaded from https:// addresses only; got {url}")


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # such as an IPv6 address without its closing bracket
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


class _FailedError(Exception):
    """The reason why a download failed."""


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirects to https, and from this machine to itself; keeps the headers of the first answer."""

    def __init__(self) -> None:
        self.headers: Mapping[str, str] | None = None

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """Return the request that follows a redirect."""
        self.headers = self.headers or headers
        is_local = urlsplit(req.full_url).scheme == "http"
        if not _is_safe(newurl) or (urlsplit(newurl).scheme == "http" and not is_local):
            fp.close()
            raise _FailedError(f"it redirects to {newurl}, which is not an https:// address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(remote: Remote, path: Path) -> None:
    with _opened(remote.url) as (response, first):
        size = _number(response.headers.get("Content-Length")) or _number(first.get("X-Linked-Size"))
        digits = remote.sha256 or _linked_sha256(first)
        free = disk.free_bytes(path.parent)
        if size and size > free:
            raise OSError(None, f"it needs {size:,} bytes, and {free:,} are free")
        shown = f"{size / 1e6:.1f} MB" if size else "of unknown size"
        logger.info("downloading %s (%s) to %s", remote.url, shown, path)
        with disk.replacement(path) as file:
            count, digest = _copied(response, lambda data: disk.write(file, data), path.name, size)
            if size and count != size:
                raise _FailedError(f"the connection ended after {count:,} of {size:,} bytes")
            if digits and not digest.startswith(digits):
                raise _FailedError(
                    f"its SHA-256 checksum begins with {digest[: len(digits)]} instead of {digits}, so the file is"
                    " damaged or another one"
                )
    _remove_abandoned(path)


def _copied(response: Any, write: Callable[[bytes], object], name: str, size: int) -> tuple[int, str]:
    """Write everything that a server sends; return the number of bytes and their SHA-256 checksum."""
    from tqdm import tqdm  # here: most runs download nothing

    count, digest = 0, hashlib.sha256()
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": False, "dynamic_ncols": True}
    with tqdm(total=size or None, desc=name, disable=None, **options) as bar:  # None: a bar on terminals only
        while data := _read(response):
            write(data)
            digest.update(data)
            count += len(data)
            bar.update(len(data))
    return count, digest.hexdigest()


def _read(response: Any) -> bytes:
    with _network():
        data: bytes = response.read(_CHUNK)
    return data


@contextlib.contextmanager
def _opened(url: str) -> Iterator[tuple[Any, Mapping[str, str]]]:
    """Open a URL; yield the response, and the headers of the first answer, which may be a redirect."""
    redirects = _SafeRedirects()
    opener = build_opener(redirects)
    headers = {"User-Agent": "warmstart", "Accept-Encoding": "identity"}
    with _network():
        response = opener.open(Request(url, headers=headers), timeout=_TIMEOUT)
    with response:
        yield response, redirects.headers or response.headers


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Convert the errors of a connection to `_FailedError`."""
    try:
        yield
    except HTTPError as error:
        error.close()
        if error.code in (401, 403):
            reason = "it does not exist, or it is private or gated and needs a login"
        elif error.code == 404:
            reason = "there is no such file; check the name"
        else:
            reason = str(error.reason or "the server failed")
        raise _FailedError(f"{reason} (HTTP {error.code})") from None
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or str(error.reason)
        raise _FailedError(f"the server cannot be reached ({reason})") from None
    except TimeoutError:
        raise _FailedError(f"the server has not answered for {_TIMEOUT} seconds") from None
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise _FailedError(f"the connection broke ({str(error) or type(error).__name__})") from None


def _linked_sha256(headers: Mapping[str, str]) -> str:
    """Return the checksum that Hugging Face's hub sends with a large file; "" if there is none.

    >>> _linked_sha256({"X-Linked-ETag": '"' + 64 * "0" + '"'}) == 64 * "0", _linked_sha256({})
    (True, '')
    """
    tag = headers.get("X-Linked-ETag", "").strip('"')
    return tag if re.fullmatch("[0-9a-f]{64}", tag) else ""


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _remove_abandoned(path: Path) -> None:
    """Delete what downloads of the same file have left that were killed."""
    for each in path.parent.iterdir():
        with contextlib.suppress(OSError):
            if disk.is_temporary(each.name, path) and time.time() - each.stat().st_mtime > _ABANDONED:
                disk.unlink(each)
