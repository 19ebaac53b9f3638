"""Models by name: torchvision's, timm's and registered ones, with weights from files or published ones."""

from .anchors import AnchorSizes, anchor_sizes
from .build import build_model, check_model, read_weights_file
from .build_trial import check_images, parameter_bytes
from .catalog import model_names, register_model
from .contract import ANY_TASK, ModelTask, takes_targets
from .fitting import WeightsFile
from .freeze import freezing_of, hold_modules, next_change, set_frozen
from .pretrained import BACKBONE, InputDefaults, build_input_defaults, published_weights, weights_path
from .weights import load_weights, peek_tensor_file, read_tensor_file
from .whitening import InitsFromImages, patch_whitening

__all__ = [
    "ANY_TASK",
    "BACKBONE",
    "AnchorSizes",
    "InitsFromImages",
    "InputDefaults",
    "ModelTask",
    "WeightsFile",
    "anchor_sizes",
    "build_input_defaults",
    "build_model",
    "check_images",
    "check_model",
    "freezing_of",
    "hold_modules",
    "load_weights",
    "model_names",
    "next_change",
    "parameter_bytes",
    "patch_whitening",
    "peek_tensor_file",
    "published_weights",
    "read_tensor_file",
    "read_weights_file",
    "register_model",
    "set_frozen",
    "takes_targets",
    "weights_path",
]
