"""The folder `report`: its files, who may write them, and what is left of them after kills and resumes."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from warmstart.config import CfgNode, ConfigError, disk, get_cfg
from warmstart.data import build_dataset
from warmstart.engine import build_process_group, build_trainer, evaluate_only, load_checkpoint, train
from warmstart.engine.records import reports
from warmstart.engine.records.reports import ReportFolder, foreign_report_file, json_text, report_files
from warmstart.engine.runtime.owned import owned
from warmstart.tasks import build_task

from ..dying import killed_after
from ..ranks import Ranks

DRAW = reports.draw_pictures  # the real one: tests/conftest.py replaces it


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "draw_pictures", DRAW)


def config(folder: Path, *more: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 6, "SOLVER.IMS_PER_BATCH", 8, "MODEL.ARGS", "{width: 4}"])
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu", "TEST.EVAL_PERIOD", 2, *more])
    return cfg


def content_of(folder: Path, name: str = "digits_test") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report" / name / "report.json").read_text(encoding="utf-8"))
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in report_files(folder)}


def test_a_run_writes_the_report_of_its_last_evaluation_and_lists_it(tmp_path: Path, drawn: None) -> None:
    train(config(tmp_path))
    found = content_of(tmp_path)
    assert (found["iteration"], found["file"], found["weights"]) == (6, "model_final.pth", "model")
    assert found["samples"] == sum(row["samples"] for row in found["per_class"]) == 360
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert found["scores"] == {name: last[f"digits_test/{name}"] for name in ("accuracy", "top5", "loss")}
    hits = sum(found["confusion"][k][k] for k in range(10))
    assert hits / 360 == pytest.approx(found["scores"]["accuracy"], abs=1e-6)
    names = {path.name for path in (tmp_path / "report" / "digits_test").iterdir()}
    tables = {"per_class.csv", "confusion.csv", "confused.csv", "worst.csv"}
    assert names == tables | {"report.json", "per_class.png", "confusion.png", "worst.png"}
    assert {f"report/digits_test/{name}" for name in names} <= owned(tmp_path)
    with Image.open(tmp_path / "report" / "digits_test" / "worst.png") as picture:
        assert picture.size == (1200, 900)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    for name in ("confusion", "per_class", "worst"):
        (image,) = events.Images(f"report/digits_test/{name}")
        assert image.step == 6
        assert image.encoded_image_string == (tmp_path / "report" / "digits_test" / f"{name}.png").read_bytes()


def test_with_a_best_metric_the_report_is_of_the_best_evaluation(tmp_path: Path) -> None:
    words = ("TEST.BEST.METRIC", "digits_test/loss", "TEST.BEST.MODE", "auto", "SOLVER.BASE_LR", 10.0)
    train(config(tmp_path, *words))
    best = load_checkpoint(tmp_path / "model_best.pth")
    found = content_of(tmp_path)
    assert (found["iteration"], found["file"]) == (best["iteration"], "model_best.pth")
    assert found["scores"]["loss"] == best["hooks"]["BestHook"]["best"]


def test_the_moving_average_has_a_report_of_its_own(tmp_path: Path) -> None:
    train(config(tmp_path, "SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.5))
    assert content_of(tmp_path, "digits_test/ema")["weights"] == "ema"
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert content_of(tmp_path, "digits_test/ema")["scores"]["loss"] == last["digits_test/ema/loss"]
    assert content_of(tmp_path)["scores"]["loss"] == last["digits_test/loss"]


def test_report_false_writes_none(tmp_path: Path) -> None:
    train(config(tmp_path, "TEST.REPORT", False))
    evaluate_only(config(tmp_path, "TEST.REPORT", False), resume="")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("iteration", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 5))])
def test_a_killed_and_resumed_run_has_the_report_of_the_unbroken_one(tmp_path: Path, iteration: int) -> None:
    words = ("TEST.BEST.METRIC", "digits_test/accuracy", "SOLVER.CHECKPOINT_PERIOD", 1)
    train(config(tmp_path / "unbroken", *words))
    killed_after(build_trainer(config(tmp_path / "killed", *words)), iteration)
    train(config(tmp_path / "killed", *words), resume="")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_the_report_of_several_ranks_equals_the_report_of_one_process(tmp_path: Path) -> None:
    train(config(tmp_path / "one", "TEST.IMS_PER_BATCH", 50, "SOLVER.MAX_ITER", 1))
    cfg = config(tmp_path / "two", "TEST.IMS_PER_BATCH", 50)
    weights = str(tmp_path / "one" / "model_final.pth")
    ended = Ranks(tmp_path / "ranks", 2, lambda: evaluate_with(cfg, weights)).end()
    assert [each.code for each in ended] == [0, 0], ended[0].err
    evaluate_with(config(tmp_path / "again", "TEST.IMS_PER_BATCH", 50), weights)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "again")
    trained, evaluated = content_of(tmp_path / "one"), content_of(tmp_path / "two")
    assert trained["worst"] == evaluated["worst"]
    assert trained["confusion"] == evaluated["confusion"]


def evaluate_with(cfg: CfgNode, weights: str) -> None:
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.WEIGHTS", weights])
    with build_process_group(cfg):
        evaluate_only(cfg)


def test_evaluate_only_reports_the_file_and_its_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "draw_pictures", lambda task, content, dataset: {"confusion": b"drawn"})
    train(config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 4))
    evaluate_only(config(tmp_path / "other", "MODEL.WEIGHTS", str(tmp_path / "model_0000003.pth")))
    found = content_of(tmp_path / "other")
    assert (found["iteration"], found["file"]) == (4, str(tmp_path / "model_0000003.pth"))
    assert (tmp_path / "other" / "report" / "digits_test" / "confusion.png").read_bytes() == b"drawn"
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["report", "warmstart.json"]


def test_evaluate_only_writes_no_report_while_a_run_is_writing_the_folder(
    tmp_path: Path, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(tmp_path))
    before = files_of(tmp_path)

    def held(folder: Path) -> None:
        raise ConfigError(f"{folder} is held")

    monkeypatch.setattr("warmstart.engine.checkpoint.run_folder.hold", held)
    evaluate_only(config(tmp_path), resume="")
    assert files_of(tmp_path) == before
    assert logged[-2].getMessage() == f"no report: {tmp_path} is held"


def test_a_new_run_deletes_the_report_that_an_evaluation_left(tmp_path: Path) -> None:
    train(config(tmp_path / "first"))
    evaluate_only(config(tmp_path / "next", "MODEL.WEIGHTS", str(tmp_path / "first")))
    assert content_of(tmp_path / "next")["iteration"] == 6
    train(config(tmp_path / "next", "SOLVER.MAX_ITER", 1, "TEST.BEST.METRIC", "digits_test/accuracy"))
    assert content_of(tmp_path / "next")["iteration"] == 1


def test_a_run_never_ends_with_the_report_of_another_evaluation_as_its_best(tmp_path: Path) -> None:
    best = ("TEST.BEST.METRIC", "digits_test/loss", "SOLVER.BASE_LR", 3)
    cfg = config(tmp_path, *best)
    train(cfg)
    assert content_of(tmp_path)["iteration"] == load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 2
    before = files_of(tmp_path)
    evaluate_with(cfg, str(tmp_path / "model_final.pth"))
    train(config(tmp_path, *best, "SOLVER.MAX_ITER", 8), resume="")
    assert not (tmp_path / "report/digits_test/report.json").exists()
    evaluate_with(cfg, str(tmp_path / "model_best.pth"))
    train(config(tmp_path, *best, "SOLVER.MAX_ITER", 10), resume="")
    assert files_of(tmp_path).keys() == before.keys()


def test_overwrite_takes_the_reports_of_the_earlier_run_away(tmp_path: Path) -> None:
    train(config(tmp_path, "SOLVER.EMA.ENABLED", True))
    train(config(tmp_path, "TEST.REPORT", False), overwrite=True)
    assert report_files(tmp_path) == []
    assert not (tmp_path / "overwritten").exists()


def test_a_file_that_no_run_has_written_is_refused_before_training(tmp_path: Path) -> None:
    mine = tmp_path / "report" / "digits_test" / "worst.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    message = "holds worst.csv, which no run has written, and this run needs a folder of that name; move it away"
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path))
    with pytest.raises(ConfigError, match=message):
        evaluate_only(config(tmp_path, "MODEL.WEIGHTS", "nowhere.pth"))
    assert mine.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    notes = tmp_path / "report" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    train(config(tmp_path))
    assert notes.read_text() == "mine"
    assert (tmp_path / "report" / "digits_test" / "report.json").is_file()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"report is a symbolic link, and this run needs a folder of that name"):
        train(config(tmp_path / "out"))
    inner = ReportFolder(tmp_path / "in", None, {"val": [0]})  # type: ignore[arg-type]
    inner.path.mkdir(parents=True)
    (inner.path / "val").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="it is a symbolic link"):
        inner.write("val", {}, {}, {})
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_is_one_line_and_training_continues(
    tmp_path: Path, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = disk.replace

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".csv":
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(disk, "replace", full)
    assert train(config(tmp_path)) is not None
    lines = [record.getMessage() for record in logged if record.levelno == logging.WARNING]
    assert [line.partition(" could")[2] for line in lines] == [
        " not be written: No space left on device; training continues"
    ]


def test_a_report_of_another_version_is_not_drawn_and_says_why(
    tmp_path: Path, logged: list[logging.LogRecord], drawn: None
) -> None:
    place = tmp_path / "report" / "digits_test"
    place.mkdir(parents=True)
    folder = ReportFolder(tmp_path, build_task(get_cfg()), {"digits_test": build_dataset("digits_test", "")})
    assert folder.draw("digits_test") == []
    (place / "report.json").write_text('{"per_class": 7}')
    assert folder.draw("digits_test") == []
    (place / "report.json").write_text("{")
    assert folder.draw("digits_test") == []
    assert [record.getMessage().partition(" cannot be drawn")[1] for record in logged] == [" cannot be drawn"] * 2


def test_without_matplotlib_tables_are_written_and_one_line_says_so(
    tmp_path: Path, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object) -> dict[str, bytes]:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(reports, "draw_pictures", missing)
    train(config(tmp_path))
    assert (tmp_path / "report" / "digits_test" / "worst.csv").is_file()
    place = tmp_path / "report" / "digits_test"
    assert [record.getMessage() for record in logged if "pip" in record.getMessage()] == [
        f"no pictures in {place}: No module named 'matplotlib'; pip install matplotlib"
    ]


def test_tables_and_pictures_that_a_new_report_lacks_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "draw_pictures", lambda task, content, dataset: {"worst": b"drawn"})
    train(config(tmp_path))
    place = tmp_path / "report" / "digits_test"
    assert {"worst.png", "worst.csv"} <= {path.name for path in place.iterdir()}
    folder = ReportFolder(tmp_path, None, {"digits_test": [0]})  # type: ignore[arg-type]
    folder.write("digits_test", {"iteration": 7}, {"loss": float("nan")}, {})
    assert [path.name for path in place.iterdir()] == ["report.json"]
    assert content_of(tmp_path)["scores"] == {"loss": None}


def test_place_escapes_what_file_systems_do_not_allow() -> None:
    folder = ReportFolder("out", None, {})  # type: ignore[arg-type]
    assert folder.place("..").as_posix() == "out/report/%2E."
    assert folder.place("fleurs d'été/ema").as_posix() == "out/report/fleurs d%27été/ema"
    assert folder.place("%2E.").as_posix() == "out/report/%252E."


def test_json_has_a_line_for_each_row_and_no_nan() -> None:
    content = {"a": [{"x": float("inf")}, {"x": 1.5}], "b": [[1, 2], [3, 4]], "c": "é", "d": []}
    text = json_text(content)
    assert json.loads(text) == {"a": [{"x": None}, {"x": 1.5}], "b": [[1, 2], [3, 4]], "c": "é", "d": []}
    assert len(text.splitlines()) == 10


def test_names_with_commas_and_line_breaks_stay_one_cell(tmp_path: Path) -> None:
    for name in ("a,b", 'c"d'):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            colour = (40 * number, 99, 7)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name / f"{number}, x.png")
    photos = f"imagefolder:{tmp_path / 'photos'}"
    train(config(tmp_path / "out", "DATASETS.TRAIN", [photos], "DATASETS.TEST", [photos]))
    with open(tmp_path / "out" / "report" / "photos" / "confusion.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["true \\ predicted", "a,b", 'c"d']
    with open(tmp_path / "out" / "report" / "photos" / "worst.csv", encoding="utf-8") as file:
        assert {row["file"] for row in csv.DictReader(file)} <= {
            f"{name}/{number}, x.png" for name in ("a,b", 'c"d') for number in range(3)
        }


def test_foreign_report_file_finds_what_is_not_listed(tmp_path: Path) -> None:
    assert foreign_report_file(tmp_path) is None
    train(config(tmp_path))
    assert foreign_report_file(tmp_path) is None
    (tmp_path / "report" / "digits_test" / "mine.csv").write_text("mine")
    assert foreign_report_file(tmp_path) == tmp_path / "report" / "digits_test" / "mine.csv"
