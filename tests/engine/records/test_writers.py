"""The writers of records: metrics.json, TensorBoard and the console, on full disks and after resumes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from warmstart.config import CfgNode, disk
from warmstart.engine import (
    ConsoleWriter,
    JSONWriter,
    TensorBoardWriter,
    Writer,
    build_trainer,
    load_newest,
    setup_logging,
)
from warmstart.engine.checkpoint.run_files import run_files
from warmstart.engine.records.writers import RetryingWriter

from ..dying import killed_after
from ..faults import FullDisk

RECORD = {"iteration": 20, "total_loss": 1.5, "loss_cls": 1.5, "lr": 0.05, "data_time": 0.0005, "time": 0.01}


def read(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_tensorboard(folder: Path) -> list[int]:
    """Return the iterations that TensorBoard shows."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return [event.step for event in events.Scalars("total_loss")]


def json_in(folder: Path) -> Writer:
    return JSONWriter(folder / "metrics.json")


both = pytest.mark.parametrize(
    ("make", "iterations"),
    [
        (json_in, lambda folder: [record["iteration"] for record in read(folder / "metrics.json")]),
        (TensorBoardWriter, read_tensorboard),
    ],
)
Make = Callable[[Path], Writer]
Iterations = Callable[[Path], list[int]]


@pytest.mark.need("H1")
def test_json_writer_has_each_iteration_once_after_a_resume_and_keeps_cut_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    first = JSONWriter(path)
    first.open(0)
    for iteration in (50, 100, 120, 150):
        first.write({**RECORD, "iteration": iteration})
    second = JSONWriter(path)
    second.open(100)
    for iteration in (120, 150, 200):
        second.write({**RECORD, "iteration": iteration, "lr": 0.1})
    assert [(r["iteration"], r["lr"]) for r in read(path)] == [
        (50, 0.05),
        (100, 0.05),
        (120, 0.1),
        (150, 0.1),
        (200, 0.1),
    ]
    assert [r["iteration"] for r in read(tmp_path / "metrics.json.cut")] == [120, 150]


def test_json_writer_cuts_a_line_that_a_kill_truncated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 5}\n{"iteration": 10, "to')
    JSONWriter(path).open(10)
    assert read(path) == [{"iteration": 5}]


def test_json_writer_completes_a_last_line_without_newline(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 5}\n{"iteration": 10}')
    writer = JSONWriter(path)
    writer.open(10)
    writer.write({"iteration": 15})
    assert read(path) == [{"iteration": 5}, {"iteration": 10}, {"iteration": 15}]
    assert sorted(tmp_path.iterdir()) == [path]


def test_json_writer_keeps_all_lines_if_the_disk_fails_while_cutting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(file: object) -> None:
        raise OSError

    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 5}\n{"iteration": 10}\n')
    monkeypatch.setattr(disk, "sync", fails)
    with pytest.raises(OSError):
        JSONWriter(path).open(5)
    assert read(path) == [{"iteration": 5}, {"iteration": 10}]
    assert [path.name for path in tmp_path.glob(".*")] == []


@both
def test_writers_leave_no_part_of_a_record_on_a_full_disk(
    make: Make, iterations: Iterations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    writer = make(tmp_path)
    writer.open(0)
    writer.write(RECORD)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    disk.full = True
    with pytest.raises(OSError, match="No space left"):
        writer.write({**RECORD, "iteration": 40})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert iterations(tmp_path) == [20]


@pytest.mark.need("D5")
@both
def test_retrying_writer_keeps_records_until_the_disk_has_space(
    make: Make,
    iterations: Iterations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[logging.LogRecord],
) -> None:
    disk = FullDisk(monkeypatch)
    writer = RetryingWriter(make(tmp_path))
    writer.open(0)
    for iteration in range(20, 201, 20):
        disk.full = iteration in (60, 80, 100, 160)
        writer.write({**RECORD, "iteration": iteration})
    writer.flush()
    writer.close()
    assert iterations(tmp_path) == list(range(20, 201, 20))
    lines = [record.getMessage() for record in logged]
    failed = f"{writer.writer} could not be written: No space left on device; training continues, and its "
    assert lines == 2 * [
        f"{failed}records are kept until it can be",
        f"{writer.writer} is written again, with the records that were kept",
    ]
    assert str(tmp_path) in str(writer.writer)


@pytest.mark.need("D5")
@both
def test_retrying_writer_names_the_records_that_are_lost(
    make: Make,
    iterations: Iterations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[logging.LogRecord],
) -> None:
    disk = FullDisk(monkeypatch)
    writer = RetryingWriter(make(tmp_path))
    writer.open(0)
    for iteration in range(20, 101, 20):
        disk.full = iteration > 40
        writer.write({**RECORD, "iteration": iteration})
    writer.flush()
    writer.close()
    assert iterations(tmp_path) == [20, 40]
    assert len(list(tmp_path.iterdir())) == 1
    assert len(logged) == 2
    assert logged[1].getMessage().endswith("; it lacks the records of iterations 60 to 100")


@both
def test_retrying_writer_recreates_a_deleted_folder(
    make: Make, iterations: Iterations, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    writer = RetryingWriter(make(tmp_path / "out"))
    writer.open(0)
    writer.write(RECORD)
    shutil.rmtree(tmp_path / "out")
    for iteration in (40, 60):
        writer.write({**RECORD, "iteration": iteration})
    assert iterations(tmp_path / "out") == [40, 60]
    assert "No such file or directory" in logged[0].getMessage()


def test_retrying_writer_writes_no_record_twice_after_a_failure(logged: list[logging.LogRecord]) -> None:
    class Stubborn:
        """Fails every second time, and cannot be closed."""

        def __init__(self) -> None:
            self.opened: list[int] = []
            self.calls: list[int] = []

        def open(self, iteration: int) -> None:
            self.opened.append(iteration)

        def write(self, *records: dict[str, float]) -> None:
            self.calls.append(int(records[0]["iteration"]))
            if len(self.calls) % 2 == 0:
                raise OSError

        def close(self) -> None:
            raise OSError

    inner = Stubborn()
    writer = RetryingWriter(inner)
    writer.open(0)
    for iteration in (1, 2, 3, 4):
        writer.write({"iteration": iteration})
    writer.flush()
    writer.close()
    assert (inner.opened, inner.calls) == ([0, 1, 2, 3], [1, 2, 2, 3, 3, 4, 4])
    assert len(logged) == 1


def test_json_writer_writes_null_for_nan(tmp_path: Path) -> None:
    writer = JSONWriter(tmp_path / "metrics.json")
    writer.write({"iteration": 1, "digits_test/loss": float("nan")})
    assert (tmp_path / "metrics.json").read_text() == '{"iteration": 1, "digits_test/loss": null}\n'


def test_tensorboard_writer_writes_scalars_that_tensorboard_reads(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorBoardWriter(tmp_path)
    writer.open(0)
    writer.write(RECORD)
    writer.write({**RECORD, "iteration": 40, "total_loss": 0.75})
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("total_loss")] == [(20, 1.5), (40, 0.75)]
    assert "iteration" not in events.Tags()["scalars"]


@pytest.mark.need("H1")
def test_tensorboard_writer_replaces_records_that_a_resumed_run_writes_again(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = TensorBoardWriter(tmp_path)
    first.open(0)
    for iteration in (20, 40, 60):
        first.write({**RECORD, "iteration": iteration})
    first.close()
    second = TensorBoardWriter(tmp_path)
    second.open(40)
    second.write({**RECORD, "iteration": 60, "total_loss": 0.5})
    second.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("total_loss")] == [(20, 1.5), (40, 1.5), (60, 0.5)]


EVENTS = "events.out.tfevents."


@pytest.mark.parametrize(
    ("there", "now", "name"),
    [
        ([], 1763740000.5, "1763740000.500000"),
        ([], 5.25, "0000000005.250000"),
        (["1763740000.400000.host.1"], 1763740000.5, "1763740000.500000"),
        (["1763740000.500000.host.1"], 1763740000.5, "1763740000.500001"),
        (["1763740000.999999.host.1", "1763730000.000000.host.1"], 1763736400.0, "1763740001.000000"),
        (["99999999999.999998.host.1"], 1763740000.5, "99999999999.999999"),
        (["5.250000.host.1"], 1763740000.5, "5.250001"),  # of a version without zero padding
        (["1763740000.host.1.0"], 1763740000.5, "1763740001.000000"),  # as torch's SummaryWriter names them
        (["best", "1763740000.x"], 1763740000.5, "1763740001.000000"),
        (["best"], 1763740000.5, "1763740000.500000"),  # not a time stamp
    ],
)
def test_stamp_sorts_after_existing_event_files(
    there: list[str], now: float, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in there:
        (tmp_path / f"{EVENTS}{each}").touch()
    monkeypatch.setattr(time, "time_ns", lambda: round(now * 1e6) * 1000)
    writer = TensorBoardWriter(tmp_path)
    writer.open(0)
    writer.write(RECORD)
    (path,) = (path for path in run_files(tmp_path) if path.stat().st_size)
    assert path.name == f"{EVENTS}{name}.{socket.gethostname()}.{os.getpid()}"
    assert max(each.name for each in tmp_path.iterdir() if "best" not in each.name) == path.name


@pytest.mark.need("H1")
@pytest.mark.parametrize("jump", [-7 * 3600, 7 * 3600, -60 * 365 * 24 * 3600])
def test_tensorboard_writer_loses_no_iteration_if_the_clock_jumps_before_a_resume(
    jump: float, tiny: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cfg, skew, clock = tiny("SOLVER.CHECKPOINT_PERIOD", 2, "LOG_PERIOD", 1), 0.0, time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() + round(skew * 1e9))
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
    for end in (5, 9, None):
        trainer = build_trainer(cfg)
        if found := load_newest(tmp_path / "out"):
            trainer.load_state_dict(found[1])
        if end is None:
            trainer.train()
        else:
            killed_after(trainer, end)
        skew += jump
    assert read_tensorboard(tmp_path / "out") == list(range(1, 15))
    # TensorBoard reads while files are added: it never opens one that sorts before those already read.
    paths = sorted((tmp_path / "out").glob(f"{EVENTS}*"))
    (tmp_path / "live").mkdir()
    live = accumulator.EventAccumulator(str(tmp_path / "live"))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        shutil.copy(path, tmp_path / "live")
        live.Reload()
    assert [event.step for event in live.Scalars("total_loss")] == list(range(1, 15))


@pytest.mark.need("H1")
def test_writers_drop_old_records_when_a_run_restarts_at_zero(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for value in (1.5, 0.5):
        writer = TensorBoardWriter(tmp_path)
        writer.open(0)
        writer.write({**RECORD, "total_loss": value})
        writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("total_loss")] == [(20, 0.5)]


def test_console_line_shows_progress_losses_learning_rates_and_times() -> None:
    line = ConsoleWriter(max_iter=1200).line({**RECORD, "loss_cls": 1.0, "loss_box": 0.5})
    assert line.startswith(
        "iter   20/1200  eta 0:00:11  loss 1.5        cls 1          box 0.5        "
        "lr 0.05       10.0 ms/it (data 0.5)  mem "
    )
    assert line.endswith(" MB")


def test_console_line_shows_epochs_and_the_lowest_and_highest_learning_rate() -> None:
    writer = ConsoleWriter(max_iter=1200, epoch=Fraction(25, 2))
    line = writer.line({**RECORD, "lr/head": 0.5, "lr/norm": 0.05, "lr/stem": 0.002})
    assert line.startswith(
        "iter   20/1200  epoch  1.6/96.0  eta 0:00:11  loss 1.5        lr 0.002..0.5  10.0 ms/it"
    )


def test_console_line_of_a_run_shorter_than_an_epoch_has_three_digits() -> None:
    assert "  epoch 0.020/0.050  " in ConsoleWriter(max_iter=50, epoch=1000).line(RECORD)


def test_console_eta_follows_from_the_time_since_the_first_record(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = iter([100.0, 110.0, 150.0])
    monkeypatch.setattr("warmstart.engine.records.console.time.perf_counter", lambda: next(now))
    writer = ConsoleWriter(max_iter=120, bar=False)
    writer.open(0)
    with caplog.at_level(logging.INFO):
        for iteration, seconds in ((20, 9.0), (40, 0.5), (60, 0.001)):
            writer.write({**RECORD, "iteration": iteration, "time": seconds})
    # 100 iterations of 9 s; then 80 of 10 s / 20; then 60 of 50 s / 40: a pause counts, one slow record does not.
    assert [line.split("eta ")[1][:7] for line in caplog.messages] == ["0:15:00", "0:00:40", "0:01:15"]


def test_console_writes_a_separate_line_for_scores(caplog: pytest.LogCaptureFixture) -> None:
    writer = ConsoleWriter(max_iter=1200, bar=False, percent={"accuracy"})
    with caplog.at_level(logging.INFO):
        writer.write({**RECORD, "digits_test/accuracy": 0.9875, "digits_test/ema/accuracy": 0.99})
        writer.write({**RECORD, "digits_test/mae": 0.9875, "digits_test/loss": 2.0})
    assert [line for line in caplog.messages if " after 20 iterations" in line] == [
        "digits_test after 20 iterations: accuracy 98.75%",
        "digits_test/ema after 20 iterations: accuracy 99.00%",
        "digits_test after 20 iterations: mae 0.9875, loss 2",
    ]


def test_console_omits_values_that_are_neither_scores_nor_losses(caplog: pytest.LogCaptureFixture) -> None:
    writer = ConsoleWriter(max_iter=1200, bar=False)
    more = {"train/error": 0.5, "grad_norm": 7.0, "lr/norm": 0.05, "memory/host_mb": 512.0}
    with caplog.at_level(logging.INFO):
        writer.write({**RECORD, **more})
    assert caplog.messages == [writer.line(RECORD)]


@pytest.mark.need("H3")
def test_console_has_no_progress_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    writer = ConsoleWriter(max_iter=1200)
    writer.open(0)
    writer.write(RECORD)
    writer.close()
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert "\r" not in captured.out + captured.err
    assert captured.err == ""


@pytest.mark.need("H3")
def test_console_progress_bar_follows_the_records_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    writer = ConsoleWriter(max_iter=1200, bar=True)
    writer.open(0)
    writer.write(RECORD)
    writer.close()
    captured = capsys.readouterr()
    assert "20/1200" in captured.err
    assert "iter   20/1200" in captured.out


@pytest.mark.need("H2")
def test_setup_logging_twice_prints_a_message_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    setup_logging(tmp_path)
    setup_logging(tmp_path)
    root = logging.getLogger()
    handler = logging.StreamHandler()  # what logging.basicConfig adds
    root.addHandler(handler)
    try:
        logging.getLogger("warmstart.engine").info("once")
    finally:
        root.removeHandler(handler)
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("once") == 1
    assert (tmp_path / "log.txt").read_text().count("once") == 1
