"""Command lines, exit codes, the default hooks and the log of a run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import (
    HookBase,
    NonFiniteLossError,
    SaveError,
    build_trainer,
    log_run,
    read_command_line,
    register_hook,
    resolve_config,
    run_tool,
    setup_logging,
)

Tiny = Callable[..., CfgNode]


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (0, 0, ""),
        (ConfigError("SOLVER.X: wrong"), 2, "error: SOLVER.X: wrong\n"),
        (NonFiniteLossError("iteration 3: total_loss is nan"), 3, "error: iteration 3: total_loss is nan\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_a_tool_exits_with_a_documented_code_and_one_message(
    outcome: int | BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with pytest.raises(SystemExit) as end:
        run_tool(main)
    assert end.value.code == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    "error", [ConfigError("x: 100%s wrong"), NonFiniteLossError("iteration 3: nan"), SaveError("disk full")]
)
def test_the_log_file_tells_what_ended_the_run_and_the_console_says_it_once(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        setup_logging(tmp_path)
        raise error

    with pytest.raises(SystemExit):
        run_tool(main)
    setup_logging()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {error}\n")
    assert (tmp_path / "log.txt").read_text().endswith(f" ERROR error: {error}\n")


def test_a_full_stderr_does_not_change_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        raise SaveError("disk full")

    class Full:
        def write(self, text: str) -> int:
            raise OSError

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("sys.stderr", Full())
        run_tool(main)
    assert end.value.code == 4


@pytest.mark.parametrize("error", [ZeroDivisionError("of 7"), RuntimeError("of 7")])
def test_a_bug_keeps_its_traceback_which_the_log_file_holds_too(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        setup_logging(tmp_path)
        raise error

    with pytest.raises(type(error)):
        run_tool(main)
    captured = capsys.readouterr()  # python itself prints the traceback where nobody catches it
    assert (captured.out, captured.err) == ("", "")
    said = (tmp_path / "log.txt").read_text()
    assert "] ERROR Traceback (most recent call last):\n" in said
    assert "raise error\n" in said
    assert said.endswith(f"{type(error).__name__}: of 7\n")


def test_the_bug_of_another_rank_is_in_the_log_file_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        setup_logging(tmp_path)
        logging.getLogger("warmstart").warning("for the console alone")
        raise ZeroDivisionError("of 7")

    setup_logging(tmp_path)  # the main rank's
    logging.getLogger("warmstart").info("first")
    setup_logging()
    monkeypatch.setattr("warmstart.engine.distributed.comm.is_main", lambda: False)
    monkeypatch.setattr("warmstart.engine.run.exit_codes.is_rank", lambda: True)
    monkeypatch.setattr("warmstart.engine.run.exit_codes.is_lost", lambda error: False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ZeroDivisionError):
        run_tool(main)
    first, who, *traceback = (tmp_path / "log.txt").read_text().splitlines()
    assert first.endswith("INFO first")
    assert re.search(r" ERROR rank 1 of 2, on \S+ has failed:$", who)
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "ZeroDivisionError: of 7"
    assert "has failed:\n" in capsys.readouterr().err


def test_a_rank_without_the_folder_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        setup_logging(tmp_path / "of another machine")
        raise ZeroDivisionError

    monkeypatch.setattr("warmstart.engine.distributed.comm.is_main", lambda: False)
    with pytest.raises(ZeroDivisionError):
        run_tool(main)
    assert not list(tmp_path.iterdir())


def test_log_run_warns_of_a_batch_larger_than_the_training_set(
    tiny: Tiny, logged: list[logging.LogRecord]
) -> None:
    for images, said in ((48, []), (480, [480])):
        cfg = resolve_config(tiny("SOLVER.IMS_PER_BATCH", images))
        logged.clear()
        log_run(cfg, build_trainer(cfg))
        warned = [line.getMessage() for line in logged if line.levelname == "WARNING"]
        assert warned == [
            f"SOLVER.IMS_PER_BATCH (override): a batch of {each} images holds each of the 48 training images"
            " about 10 times; set it to 48 or less"
            for each in said
        ]


def test_default_hooks_put_user_defined_hooks_before_the_records(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(HookBase):
        pass

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {})
    register_hook("mine", lambda cfg: Mine())
    with pytest.raises(ValueError, match="a hook called 'mine' is registered already"):
        register_hook("mine", lambda cfg: Mine())
    assert [hook.name for hook in build_trainer(tiny()).hooks] == [
        "FolderHook",
        "EvaluationHook",
        "Mine",
        "PictureHook",
        "RecordHook",
        "ReportHook",
        "CheckpointHook",
    ]


def test_default_hooks_put_optional_hooks_before_those_that_need_them(tiny: Tiny) -> None:
    cfg = tiny("PROFILER.ITERS", 2, "TEST.PRECISE_BN.ENABLED", True, "MEMORY_STATS", True)
    assert [hook.name for hook in build_trainer(cfg).hooks][:4] == [
        "FolderHook",
        "ProfilerHook",
        "PreciseBNHook",
        "EvaluationHook",
    ]


@pytest.mark.need("E12")
def test_log_run_logs_the_size_of_a_micro_batch(tiny: Tiny, logged: list[logging.LogRecord]) -> None:
    cfg = resolve_config(tiny("SOLVER.GRAD_ACCUM_STEPS", 4))
    log_run(cfg, build_trainer(cfg))
    assert "accumulation: 4 micro-batches of 2 images an update" in [record.getMessage() for record in logged]


@pytest.mark.need("F7")
def test_print_config_prints_the_source_of_each_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text("SEED: 3\nSOLVER: {GAMMA: 0.5}\n")
    (tmp_path / "x.yaml").write_text("_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 1e-2\n")
    with pytest.raises(SystemExit) as end:
        read_command_line(
            ["--config-file", str(tmp_path / "x.yaml"), "SOLVER.GAMMA", "0.2", "--print-config"], (), "a tool"
        )
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        "SOLVER.BASE_LR: 0.01  (default 0.001; set by " + f"{tmp_path}/x.yaml:3)",
        "SOLVER.GAMMA: 0.2  (default 0.1; set by command line)",
        "SEED: 3  (default 0; set by " + f"{tmp_path}/base.yaml:1)",
    ]


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    from warmstart.tools.train_net import FLAGS

    with pytest.raises(SystemExit) as end:
        read_command_line(["--help"], FLAGS, "Train a model.")
    assert end.value.code == 0
    out = capsys.readouterr().out
    for flag in ("--config-file", "--import", "--print-config", *(flag.name for flag in FLAGS)):
        assert flag in out


@pytest.mark.parametrize("module", ["mine.py", "./mine.py", "folder/mine"])
def test_import_takes_a_name_and_not_a_file(module: str) -> None:
    with pytest.raises(ConfigError, match="takes a module's name; write mine$"):
        read_command_line(["--import", module], (), "a tool")
