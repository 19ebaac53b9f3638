"""Paths of shards from a pattern with braces; shards at URLs are copied into the cache first."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import shutil
import string
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlparse

from .cache_dir import whole_file

logger = logging.getLogger(__name__)

_LETTERS = string.ascii_uppercase + string.ascii_lowercase
_MOST = 10**6  # shards per data set
_RANGE = re.compile(r"(?:(-?[0-9]+)\.\.(-?[0-9]+)|([A-Za-z])\.\.([A-Za-z]))(?:\.\.(-?[0-9]+))?")


def shard_paths(pattern: str, folder: Path, download: bool) -> list[Path]:
    """Return the paths of shards, in order.

    The package webdataset copies shards at URLs once, because random access to an archive needs a local file.

    Args:
        pattern: a path or URL, with braces for several: "x-{000..146}.tar".
        folder: folder for the copies.
        download: whether missing shards may be copied.

    Raises:
        FileNotFoundError: a shard does not exist.
        OSError: a shard could not be copied.
        ValueError: the braces are not closed, the URL's scheme is not supported, copies are not allowed, or the
            package is not installed.

    >>> shard_paths("pipe:rm x.tar", Path("kept"), download=True)
    Traceback (most recent call last):
    ValueError: pipe: runs a command, which a config never does; copy the shards and give their paths
    """
    paths = []
    for url in _expand(pattern):
        paths.append(_local(url, folder, download))
        if not paths[-1].is_file():
            raise FileNotFoundError(f"no file {paths[-1]}")
    return paths


def count_names(pattern: str) -> int:
    """Return how many names a pattern with braces expands to, without expanding it.

    >>> count_names("{train,val{0,1}}-{000..146}.tar"), count_names("{0..999999999}"), count_names("{0..9..3}")
    (441, 1000000000, 4)
    """
    counts: list[int] = []

    def of(text: str) -> int:
        """Return the product of the counts of the braces in a text, in which each is an index into `counts`."""
        return math.prod(counts[int(number)] for number in re.findall("\0([0-9]+)\0", text))

    def counted(braces: re.Match[str]) -> str:
        span = _RANGE.fullmatch(braces[1])
        if span:
            a, b, first, last, step = span.groups()
            ends = (int(a), int(b)) if a else (_LETTERS.index(first), _LETTERS.index(last))
            counts.append(abs(ends[1] - ends[0]) // max(1, abs(int(step or 1))) + 1)
        else:
            counts.append(sum(map(of, braces[1].split(","))))
        return f"\0{len(counts) - 1}\0"

    rest, found = re.sub(r"\\.|\0", "", pattern), 1
    while found:
        rest, found = re.subn(r"\{([^{}]*)\}", counted, rest)
    return of(rest)


def _expand(pattern: str) -> Iterable[str]:
    """Return the names that a pattern with braces expands to; a pattern without braces is returned as it is."""
    if "{" not in pattern:
        return [pattern]
    count = count_names(pattern)
    if count > _MOST:
        raise ValueError(f"{pattern} means {count:,} shards; the limit is {_MOST:,}")
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise _not_installed("braces") from None
    return iter(braceexpand(pattern))


def _local(url: str, folder: Path, download: bool) -> Path:
    """Return the path of a shard."""
    scheme = urlparse(url).scheme
    if len(scheme) < 2:  # one letter is a drive, not a scheme
        return Path(url).expanduser()
    if scheme == "pipe":
        raise ValueError("pipe: runs a command, which a config never does; copy the shards and give their paths")
    try:
        from webdataset import gopen, gopen_schemes
    except ImportError:
        raise _not_installed("URLs") from None
    if scheme not in gopen_schemes:
        known = ", ".join(name for name in gopen_schemes if name.isalpha() and name != "pipe")
        raise ValueError(f"webdataset opens no {scheme} URLs, only {known}; copy the shards and give their paths")
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"
    if path.is_file():
        return path
    if not download:
        raise ValueError(f"{url} has not been copied into {folder} yet; set DATASETS.DOWNLOAD true to allow it")
    logger.info(f"Copying {url} to {path}, once")
    try:
        with whole_file(path) as file, gopen(url) as stream:
            shutil.copyfileobj(stream, file)
    except OSError as error:
        exited = re.search(r"exit -?[0-9]+", str(error))  # the rest of the text is Python's view of the command
        reason = f"its opener ended with {exited[0]}" if exited else str(error)
        raise OSError(f"{url} could not be copied to {folder}: {reason}") from None
    return path


def _not_installed(what: str) -> ValueError:
    return ValueError(f"{what} need the package webdataset; pip install 'warmstart[webdataset]'")
