"""Imports point one way: tools -> engine -> {solver, data, modeling} -> config; and what takes long comes late."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {"config": 0, "solver": 1, "data": 1, "modeling": 1, "engine": 2, "tools": 3}
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
        order = "tools -> engine -> solver, data, modeling -> config"
        return f"imports `{target}`, but {folder}/ stands below or beside {other}/: {order}"
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
def test_what_is_allowed(name: str, source: str) -> None:
    assert violations(name, source) == []


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        (
            "config/node.py",
            "import warmstart.engine",
            "config/node.py:1: imports `warmstart.engine`, but config/ stands",
        ),
        (
            "solver/build.py",
            "import os\nfrom warmstart.data import x",
            "solver/build.py:2: imports `warmstart.data`, but",
        ),
        (
            "data/build.py",
            "from warmstart import config, modeling",
            "imports `warmstart.modeling`, but data/ stands",
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
        ("engine/a.py", "import warmstart.new_folder", "imports `warmstart.new_folder`, but engine/ stands"),
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
def test_what_is_forbidden_is_found(name: str, source: str, message: str) -> None:
    (found,) = violations(name, source)
    assert message in found


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


def test_what_takes_long_is_imported_when_it_is_needed(tmp_path: Path) -> None:
    recipe = "--config-file recipe:digits.yaml"
    lines = ["--help", f"{recipe} --print-config", f"{recipe} OUTPUT_DIR {tmp_path}/out"]
    said = subprocess.check_output([sys.executable, "-c", STAGES, *lines], text=True).splitlines()
    found = [json.loads(line.partition(" ")[2]) for line in said if line.startswith("there:")]
    # torch's optimizers import the last one, in every script.
    assert found == [[], [], [], ["torch._dynamo"]]
    assert (tmp_path / "out" / "config.yaml").exists()
