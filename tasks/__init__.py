"""Tasks: everything that depends on the kind of target, and nothing else."""

from .build import build_task, default_arguments, evaluation_arguments
from .classification import Classification
from .registry import register_task, task_names
from .task import Evaluator, Forward, Score, Task

register_task("classification", Classification)

__all__ = [
    "Classification",
    "Evaluator",
    "Forward",
    "Score",
    "Task",
    "build_task",
    "default_arguments",
    "evaluation_arguments",
    "register_task",
    "task_names",
]
