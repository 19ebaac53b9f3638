"""Runs with published weights: their normalisation in the config, downloads by one rank, resumes without them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

from warmstart.config import CfgNode
from warmstart.engine import load_checkpoint, resolve_config
from warmstart.engine.run.input_defaults import describe_input_defaults, with_saved_input
from warmstart.tools import train_net

from ...weights_server import Answer, WeightsServer, weights_server
from ..ranks import trained

Words = list[str]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="session")
def colour_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of 3x32x32 noise with labels of 3 classes."""
    path = tmp_path_factory.mktemp("data") / "colour.npz"
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(24) % 3)
    return path


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A server that has the weights which torchvision calls DEFAULT for mobilenet_v3_small."""
    torch.manual_seed(1)
    file = io.BytesIO()
    torch.save(mobilenet_v3_small().state_dict(), file)
    with weights_server() as server:
        server.answers["/w.pth"] = Answer(file.getvalue(), pause=0.3)  # other ranks would ask meanwhile
        monkeypatch.setattr(MobileNet_V3_Small_Weights.DEFAULT.value, "url", f"{server.url}/w.pth")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        yield server


@pytest.fixture
def words(tiny_words: Words, colour_npz: Path) -> Words:
    """The words of a command line that fine-tunes mobilenet_v3_small for 6 iterations."""
    return [
        *(word for word in tiny_words if not word.startswith(("MODEL.ARGS", "INPUT."))),
        *(f"DATASETS.{key}=npz:{colour_npz}" for key in ("TRAIN", "TEST")),
        *("MODEL.NAME=mobilenet_v3_small", "MODEL.WEIGHTS=DEFAULT", "MODEL.STEM=standard", "MODEL.DEVICE=cpu"),
        *("SOLVER.MAX_ITER=6", "SOLVER.STEPS=4", "SOLVER.WARMUP_ITERS=2"),
    ]


@pytest.fixture
def colour(tiny: Callable[..., CfgNode], colour_npz: Path) -> Callable[..., CfgNode]:
    def make(*overrides: Any) -> CfgNode:
        sets = [each for key in ("TRAIN", "TEST") for each in (f"DATASETS.{key}", f"npz:{colour_npz}")]
        cfg = tiny(*sets, "INPUT.TRANSFORMS_TRAIN", [], "MODEL.NAME", "resnet18")
        cfg.merge_from_list(overrides)
        return cfg

    return make


def test_resolve_config_takes_the_normalisation_of_published_weights(colour: Callable[..., CfgNode]) -> None:
    cfg = resolve_config(colour("MODEL.WEIGHTS", "IMAGENET1K_V1"))
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == (MEAN, STD)
    assert cfg.label("INPUT.MEAN") == "INPUT.MEAN (default of weights IMAGENET1K_V1)"
    assert resolve_config(cfg) == cfg


def test_resolve_config_keeps_the_normalisation_of_the_user(colour: Callable[..., CfgNode]) -> None:
    cfg = resolve_config(colour("MODEL.WEIGHTS", "IMAGENET1K_V1", "INPUT.MEAN", [0.5]))
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == ((0.5,), STD)


@pytest.mark.parametrize("weights", ["", "w.pth"])
def test_resolve_config_leaves_other_weights_to_the_data_set(colour: Callable[..., CfgNode], weights: str) -> None:
    cfg = resolve_config(colour("MODEL.WEIGHTS", weights))
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == (None, None)


@pytest.fixture
def after_published(colour: Callable[..., CfgNode], tmp_path: Path) -> Path:
    """The folder of a run that began with published weights, with its final checkpoint and its values."""
    content = {
        "data": {"TRAIN": []},
        "config": resolve_config(colour("MODEL.WEIGHTS", "IMAGENET1K_V1")).to_dict(),
        "model": {"weight": torch.ones(2)},
    }
    (tmp_path / "before").mkdir()
    torch.save(content, tmp_path / "before" / "model_final.pth")
    return tmp_path / "before"


def test_resolve_config_takes_the_normalisation_of_the_run_whose_weights_it_takes(
    colour: Callable[..., CfgNode], after_published: Path
) -> None:
    cfg = resolve_config(colour("MODEL.WEIGHTS", str(after_published)))
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == (MEAN, STD)
    assert cfg.label("INPUT.MEAN") == f"INPUT.MEAN (default of {after_published}/model_final.pth)"
    assert resolve_config(cfg) == cfg
    cfg = resolve_config(colour("MODEL.WEIGHTS", str(after_published), "INPUT.MEAN", [0.5]))
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == ((0.5,), STD)


def test_resolve_config_leaves_a_checkpoint_of_an_earlier_version_to_the_data_set(
    colour: Callable[..., CfgNode], after_published: Path
) -> None:
    file = after_published / "model_final.pth"
    content = torch.load(file)
    del content["data"]
    torch.save(content, file)
    assert resolve_config(colour("MODEL.WEIGHTS", str(file))).INPUT.MEAN is None


def test_with_saved_input_keeps_what_the_checkpoint_has_unless_the_user_has_set_it(
    colour: Callable[..., CfgNode],
) -> None:
    saved = {"INPUT": {"MEAN": MEAN, "STD": STD}}
    cfg = with_saved_input(resolve_config(colour()), saved)
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == (MEAN, STD)
    assert describe_input_defaults(cfg).startswith("default of the checkpoint, unless the key is set: INPUT.MEAN")
    cfg = with_saved_input(resolve_config(colour("INPUT.MEAN", [0.5])), saved)
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == ((0.5,), STD)
    cfg = with_saved_input(resolve_config(colour("MODEL.WEIGHTS", "DEFAULT")), {"INPUT": {"MEAN": None}})
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == (None, STD)


def test_resolve_config_leaves_grey_images_to_the_data_set(tiny: Callable[..., CfgNode]) -> None:
    cfg = resolve_config(tiny("MODEL.NAME", "resnet18", "MODEL.ARGS", {}, "MODEL.WEIGHTS", "IMAGENET1K_V1"))
    assert (cfg.INPUT.MEAN, cfg.INPUT.STD) == (None, None)


def test_resolve_config_takes_timms_data_config_where_nothing_is_set(tiny: Callable[..., CfgNode]) -> None:
    pytest.importorskip("timm")
    words = ["MODEL.NAME", "timm:test_resnet", "MODEL.ARGS", {}, "MODEL.STEM", "standard"]
    cfg = resolve_config(tiny(*words, "INPUT.TRANSFORMS_TRAIN", []))
    assert cfg.INPUT.TRANSFORMS_TRAIN == ()  # set by the user
    resize, crop = cfg.INPUT.TRANSFORMS_TEST
    assert resize == ("Resize", {"size": 168, "interpolation": "bilinear"})
    assert crop == ("CenterCrop", {"size": 160})
    assert cfg.INPUT.MEAN is None  # grey images


def test_a_bad_model_name_is_reported_with_all_other_mistakes(colour: Callable[..., CfgNode]) -> None:
    with pytest.raises(ValueError, match=r"(?s)2 problems:.*no model is called 'zebra'.*SOLVER.OPTIMIZER"):
        resolve_config(colour("MODEL.NAME", "zebra", "SOLVER.OPTIMIZER", "zebra"))


@pytest.mark.slow
def test_a_run_downloads_once_and_resumes_without_the_file(
    published: WeightsServer, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The resumed run has the bits of the unbroken one, without the server and without the downloaded file."""
    unbroken = tmp_path / "unbroken"
    assert train_net.main([*words, f"OUTPUT_DIR={unbroken}", "SOLVER.CHECKPOINT_PERIOD=3"]) == 0
    out = capsys.readouterr().out
    said = "INPUT.MEAN [0.485, 0.456, 0.406], INPUT.STD [0.229, 0.224, 0.225]"
    said = f"default of weights DEFAULT, unless the key is set: {said}"
    assert said in out
    assert "loaded 208/210 tensors from" in out
    assert published.asked == ["/w.pth"]
    published.answers.clear()
    shutil.rmtree(tmp_path / "torch")
    words += ["SOLVER.CHECKPOINT_PERIOD=3"]
    assert train_net.main([*words, f"--resume={unbroken}/model_0000002.pth"]) == 0
    saved, expected = (load_checkpoint(each / "model_final.pth") for each in (tmp_path / "out", unbroken))
    assert (saved["config"]["INPUT"]["MEAN"], saved["config"]["INPUT"]["STD"]) == (MEAN, STD)
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in expected["model"].items())

    assert train_net.main([*words, "--eval-only", "--resume"]) == 0
    assert said in capsys.readouterr().out
    other = [word for word in words if not word.startswith("MODEL.WEIGHTS")]
    for weights in ("--resume", f"MODEL.WEIGHTS={unbroken}"):  # neither names the published weights
        assert train_net.main([*other, "--eval-only", weights]) == 0
        assert "INPUT.MEAN [0.485, 0.456, 0.406]" in capsys.readouterr().out
    assert published.asked == ["/w.pth"]


def test_a_run_without_a_connection_ends_with_address_and_path_before_it_writes(
    published: WeightsServer, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published.close()
    with pytest.raises(ValueError, match="could not be downloaded: the server cannot be reached") as error:
        train_net.main(words)
    assert f"put the file at {tmp_path}/torch/hub/checkpoints/w." in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_ranks_download_once(published: WeightsServer, words: Words, tmp_path: Path) -> None:
    ended = trained(tmp_path, 2, words)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    assert published.asked == ["/w.pth"]


def test_several_ranks_end_together_if_the_download_fails(
    published: WeightsServer, words: Words, tmp_path: Path
) -> None:
    published.answers.clear()
    main, other = trained(tmp_path, 2, words)
    assert (main.code, other.code) == (2, 2)
    assert main.err.count("there is no such file; check the name (HTTP 404)") == 1
    assert len(main.err.splitlines()) == 1
    assert published.asked == ["/w.pth"]
    assert not (tmp_path / "out" / "model_final.pth").exists()
