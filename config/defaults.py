"""Every config key, its default, meaning, unit and range: this file is the manual.

"Off" is 0 or "", or null where 0 means something. A duration is an integer in iterations (one
iteration = one update of the weights) or a string with a unit: "90ep" passes over the training set,
"5%" of SOLVER.MAX_ITER.
"""

from __future__ import annotations

from .fields import Bool, Duration, Float, Int, OneOf, OrNull, Str
from .lists import Entries, ListOf, Open
from .node import CfgNode

WARMUP_METHODS = ("constant", "linear")


def get_cfg() -> CfgNode:
    """Return a fresh config holding all defaults, to be merged with files and overrides.

    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", "0.1"])
    >>> cfg.SOLVER.BASE_LR
    0.1
    """
    cfg = CfgNode()

    # ---------------------------------------------------------------- model
    cfg.MODEL = CfgNode()
    # What the model does, and so which losses it trains on and how it is scored.
    cfg.MODEL.TASK = OneOf("classification", ("classification",))
    # A model of torchvision (resnet18, mobilenet_v3_small, ...) or a registered one (small_cnn).
    cfg.MODEL.NAME = Str("small_cnn")
    # Arguments of that model, checked against its signature: {norm: group}.
    cfg.MODEL.ARGS = Open(owner="NAME")
    # Outputs of the classifier; 0: as many as the training set has classes.
    cfg.MODEL.NUM_CLASSES = Int(0)
    # Channels of the input images; 0: the training set's.
    cfg.MODEL.IN_CHANNELS = Int(0)
    # First layers: "standard" as published for 224x224 images, "small" keeps the resolution of images
    # up to 32x32; "auto" takes small for training images of up to 32 pixels a side.
    cfg.MODEL.STEM = OneOf("auto", ("auto", "standard", "small"))
    # Weights to start from: a checkpoint or state-dict file. What does not fit is skipped and counted.
    cfg.MODEL.WEIGHTS = Str("")
    # auto (cuda where there is one, else cpu), cuda, cuda:N or cpu.
    cfg.MODEL.DEVICE = Str("auto")

    # ---------------------------------------------------------------- data sets
    cfg.DATASETS = CfgNode()
    # Registered names, imagefolder:PATH or npz:PATH. Several training sets are joined end to end.
    cfg.DATASETS.TRAIN = ListOf(Str("digits_train"), ("digits_train",))
    cfg.DATASETS.TEST = ListOf(Str("digits_test"), ("digits_test",))
    # Folder that holds the data sets that do not ship with the package.
    cfg.DATASETS.ROOT = Str("datasets")
    # Whether torchvision may download a data set that ROOT does not hold.
    cfg.DATASETS.DOWNLOAD = Bool(False)

    # ---------------------------------------------------------------- input
    cfg.INPUT = CfgNode()
    # Transforms of torchvision.transforms.v2, or registered ones, in order; they get and give uint8
    # images (C, H, W). [RandomHorizontalFlip, {RandomCrop: {size: 28, padding: 2}}]
    cfg.INPUT.TRANSFORMS_TRAIN = Entries()
    cfg.INPUT.TRANSFORMS_TEST = Entries()
    # After the transforms a uint8 image becomes float in [0, 1], then (image - MEAN) / STD, one value a
    # channel or one for all; null: the training set's own where it is registered with them, else 0 and 1.
    cfg.INPUT.MEAN = OrNull(ListOf(Float(0.5), ()))
    cfg.INPUT.STD = OrNull(ListOf(Float(0.25, above=0), ()))

    # ---------------------------------------------------------------- loading
    cfg.DATALOADER = CfgNode()
    # worker: torch's DataLoader, for anything on disk. auto: the best one for the data set.
    cfg.DATALOADER.BACKEND = OneOf("auto", ("auto", "worker"))
    # Loading processes; 0 loads in the training process. The samples are the same for any number.
    cfg.DATALOADER.NUM_WORKERS = Int(0)

    # ---------------------------------------------------------------- solver
    cfg.SOLVER = CfgNode()
    # A class of torch.optim by name, or a registered one.
    cfg.SOLVER.OPTIMIZER = Str("SGD")
    # Further arguments of that class, checked against its signature: {betas: [0.9, 0.95]}.
    cfg.SOLVER.OPTIMIZER_ARGS = Open(owner="OPTIMIZER")
    # For optimizers that have them.
    cfg.SOLVER.MOMENTUM = Float(0.9, minimum=0)
    cfg.SOLVER.NESTEROV = Bool(False)

    # Images of one update, over all devices and accumulated steps together.
    cfg.SOLVER.IMS_PER_BATCH = Int(16, minimum=1)
    # The run's length: updates, or "90ep".
    cfg.SOLVER.MAX_ITER = Duration(40000, minimum=1, percent=False)

    # Learning rate after warm-up, before any decay.
    cfg.SOLVER.BASE_LR = Float(0.001, above=0)
    # Rate at MAX_ITER, for schedules that end on a given rate (WarmupCosineLR).
    cfg.SOLVER.BASE_LR_END = Float(0.0, minimum=0)
    # WarmupMultiStepLR, WarmupCosineLR, WarmupStepWithFixedGammaLR, StepLR, or a registered one.
    cfg.SOLVER.LR_SCHEDULER_NAME = Str("WarmupMultiStepLR")
    # Arguments of the schedules named as torch's, checked against torch's signature: {step_size: "30ep"}.
    cfg.SOLVER.LR_SCHEDULER_ARGS = Open(owner="LR_SCHEDULER_NAME")
    # WarmupMultiStepLR multiplies the rate by GAMMA at each of STEPS (increasing).
    cfg.SOLVER.STEPS = ListOf(Duration(30000, minimum=1), ("75%",))
    cfg.SOLVER.GAMMA = Float(0.1, above=0)
    # WarmupStepWithFixedGammaLR: number of drops by GAMMA, evenly spread over the run.
    cfg.SOLVER.NUM_DECAYS = Int(3)

    # Warm-up: the rate starts at WARMUP_FACTOR times its value and is whole from WARMUP_ITERS on; 0 is off.
    cfg.SOLVER.WARMUP_ITERS = Duration("2.5%")
    cfg.SOLVER.WARMUP_FACTOR = Float(0.001, minimum=0, maximum=1)
    # constant: WARMUP_FACTOR throughout. linear (also written gradual): a straight ramp.
    cfg.SOLVER.WARMUP_METHOD = OneOf("linear", (*WARMUP_METHODS, "gradual"))
    # How warm-up meets a Warmup* schedule. product: both factors multiplied. interpolate: a ramp that
    # ends on the schedule's value at WARMUP_ITERS, as detectron2 builds it.
    cfg.SOLVER.WARMUP_BLEND = OneOf("product", ("product", "interpolate"))
    # Fit the whole of a Warmup* schedule into what is left after warm-up, instead of hiding its start.
    cfg.SOLVER.RESCALE_INTERVAL = Bool(False)

    # L2 penalty of weights; of norm layers' parameters; of biases (null: as WEIGHT_DECAY).
    cfg.SOLVER.WEIGHT_DECAY = Float(0.0001, minimum=0)
    cfg.SOLVER.WEIGHT_DECAY_NORM = Float(0.0, minimum=0)
    cfg.SOLVER.WEIGHT_DECAY_BIAS = OrNull(Float(0.0, minimum=0))
    # Rate of biases, as a multiple of BASE_LR.
    cfg.SOLVER.BIAS_LR_FACTOR = Float(1.0, minimum=0)

    # Updates between two checkpoints; 0: only at the end.
    cfg.SOLVER.CHECKPOINT_PERIOD = Duration(5000)

    # ---------------------------------------------------------------- evaluation
    cfg.TEST = CfgNode()
    # Updates between two evaluations; 0: only at the end.
    cfg.TEST.EVAL_PERIOD = Duration(0)
    # Images of one evaluation step.
    cfg.TEST.IMS_PER_BATCH = Int(256, minimum=1)

    # ---------------------------------------------------------------- run
    # Where checkpoints, metrics.json, logs and TensorBoard files go.
    cfg.OUTPUT_DIR = Str("./output")
    # Updates between two records in the console, metrics.json and TensorBoard.
    cfg.LOG_PERIOD = Duration(20, minimum=1)
    # Initial weights, order of samples and augmentation follow from it.
    cfg.SEED = Int(0, maximum=2**63 - 1)
    # Let cuDNN try its algorithms and keep the fastest; faster on fixed image sizes, bits may differ.
    cfg.CUDNN_BENCHMARK = Bool(False)

    return cfg.seal()
