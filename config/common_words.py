"""Words by which other programs call what is a key here, and what to type instead."""

from __future__ import annotations

import re

# {} is the value; what follows the bar is the value to show if the user gave none.
_KEYS = {
    "lr, learning-rate, base-lr, lr0": "SOLVER.BASE_LR {}|0.1",
    "epochs, epoch, num-epochs, max-epochs, num-train-epochs, e": "SOLVER.MAX_ITER {}ep|90",
    "iters, iterations, steps, max-steps, num-steps": "SOLVER.MAX_ITER {}|1000",
    "batch-size, batch, bs, b, train-batch-size, per-device-train-batch-size": "SOLVER.IMS_PER_BATCH {}|32",
    "test-batch-size, val-batch-size, eval-batch-size, validation-batch-size": "TEST.IMS_PER_BATCH {}|256",
    "data, data-path, data-dir, dataset, train, train-dir, train-data, root": "DATASETS.TRAIN imagefolder:{}|PATH",
    "val, val-dir, val-data, valid, validation, test-dir": "DATASETS.TEST imagefolder:{}|PATH",
    "model, arch, architecture, a, backbone, net": "MODEL.NAME {}|resnet18",
    "pretrained": "MODEL.WEIGHTS DEFAULT",
    "weights, checkpoint, ckpt, initial-checkpoint, finetune, load": "MODEL.WEIGHTS {}|FILE",
    "workers, num-workers, j": "DATALOADER.NUM_WORKERS {}|4",
    "num-classes, nb-classes, classes": "MODEL.NUM_CLASSES {}|0",
    "device": "MODEL.DEVICE {}|cuda",
    "output, output-dir, out, o, save-dir, log-dir, logdir, project": "OUTPUT_DIR {}|output",
    "seed, random-seed, manual-seed": "SEED {}|1",
    "opt, optim, optimizer": "SOLVER.OPTIMIZER {}|AdamW",
    "momentum": "SOLVER.MOMENTUM {}|0.9",
    "wd, weight-decay": "SOLVER.WEIGHT_DECAY {}|0.05",
    "sched, scheduler, lr-scheduler, lr-schedule": "SOLVER.LR_SCHEDULER_NAME {}|WarmupCosineLR",
    "warmup, warmup-epochs, lr-warmup-epochs": "SOLVER.WARMUP_ITERS {}ep|5",
    "gamma, lr-gamma, decay-rate": "SOLVER.GAMMA {}|0.1",
    "milestones, lr-steps": "SOLVER.STEPS {}|30ep,60ep",
    "img-size, image-size, imgsz, input-size, size, resize, crop-size": (
        "INPUT.TRANSFORMS_TRAIN '[{{RandomResizedCrop: {{size: {}}}}}]'|224"
    ),
    "mean": "INPUT.MEAN {}|0.485,0.456,0.406",
    "std": "INPUT.STD {}|0.229,0.224,0.225",
    "smoothing, label-smoothing": "MODEL.TASK_ARGS.label_smoothing {}|0.1",
    "amp, fp16, half, mixed-precision": "SOLVER.AMP.ENABLED true",
    "ema, model-ema": "SOLVER.EMA.ENABLED true",
    "clip-grad, grad-clip, clip-grad-norm": (
        "SOLVER.CLIP_GRADIENTS.ENABLED true SOLVER.CLIP_GRADIENTS.CLIP_TYPE full_model"
        " SOLVER.CLIP_GRADIENTS.CLIP_VALUE {}|1"
    ),
    "grad-accum-steps, accumulate, gradient-accumulation-steps": "SOLVER.GRAD_ACCUM_STEPS {}|2",
    "drop, dropout, drop-rate": "MODEL.HEAD.dropout {}|0.2",
    "freeze, freeze-backbone, linear-probe": "MODEL.FREEZE '^(?!fc)'",
    "patience": "TEST.EARLY_STOPPING.PATIENCE {}|5",
    "print-freq, log-interval, log-every": "LOG_PERIOD {}|20",
    "compile, torchcompile": "MODEL.COMPILE default",
    "task": "MODEL.TASK {}|classification",
    "eval, evaluate, test, test-only, validate": "--eval-only",
    "config, cfg, c, yaml": "--config-file {}|FILE",
    "gpus, ngpus, nproc": "--num-gpus {}|2",
    "gpu, gpu-id": "MODEL.DEVICE cuda:{}|0",
}
_BY_WORD = {word: answer for words, answer in _KEYS.items() for word in words.split(", ")}


def common_word(word: str, value: str = "") -> str:
    """Return what to type for a word that other programs use; "" if it is not known.

    Args:
        word: a flag or key of another program, in any spelling.
        value: the value that the user gave it; "": none.

    >>> common_word("--lr", "0.01"), common_word("batch_size"), common_word("-zzz")
    ('SOLVER.BASE_LR 0.01', 'SOLVER.IMS_PER_BATCH 32', '')
    >>> common_word("--pretrained"), common_word("--img-size", "128")
    ('MODEL.WEIGHTS DEFAULT', "INPUT.TRANSFORMS_TRAIN '[{RandomResizedCrop: {size: 128}}]'")
    """
    answer, _, example = _BY_WORD.get(_plain(word), "").partition("|")
    return answer.format(value or example) if example else answer


def _plain(word: str) -> str:
    """Return a flag or key in lower case, without dashes before it, and with dashes between its words."""
    return re.sub(r"[_.]", "-", word.lstrip("-")).lower()
