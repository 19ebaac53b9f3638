"""Data sets and transforms by name, and loaders whose batches depend on SEED and the iteration alone."""

from .batch import Batch, Sample, SampleTask, map_tensors, split_batch, stack_images, to_device
from .build import build_test_loader, build_train_loader, check_data
from .datasets import builtin as catalog  # noqa: F401  # registers the built-in data sets
from .datasets.decode import UnreadableImageError, read_image
from .datasets.entries import DatasetEntry
from .datasets.info import DatasetInfo
from .datasets.masks import encode_mask, mask_functions, masks_of, rle_of
from .datasets.names import named_sets
from .datasets.object_problems import ObjectProblem, object_problems
from .datasets.objects import KeypointInfo, Objects
from .datasets.packed_list import FlatRecords
from .datasets.registry import (
    MapDataset,
    build_dataset,
    checked_label,
    dataset_info,
    dataset_names,
    register_dataset,
)
from .datasets.sample import sample_image, sample_name
from .datasets.targets import checked_number_array, checked_numbers
from .device import OWN_DEVICE, accelerator, pins_memory
from .inspection.advice import Suggestion, check_reports, describe_advice, some_of
from .inspection.build import Inspection, build_inspections
from .inspection.objects import PROBLEMS, ObjectsReport
from .inspection.overview import describe_training_set
from .inspection.report import SetReport
from .loaders.base import TrainLoader
from .loaders.build_backend import choose_backend, describe_loader
from .loaders.build_workers import OWN_CORES, describe_workers, num_workers, usable_cores
from .loaders.resident import ResidentEvalLoader, ResidentSamples, ResidentTrainLoader
from .loaders.worker import EvalLoader, WorkerTrainLoader
from .memory import free_memory, gigabytes
from .sampling.stream import GroupedStream, SampleOrder, SampleStream
from .sampling.weights import class_repeats, repeat_factors
from .seeds import forward_key, sample_key, splitmix64
from .spec import DataSpec, data_spec, device_of, named_test_sets, num_outputs, train_info
from .transforms.image import build_transform
from .transforms.objects import OBJECT_ENTRIES, finish_objects, frame_of, points_in, to_original
from .transforms.registry import check_transforms, register_transform

__all__ = [
    "OBJECT_ENTRIES",
    "OWN_CORES",
    "OWN_DEVICE",
    "PROBLEMS",
    "Batch",
    "DataSpec",
    "DatasetEntry",
    "DatasetInfo",
    "EvalLoader",
    "FlatRecords",
    "GroupedStream",
    "Inspection",
    "KeypointInfo",
    "MapDataset",
    "ObjectProblem",
    "Objects",
    "ObjectsReport",
    "ResidentEvalLoader",
    "ResidentSamples",
    "ResidentTrainLoader",
    "Sample",
    "SampleOrder",
    "SampleStream",
    "SampleTask",
    "SetReport",
    "Suggestion",
    "TrainLoader",
    "UnreadableImageError",
    "WorkerTrainLoader",
    "accelerator",
    "build_dataset",
    "build_inspections",
    "build_test_loader",
    "build_train_loader",
    "build_transform",
    "check_data",
    "check_reports",
    "check_transforms",
    "checked_label",
    "checked_number_array",
    "checked_numbers",
    "choose_backend",
    "class_repeats",
    "data_spec",
    "dataset_info",
    "dataset_names",
    "describe_advice",
    "describe_loader",
    "describe_training_set",
    "describe_workers",
    "device_of",
    "encode_mask",
    "finish_objects",
    "forward_key",
    "frame_of",
    "free_memory",
    "gigabytes",
    "map_tensors",
    "mask_functions",
    "masks_of",
    "named_sets",
    "named_test_sets",
    "num_outputs",
    "num_workers",
    "object_problems",
    "pins_memory",
    "points_in",
    "read_image",
    "register_dataset",
    "register_transform",
    "repeat_factors",
    "rle_of",
    "sample_image",
    "sample_key",
    "sample_name",
    "some_of",
    "split_batch",
    "splitmix64",
    "stack_images",
    "to_device",
    "to_original",
    "train_info",
    "usable_cores",
]
