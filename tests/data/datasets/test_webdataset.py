"""Tar archives as data sets: webdataset's samples in its order, by index; unsuitable archives are refused."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import itertools
import os
import re
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.data import DatasetInfo, build_dataset, dataset_info
from warmstart.data.datasets import registry as datasets
from warmstart.data.datasets import shard_urls as shard_paths
from warmstart.data.datasets import webdataset as shards
from warmstart.tools.train_net import main

from ...built import build_test_loader, build_train_loader, describe_loader

COUNTS = (5, 1, 0, 8)  # samples of the shards

Members = list[tuple[str, bytes]]


def picture(number: int, size: tuple[int, int] = (9, 7), kind: str = "png") -> bytes:
    """Return the file of an image, (height, width), of noise that belongs to the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: Members, mode: Any = "w") -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def samples(numbers: range) -> Members:
    """Return members as webdataset writes them: beside image and label something that nobody asks for."""
    found: Members = []
    for number in numbers:
        kind = ("png", "jpeg")[number % 2]
        found += [(f"some/{number:04}.json", b"{}"), (f"some/{number:04}.{kind}", picture(number, kind=kind))]
        found += [(f"some/{number:04}.cls", f"{number % 3}\n".encode())]
    return found


@pytest.fixture(autouse=True)
def fresh() -> None:
    datasets._info_by_looking.cache_clear()


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    """14 samples of 3 classes in 4 archives, one of which is empty."""
    first = 0
    for shard, count in enumerate(COUNTS):
        write_tar(tmp_path / f"x-{shard}.tar", samples(range(first, first + count)))
        first += count
    return f"webdataset:{tmp_path}/x-{{0..3}}.tar"


@pytest.fixture
def one(tmp_path: Path) -> str:
    """The name of a data set of one archive, which takes no package."""
    write_tar(tmp_path / "one.tar", samples(range(6)))
    return f"webdataset:{tmp_path}/one.tar"


@pytest.fixture
def sharded(tmp_path: Path) -> Callable[..., CfgNode]:
    def configure(name: str, *overrides: Any) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_list(
            [
                *("DATASETS.TRAIN", name, "DATASETS.TEST", name, "DATASETS.CACHE", str(tmp_path / "cache")),
                *("SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"),
                *("INPUT.TRANSFORMS_TRAIN", "[{RandomCrop: {size: 6}}, RandomHorizontalFlip]"),
                *("INPUT.TRANSFORMS_TEST", "[{CenterCrop: {size: 6}}]", *overrides),
            ]
        )
        return cfg

    return configure


def built(name: str, tmp_path: Path, download: bool = False) -> Any:
    return build_dataset(name, "nowhere", download, "DATASETS.TRAIN", str(tmp_path / "cache"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the collector
def test_shards_have_the_samples_and_order_of_webdataset(pattern: str, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    theirs = webdataset.WebDataset(pattern.partition(":")[2], shardshuffle=False, empty_check=False)
    theirs = [*theirs.decode("pil").to_tuple("png;jpeg", "cls")]
    ours = [*built(pattern, tmp_path)]
    assert len(ours) == len(theirs) == 14
    for (image, label), (their_image, their_label) in zip(ours, theirs, strict=True):
        assert label == their_label
        assert image.permute(1, 2, 0).numpy().tobytes() == np.asarray(their_image.convert("RGB")).tobytes()


def test_dataset_info_of_shards_comes_from_the_archives(one: str, tmp_path: Path) -> None:
    info = dataset_info(one, "nowhere", cache=str(tmp_path / "cache"))
    values = {"value_mean": (1.0,), "value_std": (0.816496580927726,), "class_counts": (2, 2, 2)}
    assert info == DatasetInfo(size=6, num_classes=3, channels=3, image_size=(9, 7), **values)
    assert built(one, tmp_path).targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert built(one, tmp_path).samples[4] == (f"{tmp_path}/one.tar/some/0004.png", 1)


def test_shards_take_the_image_and_label_endings_after_the_hash_sign(tmp_path: Path) -> None:
    members = [("7.jpg", picture(1)), ("7.seg.png", picture(2)), ("7.cls", b"0"), ("7.fine.cls", b"4")]
    write_tar(tmp_path / "x.tar", [("._7.jpg", b"of a Mac"), ("README", b""), *members])
    chosen = built(f"webdataset:{tmp_path}/x.tar#image=seg.png&label=fine.cls", tmp_path)
    assert chosen[0][1] == 4
    assert chosen.samples[0][0] == f"{tmp_path}/x.tar/7.seg.png"
    assert torch.equal(
        chosen[0][0].permute(1, 2, 0), torch.from_numpy(np.array(Image.open(io.BytesIO(picture(2)))))
    )
    assert built(f"webdataset:{tmp_path}/x.tar", tmp_path).samples[0] == (f"{tmp_path}/x.tar/7.jpg", 0)


def test_shards_with_long_names_and_separated_members_are_read(tmp_path: Path) -> None:
    stem = "a" * 60 + "/" + "b" * 120  # needs a head of its own in the archive
    write_tar(tmp_path / "x.tar", [(f"{stem}.PNG", picture(0)), *samples(range(1, 3)), (f"{stem}.cls", b"2")])
    assert built(f"webdataset:{tmp_path}/x.tar", tmp_path).targets.tolist() == [2, 1, 2]


@pytest.mark.need("C1", "C3")
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_same_batches_from_any_iteration(
    pattern: str, sharded: Callable[..., CfgNode], workers: int
) -> None:
    pytest.importorskip("braceexpand")
    loader = build_train_loader(sharded(pattern))
    straight = [*itertools.islice(loader.batches(), 12)]
    assert sorted(i for t in range(7) for i in loader.sample_indices(t)) == sorted([*range(14)] * 2)
    again = build_train_loader(sharded(pattern, "DATALOADER.NUM_WORKERS", workers))
    for start in (0, 1, 3, 4, 7, 10):  # passes end within batch 3, and with batch 6
        with contextlib.closing(again.batches(start)) as batches:
            for (images, labels), expected in zip(itertools.islice(batches, 2), straight[start:], strict=False):
                assert torch.equal(images, expected.images)
                assert torch.equal(labels, expected.targets)


@pytest.mark.need("C3")
def test_shards_read_only_the_samples_of_a_distant_iteration(
    one: str, sharded: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = build_train_loader(sharded(one))
    read: list[int] = []
    content = shards.ShardedImages._content
    monkeypatch.setattr(
        shards.ShardedImages, "_content", lambda self, index: read.append(index) or content(self, index)
    )
    next(loader.batches(start=10**9))
    assert read == loader.sample_indices(10**9)
    assert len(read) == 4


def test_a_resumed_run_on_shards_ends_with_the_same_weights(one: str, tmp_path: Path) -> None:
    def run(folder: str, *words: str) -> dict[str, torch.Tensor]:
        main(
            [
                *(f"DATASETS.TRAIN={one}", f"DATASETS.TEST={one}", f"DATASETS.CACHE={tmp_path}/cache"),
                *("INPUT.TRANSFORMS_TRAIN=[RandomHorizontalFlip]", "DATALOADER.NUM_WORKERS=0"),
                *("SOLVER.IMS_PER_BATCH=4", "SOLVER.MAX_ITER=7", "SOLVER.CHECKPOINT_PERIOD=3"),
                *("SOLVER.WARMUP_ITERS=2", "MODEL.DEVICE=cpu", f"OUTPUT_DIR={tmp_path}/{folder}", *words),
            ]
        )
        weights: dict[str, torch.Tensor] = torch.load(tmp_path / folder / "model_final.pth")["model"]
        return weights

    whole = run("whole")
    (tmp_path / "part").mkdir()
    (tmp_path / "whole" / "model_0000002.pth").rename(tmp_path / "part" / "model_0000002.pth")
    part = run("part", "--resume")
    assert whole.keys() == part.keys()
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_shards_work_with_samplers_groups_and_other_sets(
    one: str, tmp_path: Path, sharded: Callable[..., CfgNode]
) -> None:
    write_tar(tmp_path / "high.tar", [("1.png", picture(1, (7, 9))), ("1.cls", b"2")])
    cfg = sharded(f"{one},webdataset:{tmp_path}/high.tar", "DATASETS.TEST", one)
    keys = ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler", "DATALOADER.ASPECT_RATIO_GROUPING", "true")
    cfg.merge_from_list([*keys, "SOLVER.IMS_PER_BATCH", 2])
    batches = [build_train_loader(cfg).sample_indices(t) for t in range(60)]
    assert all((6 in batch) == (batch == [6, 6]) for batch in batches)
    assert [6, 6] in batches
    assert (
        describe_loader(cfg) == f"worker, 0 processes (resident: {one} is not a data set of one array; "
        f"webdataset:{tmp_path}/high.tar is not a data set of one array)"
    )


def test_shards_are_read_by_each_decoder(one: str, sharded: Callable[..., CfgNode]) -> None:
    batches = [
        next(iter(build_test_loader(sharded(one, "INPUT.DECODER", each), one))) for each in ("torchvision", "pil")
    ]
    assert torch.equal(batches[0].images, batches[1].images)
    assert batches[0].targets.tolist() == [0, 1, 2, 0, 1, 2]
    grey = next(iter(build_test_loader(sharded(one, "INPUT.FORMAT", "L"), one)))
    assert grey.images.shape == (6, 1, *batches[0].images.shape[2:])


def test_shards_name_a_damaged_image_by_archive_and_member_or_skip_it(
    tmp_path: Path, sharded: Callable[..., CfgNode]
) -> None:
    members = samples(range(6))
    write_tar(tmp_path / "x.tar", [(n, c[:-30] if n == "some/0003.jpeg" else c) for n, c in members])
    name = f"webdataset:{tmp_path}/x.tar"
    with pytest.raises(
        ConfigError, match=rf"^{name}: sample 3 \({tmp_path}/x.tar/some/0003.jpeg\) cannot be read: .*"
    ):
        [*build_test_loader(sharded(name), name)]
    (batch,) = build_test_loader(sharded(name, "DATALOADER.UNREADABLE", "skip"), name)
    assert batch.targets.tolist() == [0, 1, 2, 1, 2]


def test_an_archive_that_shrinks_during_a_run_makes_samples_unreadable(one: str, tmp_path: Path) -> None:
    dataset = built(one, tmp_path)
    with open(tmp_path / "one.tar", "r+b") as file:
        file.truncate(700)
    with pytest.raises(OSError, match="^the archive is shorter than it was when the run began$"):
        dataset[5]
    assert dataset.samples[5] == (f"{tmp_path}/one.tar/?", 2)


def test_an_archive_is_indexed_once_and_again_after_it_changes(
    one: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Path] = []
    index_shard = shards.index_shard

    def spy(path: Path, fields: shards.Fields) -> Any:
        walked.append(path)
        return index_shard(path, fields)

    monkeypatch.setattr(shards, "index_shard", spy)
    first = [(image.sum().item(), label) for image, label in built(one, tmp_path)]
    assert [(image.sum().item(), label) for image, label in built(one, tmp_path)] == first
    assert len(walked) == 1
    built(f"{one}#label=cls", tmp_path)  # says what is the default
    assert len(walked) == 1
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-20])
    assert [label for _, label in built(one, tmp_path)] == [label for _, label in first]
    assert len(walked) == 2
    os.utime(tmp_path / "one.tar", ns=(1, 1))
    built(one, tmp_path)
    assert len(walked) == 3
    write_tar(tmp_path / "one.tar", samples(range(4)))
    assert len(built(one, tmp_path)) == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not an .npz file"),
        ({"samples": np.zeros((3, 2), np.int64)}, r"it holds int64 \(3, 2\), not three integers per sample"),
        ({"samples": np.zeros((3, 3))}, "it holds float64"),
        ({"samples": np.array([[0, 10**6, 0]])}, "it holds positions outside the archive"),
        ({"samples": np.array([[2**62, 2**62, 0]])}, "it holds positions outside the archive"),
        ({"samples": np.array([[0, 10, -1]])}, "it holds positions outside the archive"),
        ({"others": np.zeros(3)}, "array 'samples' is missing"),
    ],
)
def test_a_damaged_cached_index_is_rebuilt_with_one_warning(
    one: str, tmp_path: Path, logged: list[Any], content: Any, reason: str
) -> None:
    labels = [label for _, label in built(one, tmp_path)]
    (kept,) = (tmp_path / "cache").iterdir()
    if isinstance(content, bytes):
        kept.write_bytes(content)
    else:
        np.savez(kept, **content)
    for _ in range(2):
        assert [label for _, label in built(one, tmp_path)] == labels
    (said,) = [line.getMessage() for line in logged if line.levelname == "WARNING"]
    assert re.search(rf"/{kept.name} cannot be used \(.*{reason}.*\); .*/one.tar is indexed again", said)


@pytest.mark.parametrize(
    "pattern",
    [
        *("x.tar", "{0..9}", "{9..-3}", "{00..10..3}", "{10..0..-4}", "{a,b,c}{0..3}", "{}", "{a}", "{a,}", "{,}"),
        *(
            "a{b,{0..4},{c,d}{e,f}}g{1,2}",
            r"\{{0..9}",
            r"{a\,b,c}",
            "{t..e..2}",
            "{a..e}",
            "{0..9..0}",
            "{a,{0..3}x{0..2}}",
            "0{1}2",
        ),
    ],
)
def test_count_names_agrees_with_braceexpand(pattern: str) -> None:
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    assert shard_paths.count_names(pattern) == len(list(braceexpand(pattern)))


@pytest.mark.parametrize(
    ("braces", "count"),
    [
        ("{0..999999999}", "1,000,000,000"),
        ("{0..9999}{0..9999}", "100,000,000"),
        ("{a,{0..999}{0..999}{0..999}}", "1,000,000,001"),
        ("{0..1000000}", "1,000,001"),
        ("{0..9}" * 30, "1" + ",000" * 10),
    ],
)
def test_too_many_shards_are_refused_without_expanding_their_names(
    braces: str, count: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"means {count} shards; the limit is 1,000,000$"):
        built(f"webdataset:x-{braces}.tar", tmp_path)


def test_a_shard_label_that_implies_too_many_classes_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("1.png", picture(1)), ("1.cls", b"2000000000")])
    with pytest.raises(ConfigError, match="sample 0 has label 2000000000, which implies 2000000001 classes"):
        built(f"webdataset:{tmp_path}/x.tar", tmp_path)


def test_a_long_indexing_is_announced_in_one_line(
    one: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setattr(shards, "_LONG", 0)
    built(one, tmp_path)
    (line,) = [record.getMessage() for record in logged]
    assert line == f"Indexing 1 shards, once: about 0 s; cached in {tmp_path}/cache"


WHOLE: Members = [("7.png", picture(7)), ("7.cls", b"1")]


def compressed(path: Path) -> None:
    write_tar(path, WHOLE, "w:gz")


def cut_in_an_image(path: Path) -> None:
    write_tar(path, WHOLE)
    os.truncate(path, 600)


def cut_between_members(path: Path) -> None:
    write_tar(path, [*WHOLE, ("8.png", b"")])
    os.truncate(path, 512 + 512 + 512 + 512)


def damaged_within(path: Path) -> None:
    write_tar(path, WHOLE)
    content = bytearray(path.read_bytes())
    content[1024:1536] = b"x" * 512  # the head of the label
    path.write_bytes(content)


def of(*members: tuple[str, bytes]) -> Callable[[Path], None]:
    return functools.partial(write_tar, members=[*members])


WRONG: list[tuple[Callable[[Path], None], str]] = [
    (compressed, r"x.tar is compressed \(gzip\), so its images cannot be read individually; unpack it"),
    (cut_in_an_image, "x.tar is not a tar archive, or is damaged: unexpected end of data"),
    (cut_between_members, "x.tar is damaged or truncated at byte 2,048"),
    (damaged_within, "x.tar is damaged or truncated at byte 1,024"),
    (lambda path: path.write_bytes(b"no archive" * 99), "x.tar is not a tar archive, or is damaged: .*"),
    (lambda path: path.write_bytes(b""), "x.tar is not a tar archive, or is damaged: empty file"),
    (of(("a/7.png", picture(7))), r"x.tar: sample a/7 has no label \(cls\)"),
    (of(*WHOLE, ("8.cls", b"1")), r"x.tar: sample 8 has no image \(jpg, png, ...\)"),
    (of(*WHOLE, ("7.jpg", b"")), "x.tar: 7.jpg is a second image of its sample; name one by #image="),
    (of(*WHOLE, ("7.cls", b"2")), "x.tar: 7.cls is a second label of its sample; name one by #label="),
    (of(WHOLE[0], ("7.cls", b"cat")), "x.tar: 7.cls: a label is an integer from 0; got b'cat'"),
    (of(WHOLE[0], ("7.cls", b"-1")), "x.tar: 7.cls: a label is an integer from 0; got b'-1'"),
    (of(WHOLE[0], ("7.cls", b"9" * 40)), "x.tar: 7.cls: a label is an integer from 0; got b'9{20}'"),
]


@pytest.mark.parametrize(("write", "message"), WRONG, ids=[message for _, message in WRONG])
def test_an_unsuitable_archive_is_refused_in_one_sentence(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "x.tar")
    name = f"webdataset:{tmp_path}/x.tar"
    with pytest.raises(ConfigError, match=rf"^DATASETS.TRAIN: {name} cannot be read: {tmp_path}/{message}$"):
        built(name, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_an_uncompressed_archive_with_a_compressed_files_name_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("BZh/1.png", picture(1)), ("BZh/1.cls", b"0")])
    assert len(built(f"webdataset:{tmp_path}/x.tar", tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.tar", r"was not found in .*/gone.tar \(no file gone.tar\); correct the path"),
        ("empty.tar", "holds no samples"),
        ("x.tar#img=png", "cannot be read: after # write image=ENDING, label=ENDING, or both .*; got 'img=png'"),
        ("x.tar#png", "cannot be read: after # write image=ENDING, .*; got 'png'"),
        (
            "pipe:touch ran",
            "cannot be read: pipe: runs a command, which a config never does; copy the shards and ",
        ),
    ],
)
def test_a_wrong_shard_name_is_refused_in_one_sentence(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(ConfigError, match=rf"^DATASETS.TRAIN: webdataset:{name} {message}"):
        built(f"webdataset:{name}", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "module"), [("x-{0..3}.tar", "braceexpand"), ("http://host/x.tar", "webdataset")]
)
def test_shards_without_the_package_webdataset_say_what_to_install(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=r"(braces|URLs) need the package webdataset; pip install 'warmstart\[web"
    ):
        built(f"webdataset:{name}", tmp_path)


def test_a_shard_cache_that_cannot_be_written_is_refused_in_one_sentence(one: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"/cache/\w+.npz cannot be written: .*; set DATASETS.CACHE elsewhere$"):
        built(one, tmp_path)


def test_a_shard_pattern_may_be_given_unquoted_on_the_command_line(
    pattern: str, sharded: Callable[..., CfgNode]
) -> None:
    cfg = sharded(f"{pattern},digits_train")
    assert (pattern, "digits_train") == cfg.DATASETS.TRAIN
    again = get_cfg()
    again.merge_from_other_cfg(cfg)
    assert again.DATASETS.TRAIN == cfg.DATASETS.TRAIN


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the folder of archives."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_shards_at_urls_are_copied_once(pattern: str, tmp_path: Path, server: str) -> None:
    pytest.importorskip("webdataset")
    name = f"webdataset:{server}/x-{{0..3}}.tar"
    with pytest.raises(
        ConfigError, match=r"/x-0.tar has not been copied into .*/cache yet; set DATASETS.DOWNLOAD true to"
    ):
        built(name, tmp_path)
    copied = [(image.sum().item(), label) for image, label in built(name, tmp_path, download=True)]
    for file in tmp_path.glob("x-*.tar"):
        file.rename(file.with_suffix(".moved"))
    assert [(image.sum().item(), label) for image, label in built(name, tmp_path)] == copied
    for file in tmp_path.glob("x-*.moved"):
        file.rename(file.with_suffix(".tar"))
    assert [(image.sum().item(), label) for image, label in built(pattern, tmp_path)] == copied


def test_a_shard_missing_at_its_url_leaves_no_file(tmp_path: Path, server: str) -> None:
    pytest.importorskip("webdataset")
    message = r"/gone.tar could not be copied to .*/cache: its opener ended with exit [0-9]+$"
    with pytest.raises(ConfigError, match=message):
        built(f"webdataset:{server}/gone.tar", tmp_path, download=True)
    assert [*(tmp_path / "cache").iterdir()] == []


def test_a_url_scheme_that_webdataset_cannot_open_lists_the_supported_ones(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    with pytest.raises(
        ConfigError, match="webdataset opens no s3 URLs, only http, https, .*gs.*; copy the shards and"
    ):
        built("webdataset:s3://bucket/x.tar", tmp_path, download=True)
