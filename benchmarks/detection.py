"""What detection costs: a training step, loading, scoring, memory; one JSON line per contender.

    python benchmarks/detection.py step --updates 40 --rounds 5
    python benchmarks/detection.py loader --images 200 --rounds 5
    python benchmarks/detection.py evaluation --images 5000 --rounds 3
    python benchmarks/detection.py memory --images 5000 --workers 2

"step" trains a detector on the data set shapes: "ours" by the Trainer with its records, "by hand" in the manner
of torchvision's reference loop, on the same batches with the same random numbers. `ms_per_step` is the CPU time of
an update, loading included; `same_weights` says whether both end with the same bits.

"loader" makes photos of 640x480 pixels with polygons in a COCO file, and loads them with large-scale jittering,
without workers: "ours", and torchvision's CocoDetection, wrapped for its transforms, in torch's DataLoader.

"evaluation" scores random detections in random objects of 80 classes: "ours" by the evaluator of MODEL.TASK
detection, batch by batch, and "pycocotools" from the same boxes. `share_of_model` is the time of ours over
the time that the model needs to predict.

"memory" loads the photos of "loader" repeatedly: `mb` has the private memory of each process at tenths of the
images.

Contenders take turns, `rounds` times; figures are medians of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from decoding import photo
from torch import nn

from warmstart.config import CfgNode, get_cfg
from warmstart.data import DatasetInfo, Objects, build_train_loader, frame_of
from warmstart.engine import HookBase, Trainer, build_for_ranks, build_trainer, resolve_config, seed_forward
from warmstart.engine.run.prepare_torch import prepare_torch
from warmstart.solver import build_lr_scheduler, build_optimizer
from warmstart.tasks import build_task
from warmstart.tasks.detection import Detection
from warmstart.tasks.object_targets import truth_table

HEIGHT, WIDTH, CLASSES = 480, 640, 80
Seconds = dict[str, list[float]]


def config(output: Path, *words: str) -> CfgNode:
    """Return the resolved config of a run of small_rcnn."""
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "detection", "MODEL.NAME", "small_rcnn", "MODEL.DEVICE", "cpu"])
    for word in ("DATALOADER.NUM_WORKERS=0", "DATASETS.TEST=[]", f"OUTPUT_DIR={output}", *words):
        cfg.merge_from_list([word])
    return resolve_config(cfg)


# ---------------------------------------------------------------- step


class Watch(HookBase):
    """Notes the CPU time at the end of each update."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def after_step(self, trainer: Trainer) -> None:
        """Note the time."""
        self.ticks.append(time.process_time())


def ours(cfg: CfgNode) -> tuple[list[float], nn.Module]:
    """Train with the Trainer; return when each update ended, and the model."""
    watch = Watch()
    trainer = build_trainer(cfg, hooks=[watch])
    trainer.train()
    return watch.ticks, trainer.model


def by_hand(cfg: CfgNode) -> tuple[list[float], nn.Module]:
    """Train as torchvision's reference script does; return when each update ended, and the model."""
    device, task = prepare_torch(cfg), build_task(cfg)
    model, loader = build_for_ranks(cfg, task=task), build_train_loader(cfg, task)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer, 1)
    meters: dict[str, float] = {}
    ticks, batches = [], loader.batches()
    for iteration in range(cfg.SOLVER.MAX_ITER):
        images, targets = next(batches)
        images = [image.to(device) for image in images]
        targets = [{name: each.to(device) for name, each in target.items()} for target in targets]
        seed_forward(loader, iteration, 0, 1, device)
        losses = model(images, targets)
        loss = sum(losses.values(), torch.zeros(()))
        if not np.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        for name, value in losses.items():
            meters[name] = 0.9 * meters.get(name, 0.0) + 0.1 * value.item()
        ticks.append(time.process_time())
    batches.close()
    return ticks, model


def step(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of both loops."""
    data = f"DATASETS.TRAIN={{shapes: {{part: train, number: 512, size: {given.size}}}}}"
    words = [data, f"SOLVER.IMS_PER_BATCH={given.batch}", f"SOLVER.MAX_ITER={given.updates}", "SOLVER.STEPS=[]"]
    contenders = {"ours": ours, "by hand": by_hand}
    seconds: Seconds = {name: [] for name in contenders}
    for number in range(given.rounds):
        cfg, weights = config(folder / f"out{number}", *words, "SOLVER.BASE_LR=0.01"), []
        for name, train in contenders.items():
            ticks, model = train(cfg)
            seconds[name] += np.diff(ticks).tolist()
            weights.append(model.state_dict())
        same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name, each in seconds.items():
        yield {"contender": name, "ms_per_step": 1000 * statistics.median(each), "same_weights": same}


# ---------------------------------------------------------------- loader


def write_photos(folder: Path, count: int, objects: int = 7) -> Path:
    """Write `count` photos with a COCO file, the name of which is returned; polygons of 12 points."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, count + 1):
        photo(HEIGHT, WIDTH, number % 16).save(folder / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH})
        for _ in range(objects):
            size = rng.uniform(16, 200, 2)
            x, y = rng.uniform(0, [WIDTH - size[0], HEIGHT - size[1]])
            angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
            points = np.stack([x + size[0] * (1 + np.cos(angles)) / 2, y + size[1] * (1 + np.sin(angles)) / 2], 1)
            low, high = points.min(0), points.max(0)
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": number, "iscrowd": 0},
                    **{"category_id": int(rng.integers(1, CLASSES + 1)), "area": float(np.prod(high - low))},
                    **{"bbox": [*low, *(high - low)], "segmentation": [points.ravel().tolist()]},
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    path = folder / "photos.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def our_batches(path: Path, given: argparse.Namespace) -> Iterator[Any]:
    """Return the endless batches of our training loader."""
    size = given.size
    jitter = f"[{{ScaleJitter: {{target_size: [{size}, {size}]}}}}, {{FixedSizeCrop: {{size: {size}}}}}"
    words = [f"DATASETS.TRAIN={{coco: {{path: '{path}'}}}}", f"SOLVER.IMS_PER_BATCH={given.batch}"]
    words += [f"INPUT.TRANSFORMS_TRAIN={jitter}, RandomHorizontalFlip]", f"DATASETS.CACHE={path.parent / 'cache'}"]
    words += [f"MODEL.TASK={'instance_segmentation' if given.masks else 'detection'}"]
    words += [f"DATALOADER.NUM_WORKERS={given.workers}", "SOLVER.STEPS=[]"]
    cfg = config(path.parent / "out", *words)
    return build_train_loader(cfg, build_task(cfg)).batches()


def reference_batches(path: Path, given: argparse.Namespace) -> Iterator[Any]:
    """Return the endless batches of torchvision's data set, transforms and collate."""
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    from warmstart.data.transforms.crops import (
        FixedSizeCrop,
    )  # v2 has none; the reference script has a similar one

    transforms = v2.Compose(
        [
            v2.ToImage(),
            v2.ScaleJitter((given.size, given.size), antialias=True),
            FixedSizeCrop(given.size),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = CocoDetection(str(path.parent), str(path), transforms=transforms)
    keys = ["boxes", "labels", "image_id", *(["masks"] if given.masks else [])]
    dataset = wrap_dataset_for_transforms_v2(dataset, target_keys=keys)
    loader = torch.utils.data.DataLoader(
        dataset, given.batch, shuffle=True, drop_last=True, num_workers=given.workers, collate_fn=_as_they_are
    )
    while True:
        yield from loader


def _as_they_are(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def loader(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of both loaders."""
    path = write_photos(folder, given.images)
    contenders = {"ours": our_batches(path, given), "torchvision": reference_batches(path, given)}
    seconds: Seconds = {name: [] for name in contenders}
    for batches in contenders.values():
        next(batches)
    for _ in range(given.rounds):
        for name, batches in contenders.items():
            begin, count = time.process_time(), given.images // given.batch
            for _ in range(count):
                next(batches)
            seconds[name].append((time.process_time() - begin) / (count * given.batch))
    for name, each in seconds.items():
        yield {"contender": name, "ms_per_image": 1000 * statistics.median(each)}


# ---------------------------------------------------------------- evaluation


def random_boxes(rng: np.random.Generator, count: int) -> Any:
    """Return float64 (count, 4), x0, y0, x1, y1."""
    begins = rng.uniform(0, [WIDTH - 40, HEIGHT - 40], (count, 2))
    return np.concatenate([begins, np.minimum(begins + rng.uniform(8, 200, (count, 2)), [WIDTH, HEIGHT])], 1)


def random_results(images: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return a prediction and a target for each image: about 7 objects, each found roughly, and 20 mistakes."""
    rng, found = np.random.default_rng(0), []
    for index in range(images):
        n = int(rng.integers(1, 14))
        boxes, labels, size = random_boxes(rng, n), rng.integers(0, CLASSES, n), (HEIGHT, WIDTH)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        objects = Objects(boxes, labels, size, np.zeros(n, bool), area, np.zeros(n, np.int64))
        guesses = np.concatenate([boxes + rng.normal(0, 4, boxes.shape), random_boxes(rng, 20)])
        classes = np.concatenate([labels, rng.integers(0, CLASSES, 20)])
        prediction = {"boxes": guesses, "labels": classes, "scores": rng.uniform(0, 1, len(guesses))}
        target = {"index": index, "size": size, "frame": frame_of(size)}
        target["truth"] = truth_table(objects, index, has_masks=False, has_keypoints=False)
        tensors = {name: torch.from_numpy(each) for name, each in prediction.items()}
        tensors["boxes"], tensors["scores"] = tensors["boxes"].float(), tensors["scores"].float()
        found.append((tensors, target))
    return found


def our_scores(results: list[Any], batch: int = 8) -> float:
    """Return AP by the evaluator of the task."""
    names = [f"class {number}" for number in range(CLASSES)]
    info = DatasetInfo(1, CLASSES, 3, None, classes=names, annotations=("boxes",))
    evaluator = Detection(info).evaluator()
    for first in range(0, len(results), batch):
        evaluator.update(*zip(*results[first : first + batch], strict=True))
    evaluator.merge([evaluator.state()])
    return float(evaluator.compute()["AP"])


def their_scores(results: list[Any]) -> float:
    """Return AP by pycocotools, from tensors as a reference script has them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(boxes: Any) -> list[list[float]]:
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()  # type: ignore[no-any-return]

    images, objects, entries = [], [], []
    for prediction, target in results:
        image, truth = target["index"], target["truth"]
        images.append({"id": image, "height": HEIGHT, "width": WIDTH})
        for label, box, area in zip(truth.label.tolist(), xywh(truth.boxes), truth.area.tolist(), strict=True):
            objects.append({"id": len(objects) + 1, "image_id": image, "category_id": label, "bbox": box})
            objects[-1] |= {"area": area, "iscrowd": 0}
        columns = prediction["labels"].tolist(), prediction["scores"].tolist()
        for label, score, box in zip(*columns, xywh(prediction["boxes"].double().numpy()), strict=True):
            entries.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": objects,
            "categories": [{"id": k} for k in range(CLASSES)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(entries), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def evaluation(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of both evaluations."""
    results = random_results(given.images)
    contenders: dict[str, Callable[[Any], float]] = {"ours": our_scores, "pycocotools": their_scores}
    seconds: Seconds = {name: [] for name in contenders}
    scores = {}
    for score in contenders.values():
        score(results[:2])  # imports
    for _ in range(given.rounds):
        for name, score in contenders.items():
            begin = time.process_time()
            scores[name] = score(results)
            seconds[name].append(time.process_time() - begin)
    model, images = predictor(folder, given.model), [torch.rand(3, *given.image)] * 2
    with torch.no_grad():
        model(images)
        begin = time.process_time()
        model(images)
    per_image = (time.process_time() - begin) / len(images)
    for name, each in seconds.items():
        middle = statistics.median(each)
        share = {"share_of_model": middle / given.images / per_image} if name == "ours" else {}
        yield {"contender": name, "seconds": middle, "AP": scores[name], **share}


def predictor(folder: Path, name: str) -> nn.Module:
    """Return a detector with random weights, in evaluation mode."""
    words = ["DATASETS.TRAIN={shapes: {part: train, number: 8, size: 96}}", f"MODEL.NAME={name}"]
    cfg = config(folder / "out", *words, "SOLVER.STEPS=[]")
    return build_for_ranks(cfg, task=build_task(cfg)).eval()


# ---------------------------------------------------------------- memory


def memory(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a line for this process and for each worker."""
    batches = our_batches(write_photos(folder, min(given.images, 200)), given)
    found: dict[str, list[float]] = {}
    tenths = max(1, given.images // given.batch // 10)
    for number in range(10 * tenths):
        next(batches)
        if (number + 1) % tenths == 0:
            for place, pid in enumerate([os.getpid(), *children()]):
                found.setdefault(f"worker {place - 1}" if place else "main", []).append(private_mb(pid))
    getattr(batches, "close", lambda: None)()
    for name, each in found.items():
        yield {"contender": name, "mb": [round(value, 1) for value in each]}


def children() -> list[int]:
    """Return the processes that this one has started, in order."""
    words = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return sorted(int(pid) for path in words for pid in path.read_text().split())


def private_mb(pid: int) -> float:
    """Return the memory in MB that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("step", "loader", "evaluation", "memory"))
    for name, default in (("batch", 8), ("images", 200), ("rounds", 5), ("updates", 40), ("workers", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", type=int, help="of images: 96 for step, 1024 for large-scale jittering")
    parser.add_argument("--masks", action="store_true", help="load masks as well")
    parser.add_argument("--model", default="fasterrcnn_mobilenet_v3_large_320_fpn", help="for share_of_model")
    parser.add_argument(
        "--image", type=int, nargs=2, default=(HEIGHT, WIDTH), help="height and width of its images"
    )
    given = parser.parse_args()
    given.size = given.size or (96 if given.part == "step" else 1024)
    torch.set_num_threads(1)
    parts = {"step": step, "loader": loader, "evaluation": evaluation, "memory": memory}
    options = {name: getattr(given, name) for name in ("batch", "images", "rounds", "size", "workers", "masks")}
    versions = {"torch": str(torch.__version__), "torchvision": torchvision.__version__}
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            lines = [*parts[given.part](given, Path(folder))]
        for line in lines:
            print(
                json.dumps(
                    {"part": given.part, **line, **options, **versions, "python": platform.python_version()}
                )
            )


if __name__ == "__main__":
    main()
