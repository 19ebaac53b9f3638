"""Links between real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from warmstart.config import ConfigError
from warmstart.engine import links


@pytest.mark.slow
def test_two_processes_of_this_machine_have_a_link() -> None:
    link = links.measure_links(2)
    assert 1e-6 < link.latency < 0.1
    assert 1e6 < link.bandwidth < 1e12


def test_processes_that_cannot_be_started_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ConfigError, match="^--measure-links: 2 processes could not be started: no message$"):
        links.measure_links(2)


def test_processes_that_hang_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("x", 300)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ConfigError, match="^--measure-links: 4 processes did not answer in 300 s$"):
        links.measure_links(4)
