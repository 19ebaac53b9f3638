"""Published weights: what each form of MODEL.WEIGHTS means, and the images that the weights expect."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from safetensors.torch import save
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small
from torchvision.transforms.functional import normalize

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_input_defaults, build_model, published_weights, weights_path
from warmstart.modeling.pretrained import find_remote

from ..weights_server import Answer, WeightsServer

LABEL = "MODEL.WEIGHTS (x.yaml:2)"


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 3, *overrides])
    return cfg


@pytest.mark.parametrize(
    ("weights", "model", "expected"),
    [
        (
            "IMAGENET1K_V1",
            "resnet50",
            ("https://download.pytorch.org/models/resnet50-0676ba61.pth", "resnet50-0676ba61.pth", "0676ba61"),
        ),
        (
            "DEFAULT",
            "resnet50",
            ("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", "resnet50-11ad3fa6.pth", "11ad3fa6"),
        ),
        (
            "hf:me/photos/sub/w.pth",
            "resnet18",
            ("https://huggingface.co/me/photos/resolve/main/sub/w.pth", "me--photos--sub--w.pth", ""),
        ),
        (
            "hf:me/photos@v1.0/w.pth",
            "small_cnn",
            ("https://huggingface.co/me/photos/resolve/v1.0/w.pth", "me--photos@v1.0--w.pth", ""),
        ),
        (
            "https://download.pytorch.org/models/resnet18-f37072fd.pth",
            "resnet18",
            ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "resnet18-f37072fd.pth", "f37072fd"),
        ),
        # sha256 of the address: a file of the same name at another address is another file
        (
            "https://example.org/w-20240101.pth?download=true",
            "small_cnn",
            ("https://example.org/w-20240101.pth?download=true", "w-20240101.b0c8a0ee133d.pth", ""),
        ),
    ],
)
def test_find_remote_gives_address_name_and_checksum(
    weights: str, model: str, expected: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert find_remote(weights, model, LABEL) == expected


def test_find_remote_knows_all_weights_of_torchvisions_classifiers() -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    found = [find_remote(weights, name, LABEL) for name in names for weights in published_weights(name)]
    assert len(found) > 2 * len(names) - 20
    assert all(each is not None and len(each.sha256) in (8, 10) for each in found)


@pytest.mark.parametrize("weights", ["weights.pth", "~/w.pth", "a/DEFAULT", "C:\\w.pth", "hf.pth", "default"])
def test_find_remote_takes_everything_else_for_a_path(weights: str) -> None:
    assert find_remote(weights, "resnet18", LABEL) is None


@pytest.mark.parametrize(
    ("weights", "model", "message"),
    [
        ("IMAGENET1K_V3", "resnet50", "resnet50 has no published weights called IMAGENET1K_V3; did you mean"),
        ("ZEBRA", "resnet18", "resnet18 has no published weights called ZEBRA; it has IMAGENET1K_V1, DEFAULT"),
        ("DEFAULT", "small_cnn", "small_cnn has no published weights called DEFAULT; name a file"),
        ("hf:me/photos", "resnet18", "expected hf:OWNER/REPO/FILE, such as hf:timm/resnet18.a1_in1k/model.saf"),
        ("hf:me/photos/../../w.pth", "resnet18", "expected hf:OWNER/REPO/FILE, "),
        ("hf:me/photos@/w.pth", "resnet18", "expected hf:OWNER/REPO/FILE, "),
        ("http://example.org/w.pth", "resnet18", "weights are downloaded from https:// addresses only; got http:"),
        ("file:///w.pth", "resnet18", "weights are downloaded from https:// addresses only; got file:///w.pth"),
        (
            "https://me:secret@example.org/w.pth",
            "resnet18",
            "checkpoints would hold the user name and password in",
        ),
        ("https://example.org/", "resnet18", "https://example.org/ does not end in the name of a file"),
        ("https://example.org/%2e%2e", "resnet18", "https://example.org/%2e%2e does not end in the name of a"),
    ],
)
def test_find_remote_refuses_what_it_cannot_mean(weights: str, model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{LABEL}: {message}')}"):
        find_remote(weights, model, LABEL)


def test_find_remote_prefers_published_weights_to_a_file_of_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DEFAULT", "MINE"):
        Path(name).touch()
    assert find_remote("DEFAULT", "resnet18", LABEL) is not None
    assert find_remote("./DEFAULT", "resnet18", LABEL) is None
    assert find_remote("MINE", "resnet18", LABEL) is None


@pytest.mark.parametrize(
    ("weights", "hint"),
    [("imagenet", "; resnet18 has the published weights IMAGENET1K_V1, DEFAULT"), ("w.pth", "")],
)
def test_weights_path_names_the_published_weights_if_there_is_no_file(weights: str, hint: str) -> None:
    model = "resnet18" if hint else "small_cnn"
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{LABEL}: no such file: {weights}{hint}')}$"):
        weights_path(weights, model, LABEL)


def test_weights_path_expands_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").touch()
    assert weights_path("~/w.pth", "resnet18", LABEL) == tmp_path / "w.pth"


def test_build_model_loads_published_weights_of_torchvision(
    server: WeightsServer, hub: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    """The head of ten classes keeps its own weights."""
    published, file = mobilenet_v3_small(), io.BytesIO()
    torch.save(published.state_dict(), file)
    monkeypatch.setattr(MobileNet_V3_Small_Weights.DEFAULT.value, "url", f"{server.url}/w.pth")
    server.answers["/w.pth"] = Answer(file.getvalue())
    model = build_model(configured("MODEL.NAME", "mobilenet_v3_small", "MODEL.WEIGHTS", "DEFAULT"))
    (kept,) = hub.iterdir()
    assert logged[-1].getMessage() == (
        f"loaded 208/210 tensors from {kept}; skipped: classifier.3.weight (1000, 1024) does not fit (10, 1024),"
        " classifier.3.bias (1000,) does not fit (10,)"
    )
    assert torch.equal(model.features[0][0].weight, published.features[0][0].weight)


def test_build_model_loads_a_file_of_the_hub_from_the_endpoint_of_the_environment(
    server: WeightsServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    torch.manual_seed(1)
    cfg = configured("MODEL.WEIGHTS", "hf:me/photos/w.safetensors", "MODEL.STEM", "small")
    state = build_model(cfg, weights=False).state_dict()
    server.answers["/me/photos/resolve/main/w.safetensors"] = Answer(save(state))
    model = build_model(cfg)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [path.name for path in hub.iterdir()] == ["me--photos--w.safetensors"]


def test_build_model_runs_no_code_of_a_download(server: WeightsServer, hub: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    file = io.BytesIO()
    torch.save({"model": Evil()}, file)
    server.answers["/w.pth"] = Answer(file.getvalue())
    with pytest.raises(ConfigError, match="is refused: it holds more than tensors and plain values"):
        build_model(configured("MODEL.WEIGHTS", f"{server.url}/w.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "weights", "mean", "std"),
    [
        ("resnet50", "IMAGENET1K_V2", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("efficientnet_v2_l", "DEFAULT", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_build_input_defaults_are_those_of_torchvisions_weights(
    name: str, weights: str, mean: Any, std: Any
) -> None:
    found = build_input_defaults(configured("MODEL.NAME", name, "MODEL.WEIGHTS", weights))
    assert found == (f"weights {weights}", {"MEAN": mean, "STD": std})


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet50", ""), ("resnet50", "w.pth"), ("resnet50", "ZEBRA"), ("small_cnn", "w.pth")]
)
def test_build_input_defaults_are_none_for_weights_of_unknown_origin(name: str, weights: str) -> None:
    assert build_input_defaults(configured("MODEL.NAME", name, "MODEL.WEIGHTS", weights)) is None


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_build_input_defaults_do_what_transform_input_does_in_torchvision(name: str) -> None:
    """torchvision normalises with its preset, and the model, built for its weights, changes that inside."""
    found = build_input_defaults(configured("MODEL.NAME", name, "MODEL.WEIGHTS", "DEFAULT"))
    assert found is not None
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 8)
    with torch.device("meta"):
        model = torchvision.models.get_model(name, transform_input=True, init_weights=False)
    expected = model._transform_input(normalize(image, preset.mean, preset.std))
    assert torch.allclose(normalize(image, found.values["MEAN"], found.values["STD"]), expected, atol=1e-6)
