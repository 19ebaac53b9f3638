"""Imports point one way: tools -> engine -> tasks -> {solver, data, modeling} -> config; slow ones come late."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {"config": 0, "solver": 1, "data": 1, "modeling": 1, "tasks": 2, "engine": 3, "tools": 4}
# Within a folder: a room, or a file that is in none, imports from its own floor only what is its own.
OTHERS = "*"  # the floor of what is named on none; there, files may import each other
FLOORS = {
    "engine": [
        {"runtime"},
        {"distributed"},
        {"loop", "records"},
        {"checkpoint", "analysis"},
        {"hooks"},
        {"run"},
        {"__init__.py"},
    ],
    "data": [
        {"seeds.py", "batch.py", "memory.py", "device.py", "digits"},
        {"datasets"},
        {"transforms"},
        {"spec.py", "sampling"},
        {"loaders"},
        {"build.py"},
        {"inspection"},
        {"__init__.py"},
    ],
    "tasks": [{"task.py"}, {"registry.py"}, {OTHERS}, {"build.py"}, {"__init__.py"}],
}
# Where torch.distributed may be imported: everything else asks engine/distributed.
DISTRIBUTED = ("engine/distributed/", "engine/checkpoint/shard", "engine/analysis/link_benchmark.py")
ALONE = {"solver/schedules.py"}  # pure functions: of ours it imports nothing at all
OF_SCRIPTS = "warmstart.tools"  # what tools share; as scripts they are in no package that could be imported from
MODULES = sorted(path for folder in LEVELS for path in (ROOT / folder).rglob("*.py"))


def violations(name: str, source: str) -> list[str]:
    """Return one sentence for each import in the file `name` (such as "solver/build.py") that breaks a rule."""
    folder = name.partition("/")[0]
    depth = name.count("/")  # how many dots still stay in the folder
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets, dots = [alias.name for alias in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            package, dots = node.module or "", node.level
            # `from warmstart import solver` names its folder behind the `import`.
            targets = [f"{package}.{alias.name}" if package == "warmstart" else package for alias in node.names]
        else:
            continue
        found += [
            f"{name}:{node.lineno}: {wrong}"
            for target in targets
            if (wrong := _wrong(name, folder, depth, target, dots))
        ]
    return list(dict.fromkeys(found))


def _wrong(name: str, folder: str, depth: int, target: str, dots: int) -> str:
    if dots:
        if dots > depth:
            return f"`{'.' * dots}{target}` leaves {folder}/; write `from warmstart.<folder> import ...`"
        return f"imports `{'.' * dots}{target}`, but may import nothing of ours" if name in ALONE else ""
    first, _, rest = target.partition(".")
    if first in LEVELS:
        return f"imports `{target}`, which only exists in a checkout; write warmstart.{target}"
    other = rest.partition(".")[0]
    if first != "warmstart":
        return ""
    if folder == "tools" and target == OF_SCRIPTS:
        return ""
    if other == folder:
        return f"imports `{target}` absolutely; within {folder}/ imports are relative"
    if name in ALONE:
        return f"imports `{target}`, but may import nothing of ours"
    if LEVELS.get(other, len(LEVELS)) >= LEVELS[folder]:
        order = "tools -> engine -> tasks -> solver, data, modeling -> config"
        return f"imports `{target}`, but {folder}/ is below or beside {other}/: {order}"
    return ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    found = violations(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


def test_every_folder_is_walked() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(LEVELS)
    assert all((ROOT / name).is_file() for name in ALONE)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config/node.py", "from .errors import ConfigError\nimport fvcore.common.config"),
        ("solver/build.py", "from warmstart.config import get_cfg\nfrom . import schedules\nimport torch"),
        ("solver/schedules.py", "from __future__ import annotations\nimport math"),
        ("data/digits/build_digits.py", "from ..arrays import load"),
        ("engine/run/build.py", "from warmstart import solver, data\nimport warmstart.modeling.build"),
        ("tools/train_net.py", "from warmstart.engine import Trainer\nfrom warmstart.config import ConfigError"),
        ("tools/train_net.py", "from warmstart.tools import interruptible"),
        ("data/build.py", "import data_of_someone_else\nfrom configparser import ConfigParser"),
    ],
)
def test_an_allowed_import_is_accepted(name: str, source: str) -> None:
    assert violations(name, source) == []


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        (
            "config/node.py",
            "import warmstart.engine",
            "config/node.py:1: imports `warmstart.engine`, but config/ is",
        ),
        (
            "solver/build.py",
            "import os\nfrom warmstart.data import x",
            "solver/build.py:2: imports `warmstart.data`, but",
        ),
        (
            "data/build.py",
            "from warmstart import config, modeling",
            "imports `warmstart.modeling`, but data/ is",
        ),
        (
            "modeling/a.py",
            "def f():\n    from warmstart.solver import x",
            "modeling/a.py:2: imports `warmstart.solver`",
        ),
        (
            "engine/a.py",
            "from warmstart.tools.train_net import main",
            "imports `warmstart.tools.train_net`, but engine/",
        ),
        ("engine/a.py", "import warmstart.new_folder", "imports `warmstart.new_folder`, but engine/ is"),
        ("engine/a.py", "from warmstart.engine.trainer import every", "within engine/ imports are relative"),
        ("tools/a.py", "from warmstart.tools.train_net import main", "within tools/ imports are relative"),
        (
            "engine/a.py",
            "from ..solver import build_optimizer",
            "`..solver` leaves engine/; write `from warmstart.",
        ),
        ("data/digits/a.py", "from ...solver import x", "`...solver` leaves data/"),
        ("engine/a.py", "from solver import build_optimizer", "imports `solver`, which only exists in a checkout"),
        ("engine/a.py", "import config.node", "imports `config.node`, which only exists in a checkout"),
        (
            "solver/schedules.py",
            "from warmstart.config import x",
            "imports `warmstart.config`, but may import nothing",
        ),
        ("solver/schedules.py", "from .build import x", "imports `.build`, but may import nothing of ours"),
    ],
)
def test_a_forbidden_import_is_found(name: str, source: str, message: str) -> None:
    (found,) = violations(name, source)
    assert message in found


def imports(name: str, source: str) -> Iterator[tuple[ast.AST, str]]:
    """Yield what a file imports of ours, as paths without an ending, also under TYPE_CHECKING and in functions."""
    folder = name.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        words = node.module.split(".") if node.module else []
        if node.level:
            words = [*folder[: len(folder) - node.level + 1], *words]
        elif words[:1] == ["warmstart"]:
            words = words[1:]
        else:
            continue
        for alias in node.names:
            yield node, "/".join([*words, alias.name])


def module_of(target: str) -> str:
    """Return the file that an imported name is in."""
    for path in (f"{target}.py", f"{target}/__init__.py", f"{target.rpartition('/')[0]}.py"):
        if (ROOT / path).is_file():
            return path
    return f"{target.rpartition('/')[0]}/__init__.py"


def floor_of(name: str) -> tuple[int, str]:
    """Return the floor of a file and the room that it is in, or the file itself where it is in none."""
    folder, _, rest = name.partition("/")
    room = rest.partition("/")[0]
    floors = FLOORS[folder]
    (floor,) = [number for number, rooms in enumerate(floors) if room in rooms] or [
        number for number, rooms in enumerate(floors) if OTHERS in rooms
    ]
    return floor, room


def climbs(name: str, source: str) -> list[str]:
    """Return one sentence for each import of a file that goes up a floor, or to another room of its own floor."""
    folder, (floor, room), found = name.partition("/")[0], floor_of(name), []
    for node, target in imports(name, source):
        if not target.startswith(f"{folder}/"):
            continue
        module = module_of(target)
        there, other = floor_of(module)
        beside = there == floor and OTHERS in FLOORS[folder][floor]
        if other != room and there >= floor and not beside:
            found.append(f"{name}:{node.lineno}: imports {module}, which is not on a floor below")  # type: ignore[attr-defined]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("folder", FLOORS)
def test_imports_within_a_folder_go_down_its_floors(folder: str) -> None:
    files = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in MODULES}
    found = [line for name in files if name.startswith(f"{folder}/") for line in climbs(name, files[name])]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("engine/loop/a.py", "from ..distributed import comm\nfrom .trainer import Trainer", 0),
        ("engine/loop/a.py", "from ..run.build import build_trainer", 1),
        ("engine/loop/a.py", "from ..records.writers import Writer", 1),
        ("engine/loop/a.py", "def f():\n    from ..checkpoint import sharded", 1),
        ("engine/runtime/a.py", "if TYPE_CHECKING:\n    from ..distributed.comm import rank", 1),
        ("data/datasets/a.py", "from ..seeds import splitmix64\nfrom warmstart.config import ConfigError", 0),
        ("data/datasets/a.py", "from ..loaders.worker import WorkerLoader", 1),
        ("tasks/task.py", "from warmstart.data import Batch", 0),
        ("tasks/task.py", "from .registry import task_class", 1),
        ("tasks/task.py", "from .classification import Classification", 1),
        ("tasks/registry.py", "from .task import Task", 0),
        ("tasks/registry.py", "def f():\n    from .classification import Classification", 1),
        ("tasks/depth.py", "from .task import Task\nfrom .classification import Classification", 0),
        ("tasks/depth.py", "from .build import build_task", 1),
        ("tasks/build.py", "from .registry import task_class\nfrom .classification import Classification", 0),
        ("tasks/build.py", "from . import task_names", 1),
    ],
)
def test_an_import_that_goes_up_is_found(name: str, source: str, found: int) -> None:
    assert len(climbs(name, source)) == found


def test_a_hook_imports_no_other_hook() -> None:
    hooks = [path for path in (ROOT / "engine" / "hooks").glob("*.py") if path.name != "__init__.py"]
    assert hooks
    for path in hooks:
        name = path.relative_to(ROOT).as_posix()
        found = [module_of(target) for _, target in imports(name, path.read_text(encoding="utf-8"))]
        assert [module for module in found if module.startswith("engine/hooks/")] == [], name


def test_checkpoints_import_neither_trainer_nor_hooks() -> None:
    for path in (ROOT / "engine" / "checkpoint").glob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        found = {module_of(target) for _, target in imports(name, path.read_text(encoding="utf-8"))}
        assert "engine/loop/trainer.py" not in found, name


def test_torch_distributed_is_imported_where_ranks_are_the_matter() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(
            name.startswith("torch.distributed")
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
        )
    ]
    assert found
    assert [name for name in found if not name.startswith(DISTRIBUTED)] == []


def test_modules_import_each_other_in_no_circle() -> None:
    """Counting imports under TYPE_CHECKING and in functions."""
    files = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in MODULES}
    needs = {name: {module_of(t) for _, t in imports(name, source)} & {*files} for name, source in files.items()}
    while free := [name for name in needs if not needs[name] - {name}]:
        for name in free:
            del needs[name]
        for others in needs.values():
            others.difference_update(free)
    assert needs == {}


# What takes tenths of a second to import.
SLOW = ("matplotlib", "scipy", "sklearn", "tensorboard", "torch._dynamo", "torchmetrics", "torchvision")
# Prints which of it is there once the tools are imported, and after each line, up to the first update of a run.
STAGES = f"""
import json, sys
from warmstart.engine import HookBase, register_hook
from warmstart.tools import export_weights, find_lr, plain_train_net, plan_scale, plot_lr, train_net

class Stop(HookBase):
    def after_step(self, trainer):
        raise SystemExit

def show():
    print("\\nthere:", json.dumps([name for name in {SLOW!r} if name in sys.modules]))

register_hook("stop", lambda cfg: Stop())
show()
for line in sys.argv[1:]:
    try:
        train_net.main(line.split())
    except SystemExit:
        show()
"""


def test_slow_modules_are_imported_only_when_needed(tmp_path: Path) -> None:
    recipe = "--config-file recipe:digits.yaml"
    lines = ["--help", f"{recipe} --print-config", f"{recipe} OUTPUT_DIR {tmp_path}/out"]
    said = subprocess.check_output([sys.executable, "-c", STAGES, *lines], text=True).splitlines()
    found = [json.loads(line.partition(" ")[2]) for line in said if line.startswith("there:")]
    # torch's optimizers import the last one, in every script.
    assert found == [[], [], [], ["torch._dynamo"]]
    assert (tmp_path / "out" / "config.yaml").exists()


def takes_config(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function has a parameter that is annotated as a CfgNode."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return any(each.annotation is not None and "CfgNode" in ast.unparse(each.annotation) for each in every)


def config_takers(name: str, source: str) -> list[str]:
    """Return what in a file takes a config and should take values: classes, and functions outside of the rule.

    Functions take one in engine/run/, tools/, data/spec.py and files called build*.py, and elsewhere those called
    build_*, check_* or describe_* with their private helpers.
    """
    free = name.startswith(("engine/run/", "tools/", "config/")) or name == "data/spec.py"
    free |= name.rpartition("/")[2].startswith("build")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            found += [
                f"{name}:{member.lineno}: {node.name} holds a CfgNode"
                for member in node.body
                if (isinstance(member, ast.FunctionDef) and takes_config(member))
                or (isinstance(member, ast.AnnAssign) and "CfgNode" in ast.unparse(member.annotation))
            ]
        elif isinstance(node, ast.Module):
            found += [
                f"{name}:{member.lineno}: {member.name} takes a CfgNode"
                for member in node.body
                if isinstance(member, ast.FunctionDef)
                and takes_config(member)
                and not (free or member.name.startswith(("build_", "check_", "describe_", "_")))
            ]
    return found if not name.startswith("config/") else []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_classes_take_values_and_few_functions_a_config(path: Path) -> None:
    found = config_takers(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("engine/loop/a.py", "def train(cfg: CfgNode): ...", 1),
        ("engine/loop/a.py", "def train(lr, *, cfg: CfgNode | None = None): ...", 1),
        ("engine/loop/a.py", "class A:\n    def __init__(self, cfg: CfgNode): ...", 1),
        ("engine/run/a.py", "class A:\n    cfg: CfgNode", 1),
        ("engine/loop/a.py", "def build_hook(cfg: CfgNode): ...\ndef _part(cfg: CfgNode): ...", 0),
        ("engine/run/a.py", "def train(cfg: CfgNode): ...", 0),
        ("data/loaders/build_backend.py", "def choose(cfg: CfgNode): ...", 0),
        ("solver/a.py", "def check_a(cfg: CfgNode): ...\ndef describe_a(cfg: CfgNode): ...", 0),
    ],
)
def test_who_takes_a_config_is_found(name: str, source: str, found: int) -> None:
    assert len(config_takers(name, source)) == found
