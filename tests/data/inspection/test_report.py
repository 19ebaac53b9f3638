"""Reports: what the facts about the samples of a data set add up to."""

from __future__ import annotations

from warmstart.data.inspection.facts import Facts
from warmstart.data.inspection.report import report_of


def test_report_finds_an_image_in_several_classes() -> None:
    facts = [Facts(number, shape=(1, 2, 2), digest=b"x", mean=(0.0,), square=(0.0,)) for number in range(3)]
    labelled = [each._replace(label=label) for each, label in zip(facts, (0, 0, 1), strict=True)]
    report = report_of(labelled, "TRAIN", "x")
    assert report.copies == report.disputed == (("sample 0", "sample 1", "sample 2"),)
    assert report_of(labelled[:2], "TRAIN", "x").disputed == ()


def test_report_has_no_mean_if_images_differ_in_channels() -> None:
    grey = Facts(0, shape=(1, 2, 2), mean=(0.5,), square=(0.5,))
    colour = Facts(1, shape=(3, 2, 2), mean=(0.5,) * 3, square=(0.5,) * 3)
    report = report_of([grey, colour], "TRAIN", "x")
    assert (report.mean, report.std, report.channels) == ((), (), {1: 1, 3: 1})


def test_report_of_no_readable_image_has_no_sizes() -> None:
    report = report_of([Facts(0, unreadable="gone")], "TRAIN", "x", labels=[1], classes=["a", "b"])
    assert (report.sizes, report.mean, report.counts) == ((), (), (0, 1))
