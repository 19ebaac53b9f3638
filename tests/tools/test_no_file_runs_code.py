"""Files that cannot run code: every kind of file that a command reads, with a pickle or the name of a function."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from warmstart.config import ConfigError
from warmstart.data.datasets.webdataset import build_shards
from warmstart.engine import save_checkpoint
from warmstart.engine.checkpoint import sharded as shards
from warmstart.tools import export_weights, plain_train_net, plot_lr, train_net

pytestmark = [  # what torch 2.6 says of itself
    pytest.mark.filterwarnings("ignore:DTensor random operators may not:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
]


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The folder that code in a file would make."""
    return tmp_path / "ran"


@pytest.fixture
def shown_to_run(ran: Path) -> bytes:
    """A pickle that runs code, once it has been seen to."""
    content = pickle.dumps(Runs(ran))
    pickle.loads(content)
    ran.rmdir()
    return content


def evil_checkpoint(path: Path, ran: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": {"weight": torch.zeros(1)}, "iteration": 3, "hooks": Runs(ran)}, path)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a sharded checkpoint."""
    folder = tmp_path_factory.mktemp("sharded")
    torch.ones(1, requires_grad=True).sum().backward()  # else no later test could fork, see engine/test_shards.py
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    tensors = {("model", "weight"): distribute_tensor(torch.ones(4), mesh, [Shard(0)])}
    about = shards.ShardWriter(tensors, folder, 4).finish()
    dist.destroy_process_group()
    parts = {name: {} for name in ("optimizer", "scheduler", "hooks", "config")}
    content = {"model": {"weight": None}, "iteration": 4, "rng": [], **parts, shards.KEY: about}
    save_checkpoint(content, folder / "model_0000003.pth")
    return folder


def evil_sharded(sharded: Path, folder: Path, content: bytes) -> Path:
    """Copy it with other metadata, and the checksum of these in the checkpoint."""
    shutil.copytree(sharded, folder)
    (metadata,) = folder.rglob(".metadata")
    metadata.write_bytes(content)
    path = folder / "model_0000003.pth"
    checkpoint = torch.load(path)
    checkpoint[shards.KEY]["crc32"][".metadata"] = zlib.crc32(content)
    save_checkpoint(checkpoint, path)
    return path


READERS = [
    (train_net, ["--resume"]),
    (train_net, ["--resume={file}", "OUTPUT_DIR={tmp}/new"]),
    (train_net, ["--resume={tmp}/out", "OUTPUT_DIR={tmp}/new"]),
    (train_net, ["--eval-only", "--resume"]),
    (train_net, ["--eval-only", "--resume={file}"]),
    (export_weights, ["{file}", "{tmp}/x.safetensors"]),
    (export_weights, ["{tmp}/out", "{tmp}/x.safetensors"]),
]


def command(tool: Any, words: Sequence[str], tiny_words: list[str], path: Path) -> int:
    filled = [word.format(file=path, tmp=path.parent.parent) for word in words]
    result: int = tool.main(filled if tool is export_weights else [*tiny_words, *filled])
    return result


@pytest.mark.parametrize(("tool", "words"), READERS)
def test_checkpoint_runs_no_code(
    tool: Any, words: list[str], tiny_words: list[str], tmp_path: Path, ran: Path
) -> None:
    path = tmp_path / "out" / "model_0000003.pth"
    evil_checkpoint(path, ran)
    with pytest.raises(ConfigError, match="model_0000003.pth is refused: .* give --trust-checkpoint"):
        command(tool, words, tiny_words, path)
    assert not ran.exists()


@pytest.mark.parametrize("trust", [[], ["--trust-checkpoint"]])
@pytest.mark.parametrize(("tool", "words"), READERS)
def test_sharded_checkpoint_runs_no_code_whether_trusted_or_not(
    tool: Any,
    words: list[str],
    trust: list[str],
    tiny_words: list[str],
    sharded: Path,
    tmp_path: Path,
    ran: Path,
    shown_to_run: bytes,
) -> None:
    path = evil_sharded(sharded, tmp_path / "out", shown_to_run)
    with pytest.raises(ConfigError, match="cannot be read: .metadata is refused: it names posix.mkdir, which no"):
        command(tool, [*words, *trust], tiny_words, path)
    assert not ran.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("tool", [train_net, plain_train_net])
def test_weights_file_runs_no_code(
    tool: Any, suffix: str, tiny_words: list[str], tmp_path: Path, ran: Path, shown_to_run: bytes
) -> None:
    for content in (shown_to_run, None):
        path = tmp_path / f"x{suffix}"
        evil_checkpoint(path, ran) if content is None else path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"MODEL.WEIGHTS .*x{suffix} is (refused|damaged)"):
            tool.main([*tiny_words, f"MODEL.WEIGHTS={path}"])
        assert not ran.exists()


CONFIGS = [
    "SEED: !!python/object/apply:os.mkdir [{ran}]\n",
    "!!python/object/new:os.mkdir [{ran}]\n",
    "SEED: !!python/name:os.mkdir\n",
    "_BASE_: !!python/object/apply:os.mkdir [{ran}]\n",
    "SOLVER: {{LR_SCHEDULER_NAME: LambdaLR, LR_SCHEDULER_ARGS: {{lr_lambda: 'code_for_a_test:f'}}}}\n",
    "SOLVER: {{LR_SCHEDULER_NAME: MultiplicativeLR, LR_SCHEDULER_ARGS: {{lr_lambda: ['code_for_a_test:f']}}}}\n",
    "SOLVER: {{LR_SCHEDULER_NAME: ChainedScheduler, LR_FACTORS: [{{NAME: LambdaLR, ARGS: {{lr_lambda: "
    "'code_for_a_test:f'}}}}]}}\n",
    "SOLVER: {{LR_SCHEDULER_NAME: 'code_for_a_test:f'}}\n",
    "SOLVER: {{OPTIMIZER: 'code_for_a_test:f'}}\n",
    "MODEL: {{NAME: 'code_for_a_test:f'}}\n",
    "MODEL: {{NAME: resnet18, ARGS: {{norm_layer: 'code_for_a_test:f'}}}}\n",
    "INPUT: {{TRANSFORMS_TRAIN: ['code_for_a_test:f']}}\n",
    "INPUT: {{TRANSFORMS_TRAIN: [{{Lambda: {{lambd: 'code_for_a_test:f'}}}}]}}\n",
    "DATASETS: {{TRAIN: 'code_for_a_test:f'}}\n",
    "IMPORT: [code_for_a_test]\n",
    "--import: code_for_a_test\n",
    "import: code_for_a_test\n",
    "DATASETS: {{TRAIN: 'webdataset:pipe:mkdir {ran}'}}\n",
    "DATASETS: {{TRAIN: 'webdataset:PIPE:mkdir {ran}', DOWNLOAD: true}}\n",
]


@pytest.mark.parametrize("inherited", [False, True])
@pytest.mark.parametrize("text", CONFIGS)
def test_config_file_runs_no_code(
    text: str, inherited: bool, tiny_words: list[str], tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code_for_a_test.py").write_text(f"import os\nos.mkdir({str(ran)!r})\nf = str\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "base.yaml").write_text(text.format(ran=ran))
    (tmp_path / "x.yaml").write_text("_BASE_: base.yaml\n" if inherited else text.format(ran=ran))
    own = [word for word in tiny_words if word.partition("=")[0].split(".")[0] not in ("DATASETS", "MODEL")]
    words = ["--config-file", "x.yaml", "MODEL.DEVICE=cpu", *([] if "INPUT" in text else own)]
    with pytest.raises(ConfigError):
        train_net.main(words)
    with suppress(ConfigError):  # it looks at neither data nor model
        plot_lr.main(words)
    assert not ran.exists()
    assert "code_for_a_test" not in sys.modules


def test_config_names_functions_of_modules_that_the_command_line_imports(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rates_for_a_test.py").write_text("def half(t):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("warmstart.config.imports._IMPORTED", {})
    schedule = "SOLVER.LR_SCHEDULER_NAME=LambdaLR", "SOLVER.LR_SCHEDULER_ARGS.lr_lambda=rates_for_a_test:half"
    words = [*tiny_words, *schedule, "SOLVER.CHECKPOINT_PERIOD=5"]
    advice = "rates_for_a_test:half is in a module that no --import names.*add --import rates_for_a_test$"
    with pytest.raises(ConfigError, match=advice):
        train_net.main(words)
    assert train_net.main(["--import", "rates_for_a_test", *words]) == 0
    (tmp_path / "out" / "model_final.pth").unlink()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000009.pth")
    monkeypatch.setattr("warmstart.config.imports._IMPORTED", {})
    with pytest.raises(ConfigError, match=advice):
        train_net.main([*words, "--resume"])
    assert train_net.main([*words, "--resume", "--import=rates_for_a_test"]) == 0


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    return content.getvalue()


def npz(path: Path, content: bytes) -> str:
    np.savez(path / "x.npz", images=np.array([pickle.loads], dtype=object), labels=np.zeros(1, np.int64))
    return f"npz:{path}/x.npz"


def pickled_npz(path: Path, content: bytes) -> str:
    (path / "x.npz").write_bytes(content)
    return f"npz:{path}/x.npz"


def folder_of_images(path: Path, content: bytes) -> str:
    for name in ("a", "b"):
        (path / "images" / name).mkdir(parents=True)
        (path / "images" / name / "x.jpg").write_bytes(content)
    return f"imagefolder:{path}/images"


def tar_with_a_pickled_image(path: Path, content: bytes) -> str:
    return f"webdataset:{tar(path / 'x.tar', {'a.jpg': content, 'a.cls': b'0'})}"


def tar_with_a_pickled_label(path: Path, content: bytes) -> str:
    return f"webdataset:{tar(path / 'x.tar', {'a.jpg': png(), 'a.cls': content})}"


def idx(path: Path, content: bytes) -> str:
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (path / name).write_bytes(content)
    return "mnist_train"


def cifar(path: Path, content: bytes) -> str:
    folder = path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(content)
    return "cifar10_train"


@pytest.mark.parametrize(
    "make",
    [npz, pickled_npz, folder_of_images, tar_with_a_pickled_image, tar_with_a_pickled_label, idx, cifar],
)
def test_data_set_runs_no_code(
    make: Callable[[Path, bytes], str], tiny_words: list[str], tmp_path: Path, ran: Path, shown_to_run: bytes
) -> None:
    name = make(tmp_path, shown_to_run)
    words = [f"DATASETS.TRAIN={name}", f"DATASETS.ROOT={tmp_path}", f"DATASETS.CACHE={tmp_path}/cache"]
    with pytest.raises((ConfigError, OSError)):
        train_net.main([*tiny_words, *words, "DATASETS.TEST=[]", "MODEL.IN_CHANNELS=0"])
    assert not ran.exists()


def test_tar_members_that_webdataset_would_unpickle_are_left_alone(
    tmp_path: Path, ran: Path, shown_to_run: bytes
) -> None:
    evil = {f"a.{ending}": shown_to_run for ending in ("pyd", "pickle", "pth", "pt", "npy", "npz", "mp", "json")}
    path = tar(tmp_path / "x.tar", {"a.png": png(), "a.cls": b"1", **evil})
    assert build_shards(str(path), download=False, cache=str(tmp_path / "cache"))[0][1] == 1
    assert not ran.exists()


def test_cached_index_of_a_shard_runs_no_code(tmp_path: Path, ran: Path, shown_to_run: bytes) -> None:
    path, cache = tar(tmp_path / "x.tar", {"a.png": png(), "a.cls": b"1"}), tmp_path / "cache"
    build_shards(str(path), download=False, cache=str(cache))
    (index,) = cache.glob("*.npz")
    with open(index, "wb") as file:
        np.savez(file, samples=np.array([Runs(ran)], dtype=object))
    for _ in range(2):
        assert build_shards(str(path), download=False, cache=str(cache))[0][1] == 1
        assert not ran.exists()
        index.write_bytes(shown_to_run)


@pytest.mark.parametrize("name", ["w.npy", "w.txt"])
def test_file_of_sample_weights_runs_no_code(
    name: str, tiny_words: list[str], tmp_path: Path, ran: Path, shown_to_run: bytes
) -> None:
    np.save(tmp_path / "w.npy", np.array([Runs(ran)], dtype=object))
    (tmp_path / "w.txt").write_bytes(shown_to_run)
    words = ["DATALOADER.SAMPLER_TRAIN=weighted", f"DATALOADER.SAMPLE_WEIGHTS={tmp_path}/{name}"]
    with pytest.raises(ConfigError):
        train_net.main([*tiny_words, *words])
    assert not ran.exists()


@pytest.mark.slow
def test_modules_in_the_current_folder_are_not_imported(tiny_words: list[str], tmp_path: Path, ran: Path) -> None:
    for name in ("json", "yaml", "torch", "torchvision", "matplotlib", "webdataset", "tqdm", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n")
    tool = Path(__file__).parents[2] / "tools" / "train_net.py"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, tool, *tiny_words], cwd=tmp_path, env=environ, check=True, capture_output=True)
    assert not ran.exists()
