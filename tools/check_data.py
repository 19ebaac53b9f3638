"""Read every sample of a config's data sets, and report what is in them and what would end a run.

python tools/check_data.py --config-file photos.yaml

The report has the classes and their balance, sizes, channels, unreadable files, duplicates, images that are in the
training set and in a test set, and keys to set. Of objects in images it also lists boxes, masks and keypoints that
do not fit, and says how large they are for the model. `--pictures FOLDER` draws samples with their targets. Exit
code 2 if a run would end with an error, else 0.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.tools import interruptible

with interruptible(__name__):
    from warmstart.config import CfgNode, ConfigError, Flag, gathering, printable
    from warmstart.data import (
        Inspection,
        SetReport,
        Suggestion,
        build_inspections,
        check_reports,
        data_spec,
        describe_advice,
        sample_image,
        some_of,
    )
    from warmstart.engine import read_command_line, refuse_ranks, resolve_config, run_tool, setup_logging
    from warmstart.modeling import AnchorSizes, anchor_sizes, build_model
    from warmstart.tasks import Task, build_task, describe_box_sizes, describe_objects, objects_as_dict

FLAGS = (
    Flag("--json", "none", "print the full report as JSON instead of one screen of text"),
    Flag("--pictures", "one", "draw samples of each set with their targets and write them to this folder"),
)
_LISTED = 8  # classes that are listed one by one
_FILES = 3  # files that are listed for each finding
_PICTURES = 16  # samples of each set that are drawn


@dataclass(frozen=True)
class Findings:
    """What was found: a report for each data set, keys to set, the mistakes that would end a run, and anchors."""

    reports: list[SetReport]
    suggestions: list[Suggestion]
    problems: list[str]
    anchors: AnchorSizes | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    refuse_ranks("check_data.py starts its own processes")
    summary = "Read every sample of the data sets that a YAML file names, and report what is in them."
    flags, cfg = read_command_line(argv, FLAGS, summary)
    if not flags["json"]:  # otherwise warnings go to stderr
        setup_logging()
    found = inspect(cfg, flags["pictures"])
    if flags["json"]:
        print(json.dumps(as_dict(found), indent=2))
    else:
        print("\n".join(map(printable, describe(found))))
    if found.problems:
        sys.stdout.flush()
        raise ConfigError(found.problems)
    return 0


def inspect(cfg: CfgNode, pictures: str | None = None) -> Findings:
    """Check a config as a training run does, and read every sample of its data sets.

    A progress bar is shown if stderr is a terminal.

    Args:
        cfg: the config.
        pictures: folder for drawn samples; None: none are drawn.
    """
    problems: list[str] = []
    with gathering(problems):
        cfg = resolve_config(cfg)  # has the transforms that the model's weights expect
    accepted = not problems
    data, task = data_spec(cfg), _task(cfg)
    inspections = build_inspections(data, task, problems)
    reports = []
    from tqdm import tqdm

    total, hidden = sum(len(each.samples) for each in inspections), not sys.stderr.isatty()
    with tqdm(total=total, unit=" images", leave=False, dynamic_ncols=True, disable=hidden) as bar:
        for inspection in inspections:
            with gathering(problems):
                reports.append(inspection.run(bar.update))
    with gathering(problems):
        check_reports(cfg, reports, accepted, task is not None and task.any_size)
    suggestions = describe_advice(cfg, data, reports, task is None or task.normalise)
    has_objects = any(report.objects is not None for report in reports)
    anchors = _anchors(cfg, task) if accepted and has_objects and task is not None else None
    if pictures is not None and task is not None:
        try:
            for inspection in inspections:
                _draw(task, inspection, Path(pictures))
        except OSError as error:
            problems.append(f"command line: --pictures {pictures}: {error.strerror or error}")
    return Findings(reports, suggestions, list(dict.fromkeys(problems)), anchors)


def _anchors(cfg: CfgNode, task: Task) -> AnchorSizes | None:
    """Return the sizes of objects that the model is made for; None if they are not known."""
    try:
        return anchor_sizes(build_model(cfg, weights=False, task=task), cfg.MODEL.IN_CHANNELS)
    except ConfigError:
        return None


def _draw(task: Task, inspection: Inspection, folder: Path) -> None:
    """Write pictures of samples of a set, spread over it, with their targets; the others are in the report."""
    from PIL import Image

    dataset = inspection.samples.dataset
    stem = re.sub(r"[^\w-]+", "_", f"{inspection.key.lower()}_{inspection.name}").strip("_")
    folder.mkdir(parents=True, exist_ok=True)
    count = min(_PICTURES, len(dataset))
    for index in (place * len(dataset) // count for place in range(count)):
        image = sample_image(dataset, index)
        if image is not None:
            try:
                picture = task.draw_target(image, dataset[index][1])
            except ConfigError:
                continue
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{stem}_{index:06}.png")


def _task(cfg: CfgNode) -> Task | None:
    """Return the task; None if it cannot be built, which `resolve_config` reports."""
    try:
        return build_task(cfg)
    except ConfigError:
        return None


def describe(found: Findings) -> list[str]:
    """Return the lines of the text: some for each data set, then the suggestions."""
    trained_on = [report for report in found.reports if report.key == "TRAIN"]
    lines: list[str] = []
    for report in found.reports:
        lines += [f"{report.key} {report.name}: {_count(report.size, 'image')}"]
        lines += [
            f"  {name:<11} {text}"
            for name, text in [*_facts(report), *describe_box_sizes(report.objects, found.anchors)]
        ]
        listed = [
            *_files(report),
            *describe_objects(report.objects),
            *(_leak(report, train) for train in trained_on),
        ]
        for name, text, files in listed:
            if files:
                lines.append(f"  {name:<11} {text}:")
                lines += [" " * 14 + file for file in files[:_FILES]]
                lines += [" " * 14 + f"and {len(files) - _FILES:,} more"] * (len(files) > _FILES)
        lines.append("")
    if found.suggestions:
        lines += ["Keys to set:", *(f"  {keys}  ({reason})" for keys, reason in found.suggestions)]
    return lines if lines[-1:] != [""] else lines[:-1]


def _facts(report: SetReport) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each line about a data set as a collection; what is as it should be has none."""
    if report.classes:
        yield "classes", _classes(report)
    for number in report.numbers[:_LISTED]:
        yield "target", f"{number.name}: {number.least:.4g} to {number.greatest:.4g}, mean {number.mean:.4g}"
    if report.objects is not None:
        crowd = f", {_count(report.objects.crowd, 'crowd region')}" if report.objects.crowd else ""
        without = f"; {_count(report.objects.without, 'image')} without any" if report.objects.without else ""
        yield "objects", f"{sum(report.objects.counts):,}{crowd}{without}"
    if report.empty:
        what = "images" if report.objects is None else "objects"
        yield "empty", f"{_count(len(report.empty), 'class')} without {what}: {some_of(report.empty)}"
    if report.single:
        yield "one image", f"{_count(len(report.single), 'class')} with a single image: {some_of(report.single)}"
    if report.sizes:
        least, median, greatest = ("x".join(map(str, size)) for size in report.sizes)
        text = least if least == greatest else f"{least} to {greatest}, median {median}"
        yield "sizes", f"{text} (height x width)"
        stored = ", ".join(f"{mode} {count:,}" for mode, count in report.stored.items())
        channels = ", ".join(f"{number} ({_count(count, 'image')})" for number, count in report.channels.items())
        channels = str(next(iter(report.channels))) if len(report.channels) == 1 else channels
        yield "channels", channels + (f"; files are {stored}" if stored else "")
    if report.mean:
        mean, std = (", ".join(f"{each:.3f}" for each in values) for values in (report.mean, report.std))
        yield "pixels", f"mean {mean}; std {std}"


def _files(report: SetReport) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (name, text, files) of what is noteworthy about single images; there may be no files."""

    def equal(groups: Sequence[Sequence[str]]) -> list[str]:
        return [
            " = ".join(_short(file, report) for file in group[:_FILES]) + " = ..." * (len(group) > _FILES)
            for group in groups
        ]

    for name, text, troubles in (
        ("unreadable", "missing or damaged", report.unreadable),
        ("targets", "not what the task expects", report.wrong),
        ("transforms", "failing", report.failed),
    ):
        files = [f"{_short(file, report)} ({reason})" for file, reason in troubles]
        yield name, f"{_count(len(files), 'image')} {text}", files
    size = "x".join(map(str, next(iter(report.results), ())[1:])) if report.objects is None else ""
    small = [_short(file, report) for file in report.enlarged if size]
    yield "small", f"{_count(len(small), 'image')} lower or narrower than {size}, enlarged or padded to it", small
    copies = sum(len(group) - 1 for group in report.copies)
    yield "duplicates", f"{_count(copies, 'copy', 'copies')} of other images", equal(report.copies)
    disputed = equal(report.disputed)
    yield "conflicts", f"{_count(len(disputed), 'image')} in several classes", disputed


def _leak(report: SetReport, train: SetReport) -> tuple[str, str, list[str]]:
    """Return name, text and files of the line about images of a test set that are in a training set, too."""
    shared = report.shared_with(train) if report.key == "TEST" else []
    verb = "is" if len(shared) == 1 else "are"
    text = f"{len(shared):,} of {_count(report.size, 'image')} {verb} in {train.name}, too"
    return "leak", text, [f"{_short(ours, report)} = {_short(theirs, train)}" for ours, theirs in shared]


def _short(file: str, report: SetReport) -> str:
    """Return a file relative to the path of its set, if it is below it."""
    return file.removeprefix(report.root.rstrip("/") + "/") if report.root else file


def _classes(report: SetReport) -> str:
    """Return the classes with their counts; of many only the extremes."""
    ordered = sorted(zip(report.counts, report.classes, strict=True))
    if len(ordered) <= _LISTED and report.objects is not None:
        rows = zip(report.classes, report.objects.counts, report.counts, strict=True)
        return ", ".join(f"{name} {objects:,} in {_count(images, 'image')}" for name, objects, images in rows)
    if len(ordered) <= _LISTED:
        return ", ".join(f"{name} {count:,}" for name, count in zip(report.classes, report.counts, strict=True))
    (least, first), (median, _), (most, last) = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    return f"{len(ordered):,}, of {least:,} ({first}) to {most:,} ({last}) images, median {median:,}"


def _count(number: int, what: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> _count(1, "image"), _count(2000, "class"), _count(2, "copy", "copies")
    ('1 image', '2,000 classes', '2 copies')
    """
    many = plural or what + ("es" if what.endswith("s") else "s")
    return f"{number:,} {what if number == 1 else many}"


def as_dict(found: Findings) -> dict[str, Any]:
    """Return everything that was found, with all files, as plain values for JSON."""
    trained_on = [report for report in found.reports if report.key == "TRAIN"]
    return {
        "sets": [_set_as_dict(report, found.anchors) for report in found.reports],
        "leaks": [
            {"test": test.name, "train": train.name, "files": [ours, theirs]}
            for test in found.reports
            for train in trained_on
            if test.key == "TEST"
            for ours, theirs in test.shared_with(train)
        ],
        "suggestions": [suggestion._asdict() for suggestion in found.suggestions],
        "problems": found.problems,
        "anchors": None if found.anchors is None else found.anchors._asdict(),
    }


def _set_as_dict(report: SetReport, anchors: AnchorSizes | None) -> dict[str, Any]:
    return {
        "key": report.key,
        "name": report.name,
        "size": report.size,
        "classes": dict(zip(report.classes, report.counts, strict=True)),
        "empty_classes": list(report.empty),
        "classes_with_one_image": list(report.single),
        "numbers": [number._asdict() for number in report.numbers],
        "sizes": dict(zip(("least", "median", "greatest"), map(list, report.sizes), strict=False)),
        "channels": {str(number): count for number, count in report.channels.items()},
        "stored_as": report.stored,
        "mean": list(report.mean),
        "std": list(report.std),
        "unreadable": [trouble._asdict() for trouble in report.unreadable],
        "wrong_targets": [trouble._asdict() for trouble in report.wrong],
        "failing_transforms": [trouble._asdict() for trouble in report.failed],
        "shapes_after_transforms": [[list(shape), count] for shape, count in report.results.items()],
        "smaller_than_after_transforms": list(report.enlarged),
        "duplicates": [list(group) for group in report.copies],
        "conflicting_classes": [list(group) for group in report.disputed],
        "objects": None if report.objects is None else objects_as_dict(report.objects, report.classes, anchors),
    }


if __name__ == "__main__":
    run_tool(main)
