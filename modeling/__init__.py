"""Models by name: torchvision's and registered ones, as classifiers that give losses in training."""

from .build import build_model, check_model
from .catalog import model_names, register_model
from .classification import Classifier, as_classifier
from .trial import check_images, parameter_bytes
from .weights import load_weights, read_tensor_file
from .whitening import InitsFromImages, patch_whitening

__all__ = [
    "Classifier",
    "InitsFromImages",
    "as_classifier",
    "build_model",
    "check_images",
    "check_model",
    "load_weights",
    "model_names",
    "parameter_bytes",
    "patch_whitening",
    "read_tensor_file",
    "register_model",
]
