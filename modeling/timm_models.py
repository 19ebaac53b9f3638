"""timm's models under the names `timm:NAME`, with random weights; timm is an extra."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from warmstart.config import ConfigError, did_you_mean

PREFIX = "timm:"

_LIST_ALL = "python -c \"import timm; print(*timm.list_models(), sep='\\n')\""

# Arguments of timm's create_model and of its models that are set by another key, or that return something else
# than a classifier.
_NOT_OFFERED = {
    "num_classes": "set MODEL.NUM_CLASSES instead",
    "in_chans": "set MODEL.IN_CHANNELS instead",
    "pretrained": "set MODEL.WEIGHTS DEFAULT instead",
    "pretrained_cfg": "put the tag into MODEL.NAME, as in timm:resnet50.a1_in1k",
    "pretrained_cfg_overlay": "put the tag into MODEL.NAME, as in timm:resnet50.a1_in1k",
    "checkpoint_path": "set MODEL.WEIGHTS to the file instead",
    "cache_dir": "downloads are kept in torch's hub folder, which TORCH_HOME moves",
    "features_only": "the model would have no classifier; remove it",
    "out_indices": "the model would have no classifier; remove it",
    "feature_cfg": "the model would have no classifier; remove it",
    "device": "set MODEL.DEVICE instead",
    "dtype": "weights are float32; set SOLVER.AMP instead",
    **dict.fromkeys(("scriptable", "exportable", "no_jit"), "remove it"),
}


class TimmInput(NamedTuple):
    """How timm's weights of a model expect their images.

    Args:
        mean: one value per channel.
        std: one value per channel.
        size: (height, width) in pixels.
        resize: size of the image before the crop, at least `size`.
        squashed: whether the image is resized to `resize` without keeping its aspect ratio.
        interpolation: of the resize, such as "bicubic".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    resize: tuple[int, int]
    squashed: bool
    interpolation: str


def is_timm(name: str) -> bool:
    """Return whether MODEL.NAME is one of timm's.

    >>> is_timm("timm:resnet18"), is_timm("resnet18")
    (True, False)
    """
    return name.startswith(PREFIX)


def check_timm_name(name: str, label: str) -> None:
    """Raise ConfigError, with the most similar name, if timm is not installed or has no such model or tag."""
    known = _timm(name, label).list_models()
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if architecture not in known:
        hint = did_you_mean(
            architecture, known, f"; `{_LIST_ALL}` lists them", lambda near: repr(f"{PREFIX}{near}")
        )
        raise ConfigError(f"{label}: timm has no model called {architecture!r}{hint}")
    tags = _tags(architecture)
    if tag and tag not in tags:
        hint = did_you_mean(tag, tags)
        has = f"{hint} It has: {', '.join(tags)}" if tags else f"; write {PREFIX}{architecture}"
        raise ConfigError(f"{label}: timm has no weights called {tag!r} for {architecture}{has}")


def has_timm_model(name: str) -> bool:
    """Return whether timm is installed and has a model of this name, without the prefix `timm:`."""
    try:
        import timm
    except ImportError:
        return False
    return bool(timm.is_model(name))


def timm_signature(name: str) -> tuple[inspect.Signature, dict[str, str]]:
    """Return the arguments that a config can give to timm's model `name`, and others with what to do instead.

    All are optional. A model whose class takes any keyword also takes arguments that the signature does not name.
    """
    from timm.models import model_entrypoint

    entry = inspect.signature(model_entrypoint(_own(name)), eval_str=True).return_annotation
    parameters = inspect.signature(entry).parameters.values() if isinstance(entry, type) else []
    free = [
        p if p.kind is p.VAR_KEYWORD else p.replace(default=None, kind=p.KEYWORD_ONLY)
        for p in parameters
        if p.name not in _NOT_OFFERED
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.VAR_KEYWORD)
        and (
            "str" in (kind := str(p.annotation)) or not ("Callable" in kind or "Type[" in kind)
        )  # a config cannot hold functions
    ]
    return inspect.Signature(free), _NOT_OFFERED


def build_timm(name: str, num_classes: int, in_channels: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Return timm's model `name` with random weights; nothing is downloaded.

    Raises:
        TypeError, ValueError: the model does not take the values.

    >>> build_timm("timm:test_resnet", 7, 1, {}).get_classifier().out_features
    7
    """
    import timm

    own = name.removeprefix(PREFIX)
    try:
        model: nn.Module = timm.create_model(
            own, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments
        )
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError) as error:
        # What timm's models raise for unexpected values, if they check them at all.
        raise ValueError(str(error) or type(error).__name__) from error
    return model


def timm_input(name: str, arguments: Mapping[str, Any]) -> TimmInput:
    """Return timm's data config of a model; MODEL.ARGS.img_size replaces its size.

    >>> timm_input("timm:resnet50.a1_in1k", {}).resize, timm_input("timm:resnet50", {"img_size": 96}).size
    ((235, 235), (96, 96))
    """
    config = _config(name)
    size = arguments.get("img_size") or config.input_size[-2:]
    height, width = (size, size) if isinstance(size, int) else size
    resize = math.floor(height / config.crop_pct), math.floor(width / config.crop_pct)
    mean, std = tuple(config.mean), tuple(config.std)
    return TimmInput(mean, std, (height, width), resize, config.crop_mode == "squash", config.interpolation)


def timm_weights(name: str) -> str:
    """Return where timm's weights of a model are, as `hf:OWNER/REPO/FILE` or a URL; "" if it has none.

    >>> timm_weights("timm:resnet50.a1_in1k"), timm_weights("timm:legacy_seresnet18").rpartition("/")[2]
    ('hf:timm/resnet50.a1_in1k/model.safetensors', 'seresnet18-4bb0ce65.pth')
    """
    config = _config(name)
    if config.hf_hub_id:
        return f"hf:{config.hf_hub_id}/{config.hf_hub_filename or 'model.safetensors'}"
    return str(config.url or "")


def timm_filter(model: nn.Module) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None:
    """Return timm's conversion of a published state dict to a model's names and shapes; None if it has none.

    By timm's convention it is called `checkpoint_filter_fn` in the module of the model's class. It also resizes
    position embeddings to the model's number of patches.
    """
    module = type(model).__module__
    function = getattr(sys.modules[module], "checkpoint_filter_fn", None) if module.startswith("timm.") else None
    return None if function is None else functools.partial(_filtered, function, model)


def _filtered(function: Callable[..., Any], model: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found = function(dict(state), model)
    except Exception:  # it expects the names of a published file; other files are taken as they are
        return state
    return found if isinstance(found, Mapping) else state


def _timm(name: str, label: str) -> Any:
    try:
        import timm
    except ImportError:
        raise ConfigError(
            f"{label}: {name} needs the package timm, which is not installed; pip install 'warmstart[timm]'"
        ) from None
    return timm


def _own(name: str) -> str:
    """Return the name of the architecture, without prefix and tag."""
    return name.removeprefix(PREFIX).partition(".")[0]


def _config(name: str) -> Any:
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(name.removeprefix(PREFIX))


def _tags(architecture: str) -> list[str]:
    from timm.models import list_pretrained

    return [each.partition(".")[2] for each in list_pretrained(f"{architecture}.*")]
