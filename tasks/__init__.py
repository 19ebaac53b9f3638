"""Tasks: the code that depends on the kind of target."""

from .build import build_task, default_arguments, evaluation_arguments
from .classification import Classification
from .multilabel import MultilabelClassification
from .registry import register_task, task_names
from .regression import Regression
from .task import Evaluator, Forward, Score, Task

register_task("classification", Classification)
register_task("multilabel_classification", MultilabelClassification)
register_task("regression", Regression)

__all__ = [
    "Classification",
    "Evaluator",
    "Forward",
    "MultilabelClassification",
    "Regression",
    "Score",
    "Task",
    "build_task",
    "default_arguments",
    "evaluation_arguments",
    "register_task",
    "task_names",
]
