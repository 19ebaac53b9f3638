"""Names that are not transforms, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

from warmstart.config import ConfigError, unknown_name

# What is done to every image anyway, and by which key.
_BUILT_IN = {
    "Normalize": "set INPUT.MEAN and INPUT.STD",
    **dict.fromkeys(
        ("ToTensor", "PILToTensor", "ToDtype", "ConvertImageDtype", "ToPureTensor"),
        "images become floats in [0, 1]",
    ),
    "Compose": "the list itself is the composition",
}
# Names of other libraries, in lower case.
_OTHER_NAMES = {
    **dict.fromkeys(("flip", "randomflip", "fliplr", "hflip", "horizontalflip"), "RandomHorizontalFlip"),
    **dict.fromkeys(("flipud", "vflip", "verticalflip"), "RandomVerticalFlip"),
    **dict.fromkeys(("rotate", "rotation", "randomrotate"), "RandomRotation"),
    **dict.fromkeys(("resizeshortestedge", "randomresizeshortestedge"), "RandomShortestSize"),
    **dict.fromkeys(("resizescale", "lsj", "largescalejitter"), "ScaleJitter"),
    **dict.fromkeys(("ssdcrop", "minioucrop", "randomsamplecrop"), "RandomIoUCrop"),
    **dict.fromkeys(("crop", "randomsizedcrop"), "RandomCrop"),
    **dict.fromkeys(("cutout", "coarsedropout", "erasing"), "RandomErasing"),
    **dict.fromkeys(("blur", "gaussblur"), "GaussianBlur"),
    **dict.fromkeys(("jitter", "colourjitter", "colorjitter"), "ColorJitter"),
    **dict.fromkeys(("trivialaugment", "ta", "tawide"), "TrivialAugmentWide"),
    **dict.fromkeys(("grayscale", "greyscale", "togray", "togrey"), "Grayscale"),
    **dict.fromkeys(("scale", "rescale"), "Resize"),
}


def unknown_transform(label: str, name: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a name that is not a transform, which says what to write instead.

    >>> print(unknown_transform("INPUT.TRANSFORMS_TRAIN", "RandomFlip", ["RandomHorizontalFlip"]))
    INPUT.TRANSFORMS_TRAIN: no transform is called 'RandomFlip'; did you mean 'RandomHorizontalFlip'?
    >>> print(unknown_transform("INPUT.TRANSFORMS_TRAIN", "Resize(128)", ["Resize"]))
    INPUT.TRANSFORMS_TRAIN: arguments have names: write {Resize: {size: 128}} instead of Resize(128)
    """
    call = re.fullmatch(r"(?:\w+\.)*(\w+)\((.*)\)", name)
    if call:
        text = call[2].replace("=", ": ")
        given = text if ":" in text else f"size: {text}" if call[1].endswith(("Resize", "Crop")) and text else ""
        form = f"{{{call[1]}: {{{given or 'ARGUMENT: VALUE'}}}}}" if call[2] else call[1]
        return ConfigError(f"{label}: arguments have names: write {form} instead of {name}")
    if name in _BUILT_IN:
        return ConfigError(f"{label}: {name} is built in: {_BUILT_IN[name]}; leave it out")
    plain = name.replace("_", "").lower()
    match = _OTHER_NAMES.get(plain) or next((each for each in known if each.lower() == plain), "")
    if match in known:
        return ConfigError(f"{label}: no transform is called {name!r}; did you mean {match!r}?")
    return unknown_name(label, "transform", name, known)
