"""Published weights by name: torchvision's enums, timm's, files on Hugging Face's hub, and URLs."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from warmstart.config import CfgNode, ConfigError, did_you_mean

from .catalog import is_detector, registered_builder, torchvision_class
from .detector_backbone import backbone_classifier
from .download import Remote, check_url, download
from .timm_models import is_timm, timm_input, timm_weights

BACKBONE = "backbone:"  # what precedes the weights of a classifier for a detector's backbone

_HUB = "https://huggingface.co"  # HF_ENDPOINT replaces it, as for every program that uses the hub
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PUBLISHED = re.compile(r"[A-Z][A-Z0-9_]*")  # such as IMAGENET1K_V1
_HASHED = re.compile(r"-([0-9a-f]{8,64})\.")  # torch.hub's checksum in a file's name


class InputDefaults(NamedTuple):
    """What INPUT's keys are if the user has not set them, because the weights expect it.

    Args:
        source: whose they are, in words.
        values: by the names of the keys in INPUT: MEAN, STD and, for timm's models, the transforms.
    """

    source: str
    values: dict[str, Any]


def build_input_defaults(cfg: CfgNode) -> InputDefaults | None:
    """Return the defaults of INPUT's keys that follow from MODEL.NAME and MODEL.WEIGHTS; None if none do.

    They are the mean and standard deviation of published weights of torchvision and, for timm's models, with any
    weights, those of timm's data config, with its size, crop and interpolation as transforms. The names must be
    valid. Nothing is downloaded.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.NAME", "resnet18", "MODEL.WEIGHTS", "IMAGENET1K_V1"])
    >>> build_input_defaults(cfg).values["STD"]
    (0.229, 0.224, 0.225)
    """
    name, weights = cfg.MODEL.NAME, cfg.MODEL.WEIGHTS
    if registered_builder(name) is not None or is_detector(name):  # detectors normalise images themselves
        return None
    if is_timm(name):
        found = timm_input(name, cfg.MODEL.ARGS)
        (height, width), resize = found.size, found.resize
        crop = height if height == width else [height, width]
        shorter = [*resize] if found.squashed or height != width else resize[0]
        how = {"interpolation": found.interpolation}
        transforms = {
            "TRANSFORMS_TRAIN": (("RandomResizedCrop", {"size": crop, **how}),),
            "TRANSFORMS_TEST": (("Resize", {"size": shorter, **how}), ("CenterCrop", {"size": crop})),
        }
        return InputDefaults(name, {"MEAN": found.mean, "STD": found.std, **transforms})
    published = _torchvision_weights(name).get(weights)
    if published is None:
        return None
    preset = published.transforms()
    mean, std = tuple(preset.mean), tuple(preset.std)
    if "transform_input" in inspect.signature(torchvision_class(name)).parameters:
        # torchvision builds GoogLeNet and Inception v3 with this argument if it loads weights: inside of the model
        # it replaces the normalisation with the preset's values by these, with which the weights were trained.
        mean = std = (0.5, 0.5, 0.5)
    return InputDefaults(f"weights {weights}", {"MEAN": mean, "STD": std})


def weights_path(weights: str, model: str, label: str) -> Path:
    """Return the path of the file that MODEL.WEIGHTS names; a published or remote one is downloaded if need be.

    Args:
        weights: MODEL.WEIGHTS, not empty.
        model: MODEL.NAME, valid.
        label: the key, for errors.

    Raises:
        ConfigError: the name of published weights or the address is not valid, `download` raises it, or there is
            no such file.
    """
    if weights.startswith(BACKBONE):
        weights, model = weights.removeprefix(BACKBONE), backbone_classifier(model)
    remote = find_remote(weights, model, label)
    if remote is not None:
        return download(remote, label)
    path = Path(os.path.expanduser(weights))
    if path.is_dir():
        raise ConfigError(f"{label}: {path} is a folder without checkpoints; name a file, or the folder of a run")
    if not path.is_file():
        names = published_weights(model)
        hint = f"; {model} has the published weights {', '.join(names)}" if names else ""
        raise ConfigError(f"{label}: no such file: {path}{hint}")
    return path


def find_remote(weights: str, model: str, label: str) -> Remote | None:
    """Return the remote file that MODEL.WEIGHTS names; None if it is a local path.

    Args and errors: see `weights_path`. A name of published weights precedes a file of that name.

    >>> find_remote("hf:timm/resnet18.a1_in1k/model.safetensors", "timm:resnet18", "MODEL.WEIGHTS").name
    'timm--resnet18.a1_in1k--model.safetensors'
    >>> find_remote("IMAGENET1K_V1", "resnet18", "MODEL.WEIGHTS").sha256
    'f37072fd'
    """
    if is_timm(model) and weights == "DEFAULT":
        where = timm_weights(model)
        if not where:
            raise ConfigError(f"{label}: timm has no weights for {model}; name a file")
        return _on_hub(where, label) if where.startswith("hf:") else _at_url(where, label, hashed=True)
    if weights.startswith("hf:"):
        return _on_hub(weights, label)
    if _URL.match(weights):
        return _at_url(weights, label)
    if registered_builder(model) is None and not is_timm(model):
        published = _torchvision_weights(model)
        if weights in published:
            return _at_url(published[weights].url, label, hashed=True)
    if _PUBLISHED.fullmatch(weights) and not Path(weights).exists():
        names = published_weights(model)
        known = f"; it has {', '.join(names)}" if names else "; name a file"
        hint = did_you_mean(weights, names, known, str)
        raise ConfigError(f"{label}: {model} has no published weights called {weights}{hint}")
    return None


def published_weights(model: str) -> list[str]:
    """Return the names of published weights that MODEL.WEIGHTS accepts for a model.

    >>> published_weights("resnet50"), published_weights("small_cnn")
    (['IMAGENET1K_V1', 'IMAGENET1K_V2', 'DEFAULT'], [])
    """
    if registered_builder(model) is not None:
        return []
    if is_timm(model):
        return ["DEFAULT"] if timm_weights(model) else []
    inside = [*_torchvision_weights(backbone_classifier(model))] if is_detector(model) else []
    return [*_torchvision_weights(model), *(f"{BACKBONE}{name}" for name in inside)]


def _torchvision_weights(model: str) -> dict[str, Any]:
    """Return torchvision's weights of a model by their names, DEFAULT among them."""
    from torchvision.models import get_model_weights

    try:
        return dict(get_model_weights(model).__members__)
    except ValueError:  # weights for a registered or unknown name
        return {}


def _on_hub(weights: str, label: str) -> Remote:
    """Return the file `hf:OWNER/REPO/FILE` or `hf:OWNER/REPO@REVISION/FILE`."""
    owner, _, rest = weights.removeprefix("hf:").partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    parts = [owner, repository, *file.split("/"), *([revision] if "@" in rest.partition("/")[0] else [])]
    if not all(re.fullmatch(r"[\w.-]+", part) and part not in (".", "..") for part in parts):
        raise ConfigError(
            f"{label}: expected hf:OWNER/REPO/FILE, such as hf:timm/resnet18.a1_in1k/model.safetensors; got"
            f" {weights}"
        )
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB
    url = f"{endpoint}/{owner}/{repository}/resolve/{revision or 'main'}/{quote(file)}"
    check_url(url, label)
    kept = "--".join([owner, f"{repository}@{revision}" if revision else repository, *file.split("/")])
    return Remote(url, kept)


def _at_url(url: str, label: str, hashed: bool = False) -> Remote:
    """Return the file at a URL; `hashed`: torch.hub's convention, the name ends in digits of its checksum."""
    check_url(url, label)
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError(
            f"{label}: checkpoints would hold the user name and password in the address; remove them"
        )
    name = PurePosixPath(unquote(parts.path)).name
    if not re.fullmatch(r"[^\x00-\x1f/\\]{1,200}", name) or name in (".", ".."):
        raise ConfigError(f"{label}: {url} does not end in the name of a file")
    digits = _HASHED.search(name) if hashed or parts.hostname == "download.pytorch.org" else None
    if digits:
        return Remote(url, name, digits[1])
    # In any other name such digits may be a date. Files of the same name from two addresses are two files.
    own = hashlib.sha256(url.encode()).hexdigest()[:12]
    return Remote(url, f"{PurePosixPath(name).stem}.{own}{PurePosixPath(name).suffix}")
