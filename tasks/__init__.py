"""Tasks: the code that depends on the kind of target."""

from .build import build_task, default_arguments, evaluation_arguments
from .classification import Classification
from .detection import Detection, InstanceSegmentation, KeypointDetection
from .multilabel import MultilabelClassification
from .object_findings import describe_box_sizes, describe_objects, objects_as_dict
from .registry import register_task, task_names
from .regression import Regression
from .task import Evaluator, Forward, Score, Task

register_task("classification", Classification)
register_task("multilabel_classification", MultilabelClassification)
register_task("regression", Regression)
register_task("detection", Detection)
register_task("instance_segmentation", InstanceSegmentation)
register_task("keypoint_detection", KeypointDetection)

__all__ = [
    "Classification",
    "Detection",
    "Evaluator",
    "Forward",
    "InstanceSegmentation",
    "KeypointDetection",
    "MultilabelClassification",
    "Regression",
    "Score",
    "Task",
    "build_task",
    "default_arguments",
    "describe_box_sizes",
    "describe_objects",
    "evaluation_arguments",
    "objects_as_dict",
    "register_task",
    "task_names",
]
