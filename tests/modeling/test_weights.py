"""Weights from files: fitting tensors are loaded, others reported, and files without weights refused."""

import copy
import os
import pickle
import re
import sys
import types
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import densenet121, mnasnet0_5, resnet18
from torchvision.models.vision_transformer import VisionTransformer

from warmstart.config import ConfigError
from warmstart.modeling import load_weights, read_tensor_file


def net(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: dict(state),
        lambda state: {"model": state, "iteration": 100, "config": {"SEED": 0}},
        lambda state: {"state_dict": state, "epoch": 3},
    ],
)
def test_load_weights_loads_a_complete_state_dict(tmp_path: Path, content) -> None:
    old, new = net(), net()
    path = saved(tmp_path / "old.pth", content(old.state_dict()))
    assert load_weights(new, path) == f"loaded 8/8 tensors from {path}"
    assert same(new, old)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "_orig_mod.", "_orig_mod.module."])
def test_load_weights_reports_the_prefix_that_it_removes(tmp_path: Path, prefix: str) -> None:
    old, new = net(), net()
    path = saved(tmp_path / "old.pth", {f"{prefix}{name}": each for name, each in old.state_dict().items()})
    assert load_weights(new, path) == f"loaded 8/8 tensors from {path} (prefix {prefix} removed)"
    assert same(new, old)


@pytest.mark.parametrize("first", ["model", "backbone"])
def test_load_weights_takes_all_tensors_from_the_prefix_that_fits_best(tmp_path: Path, first: str) -> None:
    """A file with two models, of which one lacks a layer, fills the model from the complete one, in any order."""
    one, other, new = net(), net(), net()
    other.pop(2)
    states = {"model": one.state_dict(), "backbone": other.state_dict()}
    order = sorted(states, key=lambda prefix: prefix != first)
    path = saved(tmp_path / "old.pth", {f"{p}.{n}": each for p in order for n, each in states[p].items()})
    report = load_weights(new, path)
    assert report.startswith(
        f"loaded 8/8 tensors from {path} (prefix model. removed); skipped: backbone.0.weight is"
    )
    assert same(new, one)


def test_load_weights_joins_the_prefixes_of_a_backbone_and_its_head(tmp_path: Path) -> None:
    old, new = net(), net()
    state = {("model." if name[0] == "2" else "model.backbone.") + name: t for name, t in old.state_dict().items()}
    path = saved(tmp_path / "old.pth", state)
    assert load_weights(new, path) == (
        f"loaded 8/8 tensors from {path} (prefix model. and model.backbone. removed)"
    )
    assert same(new, old)


def test_load_weights_reads_the_file_of_a_data_parallel_wrapper(tmp_path: Path) -> None:
    old, new = net(), net()
    path = saved(tmp_path / "old.pth", nn.DataParallel(old).state_dict())
    assert load_weights(new, path) == f"loaded 8/8 tensors from {path} (prefix module. removed)"
    assert same(new, old)


def test_load_weights_into_a_model_with_a_submodule_called_module(tmp_path: Path) -> None:
    old, new = (nn.ModuleDict({"module": nn.Linear(2, 2)}) for _ in range(2))
    path = saved(tmp_path / "old.pth", old.state_dict())
    assert load_weights(new, path) == f"loaded 2/2 tensors from {path}"
    assert same(new, old)


@pytest.mark.need("D10")
@pytest.mark.parametrize("classes", [2, 5])
def test_load_weights_skips_a_classifier_with_another_number_of_classes(tmp_path: Path, classes: int) -> None:
    old, new = net(3), net(classes)
    head = new[2].weight.clone()
    path = saved(tmp_path / "old.pth", old.state_dict())
    assert load_weights(new, path) == (
        f"loaded 6/8 tensors from {path}; skipped: 2.weight (3, 4) does not fit ({classes}, 4),"
        f" 2.bias (3,) does not fit ({classes},)"
    )
    assert same(new[:2], old[:2])
    assert torch.equal(new[2].weight, head)


@pytest.mark.need("D10")
def test_load_weights_names_missing_and_extra_tensors(tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(4, 4), "0.bias": torch.ones(3), "ema.decay": torch.ones(())}
    state |= {f"head{i}": torch.ones(1) for i in range(5)}
    model = net()
    path = saved(tmp_path / "old.pth", state)
    assert load_weights(model, path) == (
        f"loaded 1/8 tensors from {path}; skipped: 0.bias (3,) does not fit (4,), 1.weight is not in the file,"
        " 1.bias is not in the file, 1.running_mean is not in the file and 3 more like it,"
        " ema.decay is not in the model, head0 is not in the model, head1 is not in the model and 3 more like it"
    )
    assert torch.equal(model[0].weight, torch.ones(4, 4))


@pytest.mark.need("D10")
@pytest.mark.parametrize("state", [{"fc.weight": torch.ones(2)}, {"0.weight": torch.ones(2)}])
def test_load_weights_refuses_a_file_of_which_nothing_fits(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = saved(tmp_path / "old.pth", state)
    with pytest.raises(
        ConfigError, match=r"^MODEL.WEIGHTS \(x.yaml:2\): no parameter of .*old.pth fits the model: "
    ):
        load_weights(net(), path, "MODEL.WEIGHTS (x.yaml:2)")


def test_load_weights_refuses_a_sharded_checkpoint_even_with_buffers(tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pth", {"model": {"0.weight": None, "1.running_mean": torch.ones(4)}})
    with pytest.raises(ConfigError) as error:
        load_weights(net(), path)
    assert str(error.value) == (
        f"MODEL.WEIGHTS: {path} is a sharded checkpoint; write its weights into one file with "
        f"tools/export_weights.py {path} weights.safetensors, and name that file"
    )


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {"a": 1}, {}, "text"])
def test_load_weights_refuses_files_without_named_tensors(tmp_path: Path, content: object) -> None:
    with pytest.raises(ConfigError, match="old.pth holds no tensors by the names of a model"):
        load_weights(net(), saved(tmp_path / "old.pth", content))


@pytest.mark.parametrize("make", [resnet18, mnasnet0_5])
def test_load_weights_restores_torchvisions_models(tmp_path: Path, make) -> None:
    old, new = make(num_classes=4), make(num_classes=4)
    path = saved(tmp_path / "old.pth", {f"module.{n}": t for n, t in old.state_dict().items()})
    count = sum("num_batches" not in name for name in old.state_dict())
    assert load_weights(new, path) == f"loaded {count}/{count} tensors from {path} (prefix module. removed)"
    assert same(new, old)


def test_load_weights_translates_names_of_published_densenets(tmp_path: Path) -> None:
    old, new = densenet121(num_classes=2), densenet121(num_classes=2)
    layer = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    published = {layer.sub(r"\1.\2", name): tensor for name, tensor in old.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in published
    assert load_weights(new, saved(tmp_path / "old.pth", published)).startswith("loaded 606/606 tensors")
    assert same(new, old)


def old_vit(mlp_dim: int) -> dict[str, torch.Tensor]:
    """A state as torchvision saved it before its MLPs were renamed, without version numbers."""
    state = vit(mlp_dim).state_dict()
    state._metadata.clear()
    for old, new in (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")):
        for name in [name for name in state if old in name]:
            state[name.replace(old, new)] = state.pop(name)
    state._metadata[""] = {"version": 1}
    return state


def vit(mlp_dim: int) -> VisionTransformer:
    return VisionTransformer(8, 4, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=mlp_dim, num_classes=2)


def test_load_weights_keeps_names_that_the_model_itself_translates(tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pth", old_vit(8))
    assert load_weights(vit(8), path) == f"loaded 20/20 tensors from {path}"
    with pytest.raises(
        ConfigError, match=r"^MODEL.WEIGHTS: .*old.pth does not fit the model: .* size mismatch for .*mlp"
    ):
        load_weights(vit(6), path)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.need("D8")
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_read_tensor_file_refuses_code_without_running_it(tmp_path: Path, save) -> None:
    trace = tmp_path / "trace"
    save({"0.weight": torch.ones(4, 4), "x": Touch(trace)}, tmp_path / "bad.pth")
    message = (
        r"MODEL.WEIGHTS: .*bad.pth is refused: .* could run code; save model.state_dict\(\) with torch.save or, "
        r"if you trust who wrote it, give --trust-checkpoint$"
    )
    with pytest.raises(ConfigError, match=message):
        load_weights(net(), tmp_path / "bad.pth")
    assert not trace.exists()


@pytest.mark.need("D8")
def test_read_tensor_file_runs_code_only_with_trust(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = saved(tmp_path / "odd.pth", {"0.weight": torch.ones(4, 4), "x": Touch(trace)})
    assert load_weights(net(), path, trust=True).startswith("loaded 1/8 tensors")
    assert trace.exists()


@pytest.mark.need("D8")
def test_read_tensor_file_gives_the_reason_for_an_unreadable_trusted_file(tmp_path: Path) -> None:
    class Gone:
        pass

    path = tmp_path / "odd.pth"
    Gone.__module__, Gone.__qualname__ = "gone_module", "Gone"
    try:
        sys.modules["gone_module"] = types.ModuleType("gone_module")
        sys.modules["gone_module"].Gone = Gone
        saved(path, {"0.weight": Gone()})
    finally:
        del sys.modules["gone_module"]
    with pytest.raises(ConfigError, match=r"damaged or not a file .* \(ModuleNotFoundError: .*'gone_module'\)"):
        load_weights(net(), path, trust=True)
    with pytest.raises(ConfigError, match="is refused"):
        load_weights(net(), path)
    path.write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"odd.pth is damaged or not a file that torch.save wrote \(Unpickling"):
        load_weights(net(), path, trust=True)


def test_load_weights_reads_a_safetensors_file(tmp_path: Path) -> None:
    old, new = net(), net()
    path = tmp_path / "shared.safetensors"
    save_file(old.state_dict(), path)
    assert load_weights(new, path) == f"loaded 8/8 tensors from {path}"
    assert same(new, old)


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"a": 1}), "cut", "torch"])
def test_read_tensor_file_refuses_a_malformed_safetensors_file(tmp_path: Path, content) -> None:
    path = tmp_path / "shared.safetensors"
    if content == "torch":
        torch.save(net().state_dict(), path)
    elif content == "cut":
        save_file(net().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.write_bytes(content)
    with pytest.raises(
        ConfigError, match="^MODEL.WEIGHTS: .*shared.safetensors is damaged or not a file that safetensors wrote"
    ):
        load_weights(net(), path)


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_read_tensor_file_refuses_a_truncated_file(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "old.pth", net().state_dict())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ConfigError, match="^MODEL.WEIGHTS: .*old.pth is damaged or not a file that torch.save wrote"
    ):
        load_weights(net(), path)


def test_read_tensor_file_refuses_a_compressed_archive(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "old.pth")
    with (
        zipfile.ZipFile(tmp_path / "old.pth") as old,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr("old/data/1", bytes(10**7))
    message = (
        r"^L: .*/x.pth is refused: its [0-9,]+ bytes unpack to 10,00[0-9],[0-9]+, but torch.save does not comp"
    )
    with pytest.raises(ConfigError, match=message):
        read_tensor_file(tmp_path / "x.pth", "L")


@pytest.mark.parametrize("in_itself", [False, True])
def test_read_tensor_file_refuses_references_that_expand_to_billions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_itself: bool
) -> None:
    monkeypatch.setattr("warmstart.modeling.weights._MOST_VALUES", 10**4)
    content: dict[str, object] = {"x": 1}
    if in_itself:
        content["y"] = [content]
    for _ in range(40):
        content = {"a": content, "b": content}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="^L: .*/x.pth is refused: it expands to more than 10,000 values"):
        read_tensor_file(tmp_path / "x.pth", "L")
    shared = [torch.zeros(1)] * 3
    torch.save({"a": shared, "b": [shared, shared]}, tmp_path / "y.pth")
    assert len(read_tensor_file(tmp_path / "y.pth", "L")["b"]) == 2


def test_read_tensor_file_refuses_entries_that_share_their_bytes(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive:
        (data,) = [entry for entry in archive.infolist() if entry.filename.endswith("data/0")]
        for number in range(1, 100):
            again = copy.copy(data)
            again.filename = data.filename.replace("data/0", f"data/{number}")
            archive.filelist.append(again)
        archive.comment = b"rewritten"  # the list of entries is
    with pytest.raises(ConfigError, match=r"x.pth is refused: its .* bytes unpack to 40"):
        read_tensor_file(tmp_path / "x.pth", "L")


def test_read_tensor_file_refuses_a_flipped_bit(tmp_path: Path) -> None:
    state = {"0.weight": torch.full((4, 4), 0.1234)}
    path = saved(tmp_path / "old.pth", state)
    content = bytearray(path.read_bytes())
    content[content.index(state["0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match="^MODEL.WEIGHTS: .*old.pth is damaged: the checksum of .*data/0 is wrong$"
    ):
        load_weights(net(), path)


def test_read_tensor_file_refuses_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(ConfigError, match=f"^MODEL.WEIGHTS: no such file: {path}$"):
            load_weights(net(), path)


def test_load_weights_refuses_a_file_of_which_only_counters_fit(tmp_path: Path) -> None:
    """mobilenet_v3_small has 20 layers with a num_batches_tracked under a name of resnet18; here there is one."""
    other = nn.ModuleDict({"features": nn.Linear(4, 9), "1": nn.BatchNorm1d(6)})
    path = saved(tmp_path / "other.pth", other.state_dict())
    with pytest.raises(ConfigError) as error:
        load_weights(net(), path)
    assert str(error.value) == (
        f"MODEL.WEIGHTS: no parameter of {path} fits the model: 1.weight (6,) does not fit (4,), 1.bias (6,) does"
        " not fit (4,), 1.running_mean (6,) does not fit (4,) and 1 more like it, 0.weight is not in the file,"
        " 0.bias is not in the file, 2.weight is not in the file and 1 more like it, features.weight is not in the"
        " model, features.bias is not in the model; name a file of this model, or set MODEL.WEIGHTS_PARTIAL to"
        " true to load what fits"
    )
    assert load_weights(net(), path, partial=True).endswith(
        f"; no parameter of {path} fits the model (MODEL.WEIGHTS_PARTIAL)"
    )


@pytest.mark.parametrize(("rows", "fits"), [(8, True), (7, False)])
def test_load_weights_refuses_less_than_half_of_the_values_without_the_classifier(
    tmp_path: Path, rows: int, fits: bool
) -> None:
    """16 of 32 are in the file, or 14; the 30 of the classifier do not count, whether they fit or not."""

    def parts(rows: int) -> nn.ModuleDict:
        kinds = {"a": nn.Linear(2, rows, bias=False), "head": nn.Linear(5, 5)}
        return nn.ModuleDict(kinds | {"b": nn.Linear(2, 16 - rows, bias=False)})

    path = saved(tmp_path / "old.pth", {n: t for n, t in parts(rows).state_dict().items() if n[0] != "b"})
    if fits:
        assert load_weights(parts(rows), path, num_classes=5).startswith("loaded 3/4 tensors")
        return
    message = (
        "MODEL.WEIGHTS: only 14 of the model's 32 values without its classifier are in .*old.pth: b.weight is"
    )
    with pytest.raises(ConfigError, match=message):
        load_weights(parts(rows), path, num_classes=5)
    said = load_weights(parts(rows), path, num_classes=5, partial=True)
    assert said.startswith(f"loaded 3/4 tensors from {path}; skipped: b.weight is not in the file; only 14 of")


def test_load_weights_takes_a_backbone_without_a_classifier(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in net().state_dict().items() if not name.startswith("2.")}
    path = saved(
        tmp_path / "old.pth", {"state_dict": {f"backbone.{name}": tensor for name, tensor in state.items()}}
    )
    said = load_weights(net(), path)
    assert said.startswith(
        f"loaded 6/8 tensors from {path} (prefix backbone. removed); skipped: 2.weight is not in"
    )


@pytest.mark.parametrize("wrapped", ["module.", "model.", "backbone.", "_orig_mod.", "module.model.", ""])
@pytest.mark.parametrize("own", ["module", "model", ""])
def test_load_weights_ignores_wrappers_in_the_file_or_around_the_model(
    tmp_path: Path, wrapped: str, own: str
) -> None:
    old, new = net(), net()
    path = saved(tmp_path / "old.pth", {f"{wrapped}{name}": tensor for name, tensor in old.state_dict().items()})
    model = nn.ModuleDict({own: new}) if own else new
    removed = wrapped.removesuffix(f"{own}.") if own else wrapped
    assert load_weights(model, path) == f"loaded 8/8 tensors from {path}" + f" (prefix {removed} removed)" * (
        removed != ""
    )
    assert same(new, old)


def test_load_weights_reads_old_names_into_a_wrapped_model(tmp_path: Path) -> None:
    """The class translates them by the version of its module, which has another name in the model."""
    path = saved(tmp_path / "old.pth", old_vit(8))
    assert load_weights(nn.DataParallel(vit(8)), path) == f"loaded 20/20 tensors from {path}"


def test_load_weights_takes_no_tensor_twice(tmp_path: Path) -> None:
    content = {"0.weight": torch.ones(4, 4), "model.0.weight": torch.zeros(4, 4), "0.bias": torch.ones(4)}
    model = net()
    said = load_weights(model, saved(tmp_path / "old.pth", content))
    assert said.endswith("model.0.weight is not in the model")
    assert torch.equal(model[0].weight, torch.ones(4, 4))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["encoder.weight"], "loaded 1/3"),
        (["decoder.weight"], "loaded 1/3"),
        (["encoder.weight", "decoder.weight"], "loaded 1/3"),
    ],
)
def test_load_weights_counts_tied_parameters_once(tmp_path: Path, names: list[str], said: str) -> None:
    model, path = Tied(), tmp_path / "old.safetensors"
    save_file({name: torch.full((4, 4), 7.0) for name in names}, path)
    assert load_weights(model, path) == (
        f"{said} tensors from {path}; skipped: head.weight is not in the file, head.bias is not in the file"
    )
    assert torch.equal(model.decoder.weight, torch.full((4, 4), 7.0))


def test_load_weights_reports_tied_parameters_that_differ_in_the_file(tmp_path: Path) -> None:
    content = {"encoder.weight": torch.ones(4, 4), "decoder.weight": torch.zeros(4, 4)}
    model = Tied()
    said = load_weights(model, saved(tmp_path / "old.pth", content))
    assert (
        "skipped: decoder.weight differs from encoder.weight, which it is tied to, head.weight is not in" in said
    )
    assert torch.equal(model.encoder.weight, torch.ones(4, 4))


def test_load_weights_gives_lazy_modules_the_shapes_of_the_file(tmp_path: Path) -> None:
    old = net()
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    path = saved(tmp_path / "old.pth", old.state_dict())
    assert load_weights(model, path) == f"loaded 8/8 tensors from {path}"
    assert torch.equal(model[0].weight, old[0].weight)
    part = saved(tmp_path / "part.pth", {"0.weight": torch.ones(4, 4)})
    lazy = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(3))
    assert load_weights(lazy, part).startswith("loaded 1/4 tensors")


def test_load_weights_reads_arrays_of_a_trusted_file(tmp_path: Path) -> None:
    old, new = net(), net()
    content = {name: tensor.numpy() for name, tensor in old.state_dict().items()}
    path = saved(tmp_path / "old.pth", content)
    assert load_weights(new, path, trust=True) == f"loaded 8/8 tensors from {path}"
    assert same(new, old)


def test_load_weights_names_values_that_are_not_weights(tmp_path: Path) -> None:
    content = {"0.weight": torch.ones(4, 4), "0.bias": [1.0, 2.0], "1.weight": torch.ones(4, dtype=torch.int8)}
    said = load_weights(net(), saved(tmp_path / "old.pth", content))
    assert (
        "skipped: 0.bias is a list, not a tensor, 1.weight has dtype torch.int8, not a floating-point type" in said
    )


def test_load_weights_restores_the_extra_state_of_a_module(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        seen = None

        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.seen = state

    model = nn.Sequential(Extra(2, 2))
    path = saved(tmp_path / "old.pth", nn.Sequential(Extra(2, 2)).state_dict())
    assert load_weights(model, path) == f"loaded 2/2 tensors from {path}"
    assert model[0].seen == {"steps": 3}


@pytest.mark.parametrize(
    ("content", "entry", "expected"),
    [
        (lambda a, b: {"model": a, "ema": {"model": b, "num_updates": 3}}, "auto", 0),
        (lambda a, b: {"model": a, "ema": {"model": b, "num_updates": 3}}, "ema", 1),
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "model", 0),
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "ema", 1),
        (lambda a, b: {"model_ema": {f"module.{n}": t for n, t in b.items()}}, "auto", 1),
        (lambda a, b: {"model": {"state_dict": a}}, "auto", 0),
        # as timm's train.py, torchvision's train.py and Lightning write them
        (lambda a, b: {"epoch": 3, "args": Namespace(lr=0.1), "state_dict": a, "state_dict_ema": b}, "auto", 0),
        (lambda a, b: {"model": a, "model_ema": b, "args": Namespace(opt="sgd", lr=0.1)}, "ema", 1),
        (lambda a, b: {"state_dict": a, "hyper_parameters": {"lr": 0.1}, "loops": {}}, "auto", 0),
        (lambda a, b: a, "auto", 0),
    ],
)
def test_load_weights_reads_the_requested_entry(tmp_path: Path, content, entry: str, expected: int) -> None:
    states = [net().state_dict() for _ in range(2)]
    model, path = net(), tmp_path / "old.pth"
    said = load_weights(model, saved(path, content(*states)), entry=entry)
    has_both = not {"ema", "state_dict_ema"}.isdisjoint(content({}, {}))
    which = "the moving average in " if expected else "the model in " if has_both else ""
    assert said.removesuffix(" (prefix module. removed)") == f"loaded 8/8 tensors from {which}{path}"
    assert torch.equal(model[0].weight, states[expected]["0.weight"])


def test_load_weights_refuses_a_file_without_the_requested_entry(tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pth", {"model": net().state_dict(), "ema": None})
    with pytest.raises(
        ConfigError, match="old.pth has no moving average; set MODEL.WEIGHTS_ENTRY to auto or model"
    ):
        load_weights(net(), path, entry="ema")
    path = saved(tmp_path / "ssl.pth", {"teacher": net().state_dict(), "student": {}, "epoch": 3})
    with pytest.raises(ConfigError, match="no tensors by the names of a model, but teacher, student, epoch$"):
        load_weights(net(), path)


def test_load_weights_refuses_a_file_that_contains_itself(tmp_path: Path) -> None:
    content: dict[str, object] = {"epoch": 1}
    content["model"] = content
    with pytest.raises(ConfigError, match="because it holds the same lists or mappings many times"):
        load_weights(net(), saved(tmp_path / "old.pth", content))
