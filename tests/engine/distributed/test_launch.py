"""--num-gpus: start of the processes, signals, failures, restarts and exit codes."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import ConfigError, get_cfg
from warmstart.engine import load_checkpoint
from warmstart.engine.distributed.environment import slurm_environment
from warmstart.engine.distributed.launch import run_here, wants_launch
from warmstart.engine.run.launch import launch
from warmstart.engine.run.world_size_scaling import scaled
from warmstart.tools import train_net

from ..dying import assert_same_bits

SECONDS = 200  # more than any of them takes
ROOT = Path(__file__).parent.parent.parent.parent
WEIGHTS = ("model", "optimizer", "scheduler", "iteration", "rng")

forked = pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")


def started(words: list[str], device: str = "cpu", **environ: str) -> subprocess.Popen[str]:
    """Start train_net.py, with one thread a rank."""
    own = [f"MODEL.DEVICE={device}", "--import=tests.engine.failing"]
    return subprocess.Popen(
        [sys.executable, "tools/train_net.py", *words, *own],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A folder for TMPDIR."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def left_in(folder: Path) -> list[str]:
    """Return the files of a launcher in its temporary folder, apart from the cache of torch's compiler."""
    return [each.name for each in folder.iterdir() if not each.name.startswith("torchinductor_")]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()


# A rank that imports nothing slow: it writes its process id, and does what the words after the folder say.
RANK = """
import os, pathlib, signal, sys, time
folder, rank, words = pathlib.Path(sys.argv[1]), os.environ["RANK"], sys.argv[2:]
def leave(signum, frame):
    (folder / f"signal{rank}").write_text(str(signum))
    sys.exit(128 + signum)
for each in (signal.SIGUSR1, signal.SIGHUP):
    signal.signal(each, leave)
(folder / f"new{rank}").write_text(str(os.getpid()))
(folder / f"new{rank}").rename(folder / f"pid{rank}")
if rank in words and not (folder / "failed").exists():
    while len([*folder.glob("pid*")]) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)
    (folder / "failed").touch()
    sys.exit(int(words[-1])) if words[-1] != "kill" else os.kill(os.getpid(), signal.SIGKILL)
if "wait" in words:
    time.sleep(100)
"""


class Launcher:
    """`run_here` of two ranks, in a forked process: no process has to import torch.

    Args:
        folder: of the files of the ranks and of what the launcher prints.
        words: what the ranks do: ["1", "wait", "kill"]: rank 1 kills itself while the others wait.
        restarts: as for `run_here`.
    """

    def __init__(self, folder: Path, words: list[str], restarts: int = 0) -> None:
        self.folder = folder
        command = ["-c", RANK, str(folder), *words]

        def run() -> None:
            os.dup2(os.open(folder / "err", os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            sys.exit(run_here(command, 2, restarts, grace=20))

        self.process = multiprocessing.get_context("fork").Process(target=run)
        self.process.start()

    def pids(self) -> list[int]:
        """Return the process ids of both ranks, when they have started."""
        files = [self.folder / "pid0", self.folder / "pid1"]
        end = time.monotonic() + SECONDS
        while not all(file.exists() for file in files) and time.monotonic() < end:
            time.sleep(0.01)
        return [int(file.read_text()) for file in files]

    def end(self) -> tuple[int | None, str]:
        """Return the exit code and what the launcher has printed."""
        self.process.join(SECONDS)
        return self.process.exitcode, (self.folder / "err").read_text()


@forked
@pytest.mark.need("D14", "G1")
@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGHUP])
def test_run_here_passes_a_signal_to_all_ranks_and_leaves_no_process_or_folder(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    """A terminal that is closed sends SIGHUP to the launcher alone."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    launcher = Launcher(tmp_path, ["wait"])
    ranks = launcher.pids()
    assert len(left_in(temporary)) == 1
    assert launcher.process.pid is not None
    os.kill(launcher.process.pid, signum)
    assert launcher.end() == (128 + signum, "")
    assert [(tmp_path / f"signal{rank}").read_text() for rank in "01"] == [str(int(signum))] * 2
    assert not any(is_running(pid) for pid in ranks)
    assert left_in(temporary) == []


@forked
@pytest.mark.need("G2")
@pytest.mark.parametrize(
    ("how", "code", "text"), [("kill", 137, "error: rank 1 was killed by SIGKILL\n"), ("3", 3, "")]
)
def test_run_here_ends_all_ranks_after_one_failed_and_exits_with_its_code(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, how: str, code: int, text: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("warmstart.engine.distributed.elastic_agent._LEFT_BEHIND", 0.2)
    launcher = Launcher(tmp_path, ["1", "wait", how])
    ranks = launcher.pids()
    killed = "error: rank 0 was killed: it did not exit within 0.2 s after another rank failed\n"
    assert launcher.end() == (code, killed + text)
    assert not any(is_running(pid) for pid in ranks)
    assert left_in(temporary) == []


@forked
@pytest.mark.need("G4")
def test_run_here_restarts_all_ranks_after_one_was_killed(tmp_path: Path) -> None:
    text = "rank 1 was killed by SIGKILL; restarting all ranks (restart 1 of 2)\n"
    assert Launcher(tmp_path, ["1", "kill"], restarts=2).end() == (0, text)


@forked
@pytest.mark.need("G4")
def test_run_here_does_not_restart_after_an_exit_code_that_would_repeat(tmp_path: Path) -> None:
    assert Launcher(tmp_path, ["1", "2"], restarts=2).end() == (2, "")


@pytest.mark.slow
@pytest.mark.need("D14", "G1")
@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGHUP])
def test_num_gpus_saves_on_a_signal_to_the_launcher_and_leaves_no_orphan(
    tiny_words: list[str], tmp_path: Path, temporary: Path, signum: signal.Signals
) -> None:
    words = [*tiny_words, "--num-gpus=2", "SOLVER.MAX_ITER=1000000", "SOLVER.STEPS=900000"]
    process = started(words, TMPDIR=str(temporary))
    records = tmp_path / "out" / "metrics.json"
    end = time.monotonic() + SECONDS
    while not records.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    ranks = children(process.pid)
    assert len(ranks) == 2
    process.send_signal(signum)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signum, err
    assert err == f"{signum.name}: finishing this iteration, then saving; a second signal exits at once\n"
    assert (
        out.count("processes: 2, with 4 of the 8 images of a batch each; gradients are averaged in float32") == 1
    )
    assert f"{signum.name}: ended after iteration" in out
    assert (tmp_path / "out" / "last_checkpoint").exists()
    assert not any(is_running(pid) for pid in ranks)
    assert not (tmp_path / "out" / ".lock").exists()
    assert left_in(temporary) == []


@pytest.mark.slow
@pytest.mark.need("G1")
def test_num_gpus_runs_two_runs_on_one_machine(tiny_words: list[str], tmp_path: Path) -> None:
    runs = [started([*tiny_words, "--num-gpus=2", f"OUTPUT_DIR={tmp_path}/{name}"]) for name in "ab"]
    for run in runs:
        out, err = run.communicate(timeout=SECONDS)
        assert (run.returncode, err) == (0, ""), out
    assert_same_bits(*(load_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in "ab"))


@pytest.mark.slow
@pytest.mark.need("G2")
@pytest.mark.parametrize("how", ["raise", "raise beside work"])
def test_num_gpus_ends_all_ranks_with_the_traceback_of_the_one_that_raised(
    tiny_words: list[str], tmp_path: Path, how: str
) -> None:
    """Also if the other rank is busy, and would not notice the failure for a long time."""
    process = started([*tiny_words, "--num-gpus=2"], FAIL=how)
    mark = tmp_path / "out.failed"
    while not mark.exists() and process.poll() is None:
        time.sleep(0.01)
    failed = time.monotonic()
    _, err = process.communicate(timeout=SECONDS)
    assert time.monotonic() - failed < 25  # torch itself would wait for 30
    assert process.returncode == 1
    assert "rank 1 of 2, on " in err
    assert err.count("Traceback") == 1
    assert err.count("RuntimeError: what a bug says") == 1
    killed = "error: rank 0 was killed: it did not exit within 3 s after another rank failed\n"
    if how == "raise beside work":  # otherwise it may be killed too, on a busy machine
        assert err.count(killed) == 1
    assert "finishing this iteration" not in err


@pytest.mark.slow
@pytest.mark.need("G2")
def test_num_gpus_ends_all_ranks_if_one_raises_before_the_rendezvous(tiny_words: list[str]) -> None:
    began = time.monotonic()
    process = started([*tiny_words, "--num-gpus=2"], FAIL="raise at import")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.count("RuntimeError: what a bug says") == 1
    assert time.monotonic() - began < 45  # in which torch is imported twice, one after the other


@pytest.mark.slow
@pytest.mark.need("G2", "G3")
def test_num_gpus_ends_all_ranks_after_the_timeout_if_one_hangs(tiny_words: list[str], tmp_path: Path) -> None:
    process = started([*tiny_words, "--num-gpus=2", "DISTRIBUTED.TIMEOUT=4"], FAIL="hang")
    mark = tmp_path / "out.failed"
    while not mark.exists() and process.poll() is None:
        time.sleep(0.01)
    hung = time.monotonic()
    _, err = process.communicate(timeout=SECONDS)
    assert time.monotonic() - hung < 60  # it hangs for 100
    assert process.returncode == 5
    lost, killed = err.splitlines()
    assert re.fullmatch(
        r"rank 0 of 2, on \S+: another rank exited or timed out: "
        r"Timed out waiting 4000ms for \w+ operation to complete \(DISTRIBUTED.TIMEOUT\)",
        lost,
    )
    assert killed == "error: rank 1 was killed: it did not exit within 3 s after another rank failed"


@pytest.mark.slow
@pytest.mark.need("D14")
def test_num_gpus_ends_at_a_second_signal_while_one_rank_blocks_the_start(
    tiny_words: list[str], tmp_path: Path
) -> None:
    process = started([*tiny_words, "--num-gpus=2"], FAIL="deaf", DEAF=str(tmp_path / "deaf"))
    while not (tmp_path / "deaf").exists() and process.poll() is None:
        time.sleep(0.01)
    ranks = children(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert time.monotonic() - began < 25
    assert process.returncode == 130
    assert not any(is_running(pid) for pid in ranks)


@pytest.mark.slow
@pytest.mark.need("F8", "G4")
def test_num_gpus_does_not_restart_after_a_config_error(tiny_words: list[str]) -> None:
    assert train_net.main(tiny_words) == 0
    process = started([*tiny_words, "--num-gpus=2", "DISTRIBUTED.MAX_RESTARTS=3"])
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert (
        err.count("\n") == err.count("holds the checkpoints of an earlier run; give --resume to continue it") == 1
    )


@pytest.mark.slow
@pytest.mark.need("G4")
def test_num_gpus_restarts_after_a_killed_rank_and_ends_with_the_same_weights(
    tiny_words: list[str], tmp_path: Path
) -> None:
    words = [*tiny_words, "--num-gpus=2", "SOLVER.CHECKPOINT_PERIOD=3"]
    straight = started([*words, f"OUTPUT_DIR={tmp_path}/straight"])
    assert straight.communicate(timeout=SECONDS)[1] == ""
    killed = started([*words, "DISTRIBUTED.MAX_RESTARTS=1"], FAIL="kill")
    out, err = killed.communicate(timeout=SECONDS)
    assert killed.returncode == 0, err
    assert "rank 1 was killed by SIGKILL; restarting all ranks (restart 1 of 1)\n" in err
    assert out.count("restarted after a failure: --resume is implied") == 1
    assert out.count("continuing after iteration 6") == 1
    a, b = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("straight", "out"))
    for part in WEIGHTS:
        assert_same_bits(a[part], b[part], part)


@pytest.mark.slow
@pytest.mark.need("G2")
def test_num_gpus_names_a_killed_rank(tiny_words: list[str], temporary: Path) -> None:
    process = started([*tiny_words, "--num-gpus=2"], FAIL="kill", TMPDIR=str(temporary))
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 137
    assert "error: rank 1 was killed by SIGKILL\n" in err
    assert left_in(temporary) == []


@pytest.mark.slow
def test_num_machines_trains_on_two_machines_with_an_address(tiny_words: list[str], tmp_path: Path) -> None:
    from ..ranks import free_port

    words = [*tiny_words, "--num-machines=2", "--num-gpus=1", f"--dist-url=tcp://127.0.0.1:{free_port()}"]
    first, second = (started([*words, f"--machine-rank={number}"]) for number in (0, 1))
    out, err = first.communicate(timeout=SECONDS)
    assert (first.returncode, err) == (0, "")
    assert "processes: 2, with 4 of the 8 images" in out
    assert second.communicate(timeout=SECONDS) == ("", "")
    assert second.returncode == 0
    assert len(load_checkpoint(tmp_path / "out" / "model_final.pth")["rng"]) == 2


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.need("C8", "D14")
def test_two_gpus_train_and_one_continues(tiny_words: list[str], tmp_path: Path) -> None:
    """With all that NCCL sends: gradients, BatchNorm, buffers before an evaluation, precise statistics."""
    words = [*tiny_words, "MODEL.SYNC_BN=true", "TEST.EVAL_PERIOD=3", "SOLVER.EMA.ENABLED=true"]
    words += ["TEST.PRECISE_BN.ENABLED=true", "TEST.PRECISE_BN.NUM_ITER=3", "SOLVER.GRAD_ACCUM_STEPS=2"]
    words += ["SOLVER.AMP.ENABLED=true", "SOLVER.AMP.PRECISION=fp16"]
    process = started([*words, "--num-gpus=2", "SOLVER.MAX_ITER=10"], device="cuda")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    states = load_checkpoint(tmp_path / "out" / "model_final.pth")["rng"]
    assert [state["cuda"] is not None for state in states] == [True, True]
    out, err = started([*words, "--resume"], device="cuda").communicate(timeout=SECONDS)
    assert "processes: 2 -> 1; batches stay the same" in out, err
    assert load_checkpoint(tmp_path / "out" / "model_final.pth")["iteration"] == 14


FLAGS: dict[str, Any] = {"num_gpus": None, "num_machines": None, "machine_rank": None, "dist_url": None}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            {"num_machines": 2},
            "--num-machines 2 needs --machine-rank, from 0 to 1, and --dist-url tcp://HOST:PORT",
        ),
        (
            {"num_machines": 2, "machine_rank": 2, "dist_url": "tcp://a:1"},
            "--machine-rank 2: the machines are 0 to 1; --num-machines sets their number$",
        ),
        ({"num_gpus": 2, "machine_rank": 1}, "--machine-rank 1: the machines are 0 to 0; --num-machines sets"),
        ({"num_gpus": 2, "dist_url": "a"}, "--dist-url a: expected tcp://HOST:PORT, such as tcp://node1:29500"),
        ({"num_gpus": 2, "dist_url": "tcp://a:65536"}, "--dist-url tcp://a:65536: .* a port from 1 to 65535$"),
    ],
)
def test_wants_launch_refuses_inconsistent_flags(flags: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^command line: {text}"):
        wants_launch(FLAGS | flags)


def test_run_here_says_that_it_needs_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    text = "^the processes need a temporary folder for their rendezvous: No such file or directory; set TMPDIR to "
    with pytest.raises(ConfigError, match=text):
        run_here(["-c", ""], 2)


def test_distributed_timeout_refuses_more_than_a_year() -> None:
    with pytest.raises(ConfigError, match=r"^DISTRIBUTED.TIMEOUT \(override\): .* 31536000"):
        get_cfg().merge_from_list(["DISTRIBUTED.TIMEOUT", 10**18])


def test_wants_launch_is_false_without_flags_and_for_one_process() -> None:
    assert [wants_launch(FLAGS | {"num_gpus": number}) for number in (None, 1, 2)] == [
        False,
        False,
        True,
    ]


def test_wants_launch_on_a_rank_is_false_and_refuses_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not wants_launch(FLAGS | {"num_gpus": 2})
    with pytest.raises(
        ConfigError, match="--num-gpus 3: a launcher has already started 2 processes here; leave the flag out"
    ):
        wants_launch(FLAGS | {"num_gpus": 3})


@pytest.mark.need("E15")
def test_launch_refuses_invalid_configs_before_it_starts_a_process(
    tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = r"9 images cannot be shared evenly by 6 processes; set it to 6 or 12$"
    cfg = get_cfg()
    cfg.merge_from_list([*tiny_words, "SOLVER.IMS_PER_BATCH=9", "MODEL.DEVICE=cpu"])
    flags = FLAGS | {"num_gpus": 3, "num_machines": 2, "machine_rank": 0, "dist_url": "tcp://a:1"}
    with pytest.raises(ConfigError, match=text):
        launch(cfg, flags)
    cfg.merge_from_list(["MODEL.SYNC_BN", True, "SOLVER.IMS_PER_BATCH", 12])
    with pytest.raises(
        ConfigError, match=r"^MODEL.SYNC_BN \(override\): torch synchronises BatchNorm on CUDA devices"
    ):
        launch(cfg, flags)
    cfg.merge_from_list(["MODEL.SYNC_BN", False, "DISTRIBUTED.STATIC_GRAPH", True, "SOLVER.GRAD_ACCUM_STEPS", 2])
    with pytest.raises(
        ConfigError, match=r"^DISTRIBUTED.STATIC_GRAPH \(override\): torch has no static graph with"
    ):
        launch(cfg, flags)
    cfg.merge_from_list(["DISTRIBUTED.STATIC_GRAPH", False, "MODEL.PARALLEL", "fsdp", "MODEL.COMPILE", "default"])
    text = r'^MODEL.COMPILE \(override\): does not go together with MODEL.PARALLEL fsdp; set it to ""$'
    with pytest.raises(ConfigError, match=text):
        launch(cfg, flags)
    cfg.merge_from_list(["MODEL.COMPILE", "", "SOLVER.OPTIMIZER", "Adafactor"])
    with pytest.raises(ConfigError, match="fsdp; Adafactor needs unsharded tensors; take AdamW or SGD$"):
        launch(cfg, flags)
    cfg.merge_from_list(["MODEL.DEVICE", "cuda"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(
        ConfigError, match="3 processes on this machine need 3 CUDA devices, it has 2; start 2, as w"
    ):
        launch(cfg, flags)
    cfg.merge_from_list(["MODEL.DEVICE", "cuda:1"])
    with pytest.raises(ConfigError, match="each process needs its own device; set it to cuda, for the first 3$"):
        launch(cfg, flags)


@pytest.mark.need("G4")
@pytest.mark.parametrize("flag", [[], ["--overwrite"]])
def test_restarted_run_resumes_from_its_own_checkpoint(
    tiny_words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: list[str],
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    assert train_net.main([*tiny_words, *flag, "SOLVER.MAX_ITER=10"]) == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    capsys.readouterr()
    assert train_net.main([*tiny_words, *flag]) == 0
    out = capsys.readouterr().out
    assert "restarted after a failure: --resume is implied\n" in out
    assert "continuing after iteration 10\n" in out


@pytest.mark.need("G4", "F8")
def test_restarted_run_that_was_refused_a_folder_does_not_resume_the_run_in_it(
    tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_net.main(tiny_words) == 0
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(ConfigError, match="holds the checkpoints of an earlier run"):
            train_net.main(tiny_words)


SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NODELIST": "a7,b[3-4]",
    "SLURM_STEP_TASKS_PER_NODE": "3,1(x2)",
    "SLURM_JOB_ID": "17000",
    "SLURM_STEP_ID": "2",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a7,b[3-4]", "a7"), ("gpu[007-009,012]", "gpu007"), ("node-1-[2,5]", "node-1-2"), ("one", "one")]
    + [("rack[1-2]node[01-04]", "rack1node01"), ("r[2,4]n[05]-ib,a7", "r2n05-ib")],
)
def test_slurm_environment_makes_tasks_of_srun_ranks(nodes: str, first: str) -> None:
    assert slurm_environment(SRUN | {"SLURM_STEP_NODELIST": nodes, "SLURM_CPUS_PER_TASK": "4"}) == {
        "RANK": "3",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": first,
        "MASTER_PORT": "15002",
        "WARMSTART_CORES": "4",
    }


@pytest.mark.parametrize("changed", [{"RANK": "0"}, {"SLURM_NTASKS": "1"}, {"SLURM_STEP_NODELIST": None}])
def test_slurm_environment_ignores_one_task_a_batch_script_and_a_rank_of_torchrun(
    changed: dict[str, str | None],
) -> None:
    environ = {name: value for name, value in (SRUN | changed).items() if value is not None}
    assert slurm_environment(environ) == {}


@pytest.mark.need("E15")
def test_reference_world_size_scales_the_config_and_prints_each_change(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Percentages and epochs need no scaling; lengths are rounded as in detectron2."""
    words = [*tiny_words, "SOLVER.REFERENCE_WORLD_SIZE=2", "SOLVER.STEPS=50%,9", "TEST.EVAL_PERIOD=7"]
    assert train_net.main(words) == 0
    out = capsys.readouterr().out
    assert [line[11:] for line in out.splitlines() if "scaled" in line] == [
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.IMS_PER_BATCH: 8 -> 4",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.REFERENCE_WORLD_SIZE: 2 -> 1",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.MAX_ITER: 14 -> 28",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.BASE_LR: 0.05 -> 0.025",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.STEPS: ('50%', 9) -> ('50%', 18)",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.WARMUP_ITERS: 4 -> 8",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.EMA.PERIOD: 1 -> 2",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: SOLVER.CHECKPOINT_PERIOD: 5000 -> 10000",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: TEST.EVAL_PERIOD: 7 -> 14",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: TEST.PRECISE_BN.NUM_ITER: 200 -> 400",
        "scaled by SOLVER.REFERENCE_WORLD_SIZE: LOG_PERIOD: 5 -> 10",
    ]
    assert "plan: 28 iterations = 2.3 epochs of 48 samples; warm-up ends at 8; drops at 14, 18;" in out
    # From its config.yaml, or by the words of the command, a resumed run is what it was.
    assert train_net.main(["--config-file", f"{tmp_path}/out/config.yaml", "--resume"]) == 0
    assert "iteration 28, SOLVER.MAX_ITER is 28: nothing to do" in capsys.readouterr().out


def test_scaled_leaves_a_matching_world_size_and_disabled_periods_unchanged() -> None:
    cfg = get_cfg()
    assert scaled(cfg, 8) is cfg
    cfg.merge_from_list(["SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.CHECKPOINT_PERIOD", 0])
    assert scaled(cfg, 8) is cfg
    assert scaled(cfg, 16).SOLVER.CHECKPOINT_PERIOD == 0
    assert scaled(cfg, 16).SOLVER.WARMUP_ITERS == "2.5%"
