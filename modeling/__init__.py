"""Models by name: torchvision's models and registered ones."""

from .build import build_model, check_model, read_weights_file
from .build_trial import check_images, parameter_bytes
from .catalog import model_names, register_model
from .contract import takes_targets
from .fitting import WeightsFile
from .freeze import freezing_of, hold_modules, next_change, set_frozen
from .weights import load_weights, read_tensor_file
from .whitening import InitsFromImages, patch_whitening

__all__ = [
    "InitsFromImages",
    "WeightsFile",
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
    "read_tensor_file",
    "read_weights_file",
    "register_model",
    "set_frozen",
    "takes_targets",
]
