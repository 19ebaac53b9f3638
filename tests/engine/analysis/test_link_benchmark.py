"""The benchmark of links, between real processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from warmstart.config import ConfigError
from warmstart.engine.analysis import link_benchmark as links


@pytest.mark.slow
def test_measure_links_of_two_processes_leaves_no_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    link = links.measure_links(2)
    assert [each for each in tmp_path.iterdir() if not each.name.startswith("torchinductor_")] == []
    assert 1e-6 < link.latency < 0.1
    assert 1e6 < link.bandwidth < 1e12


def test_measure_links_says_that_processes_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ConfigError, match="^--measure-links: 2 processes could not be started: no message$"):
        links.measure_links(2)


def test_measure_links_says_that_processes_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_TIMEOUT", 0.01)
    with pytest.raises(ConfigError, match="^--measure-links: 4 processes did not answer in 0.01 s$"):
        links.measure_links(4)
