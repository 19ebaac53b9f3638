"""The README and the pages for users: their blocks as a reader runs them, their links, and the index."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
TOP = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tools/README.md"]
PAGES = [*TOP, *(f"docs/{name}" for name in DOCS)]
RUN = ["README.md", "docs/TRAINING.md", "docs/DISTRIBUTED.md"]  # their shell blocks are run
PROGRAMS = ["docs/TRAINING.md", "docs/EXTENDING.md", "docs/PYTHON.md"]  # their Python blocks are run


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


PYTHON = [(page, index) for page in PROGRAMS for index in range(len(blocks(page, "python")))]


def test_the_quick_start_is_the_first_thing_that_mentions_training_or_testing() -> None:
    quick = [body.strip() for body in blocks("README.md", "bash")][:2]
    assert quick == [
        "pip install -e . && python tools/train_net.py --config-file config/recipes/digits.yaml",
        "pip install -e '.[test]' && pytest -n auto",
    ]
    first = min(README.index(word) for word in ("train_net.py", "pytest"))
    assert README.rindex("```bash", 0, first) < README.index(quick[0])
    assert README.index(quick[0]) < first < README.index(quick[0]) + len(quick[0])


def test_the_readme_has_at_most_180_lines_and_one_small_picture() -> None:
    assert len(README.splitlines()) <= 180
    assert re.findall(r"!\[.*?\]\((.*?)\)", README) == ["docs/digits.png"]
    assert (ROOT / "docs" / "digits.png").stat().st_size < 60_000


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("tools", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_shell_blocks_run_in_order(checkout: Path, page: str) -> None:
    shell = [body for body in blocks(page, "bash") if "pip install" not in body]
    assert shell
    for block in shell:
        done = run(["bash", "-euo", "pipefail", "-c", block], checkout)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(("page", "index"), PYTHON)
def test_a_python_block_runs(checkout: Path, page: str, index: int) -> None:
    program = blocks(page, "python")[index]
    done = run([sys.executable, "-W", "error", "-c", program], checkout)
    assert done.returncode == 0, f"{program}\n{done.stderr}"


@pytest.mark.slow
def test_the_page_on_photos_trains_on_folders_and_its_program_classifies_a_photo(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "docs/FINE_TUNING.md"
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (checkout / "photos" / name).mkdir(parents=True)
        for number, size in enumerate([(400, 300), (300, 400), (320, 320), (500, 375)]):
            colour = (200, 40 * number, 0) if name.endswith("cat") else (0, 40 * number, 200)
            Image.new("RGB", size, colour).save(checkout / "photos" / name / f"{number}.jpg")
    shutil.copy(checkout / "photos" / "val" / "dog" / "0.jpg", checkout / "photo.jpg")
    hub = checkout / "torch" / "hub" / "checkpoints"  # as if the weights had been downloaded before
    hub.mkdir(parents=True)
    torch.save(resnet18().state_dict(), hub / "resnet18-f37072fd.pth")
    monkeypatch.setenv("TORCH_HOME", str(checkout / "torch"))
    (config,) = blocks(page, "yaml")
    (checkout / "photos.yaml").write_text(config)
    shorter = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0"]
    trained = run([sys.executable, "tools/train_net.py", "--config-file", "photos.yaml", *shorter], checkout)
    assert trained.returncode == 0, trained.stderr
    assert f"loaded 100/102 tensors from {hub}/resnet18-f37072fd.pth" in trained.stdout
    assert "INPUT.MEAN [0.485, 0.456, 0.406], INPUT.STD [0.229, 0.224, 0.225]" in trained.stdout
    assert "best so far: val/accuracy" in trained.stdout
    (program,) = blocks(page, "python")
    done = run([sys.executable, "-W", "error", "-c", program], checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in ("cat", "dog")


def test_there_are_python_blocks() -> None:
    assert len(PYTHON) >= 5


def test_the_tree_in_architecture_names_every_folder() -> None:
    code = ("config", "solver", "data", "modeling", "tasks", "engine", "tools")
    for folder in (*code, "tests", "examples", "benchmarks", "docs"):
        assert re.search(rf"^\| `{folder}/` \|", text_of("docs/ARCHITECTURE.md"), re.MULTILINE), folder


def test_the_index_lists_every_page_once() -> None:
    listed = re.findall(r"\]\(([A-Z0-9_]+\.md)(?:#[\w-]+)?\)", text_of("docs/README.md"))
    assert {*listed} == {*DOCS} - {"README.md"}


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    body = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", body, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}"
