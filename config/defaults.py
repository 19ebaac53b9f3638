"""Every config key, its default, meaning, unit and range: this file is the manual.

"Off" is 0 or "", or null where 0 means something. A duration is an integer in iterations (one
iteration = one update of the weights) or a string with a unit: "90ep" passes over the training set,
"5%" of SOLVER.MAX_ITER.
"""

from __future__ import annotations

from .compound_fields import Arguments, Entries, ListOf, Open, Records
from .dataset_list import DatasetList
from .fields import Bool, Duration, FilePath, Float, Int, OneOf, OrNull, Str
from .node import CfgNode

WARMUP_METHODS = ("constant", "linear", "cosine", "exponential")


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
    # What the model does, and so which losses it is trained on and how it is scored: classification (one class for
    # each image), multilabel_classification (K classes, each 0 or 1), regression (K numbers), or a task that
    # --import registers. docs/TASKS.md has targets, losses and scores of each.
    cfg.MODEL.TASK = Str("classification")
    # Arguments of that task, checked against its signature.
    # classification: {label_smoothing: 0.1}, the share of each target that goes to all classes alike, at least 0
    # and below 1 (the loss of an evaluation stays plain).
    # multilabel_classification: {loss: bce}, or focal with {gamma: 2.0, alpha: 0.25}; {threshold: 0.5}, the
    # probability above which a class is predicted, for the scores f1 and exact_match.
    # Both: {flip: true}, logits averaged over each image and its mirror image in evaluations, twice the work.
    # regression: {loss: l1}, l2, or huber with {delta: 1.0} in standard deviations; {mean: [4.5], std: [2.9]}, K
    # numbers by which targets are standardised, null: those of the training set, which the run's config then has.
    cfg.MODEL.TASK_ARGS = Open(owner="TASK")
    # A model of torchvision (resnet18, mobilenet_v3_small, ...) or a registered one: small_cnn, speed_net.
    cfg.MODEL.NAME = Str("small_cnn")
    # Arguments of that model, checked against its signature: {norm: group}.
    cfg.MODEL.ARGS = Open(owner="NAME")
    # Outputs of the model; 0: as many as the training set has classes, or a target has numbers. Classes without
    # names are counted from the labels, which run from 0 on.
    cfg.MODEL.NUM_CLASSES = Int(0)
    # Channels of the input images; 0: the training set's.
    cfg.MODEL.IN_CHANNELS = Int(0)
    # First layers: "standard" as published for 224x224 images, "small" keeps the resolution of images
    # up to 32x32; "auto" takes small for training images of up to 32 pixels a side.
    cfg.MODEL.STEM = OneOf("auto", ("auto", "standard", "small"))
    # Weights to start from: a checkpoint, a state dict, a .safetensors file; or the folder of a run, of which
    # model_best.pth is taken, else model_final.pth, else the newest numbered one. What does not fit is skipped and
    # counted.
    cfg.MODEL.WEIGHTS = FilePath("")
    # Which weights of a checkpoint: model, or ema for its moving average. auto: the average of a model_best.pth
    # that was chosen by the average's score, and of a file that holds nothing else; the model of any other.
    cfg.MODEL.WEIGHTS_ENTRY = OneOf("auto", ("auto", "model", "ema"))
    # Whether a file may start a model of which it has no parameter, or less than half of the values without the
    # classifier; else that is an error, as it most often is.
    cfg.MODEL.WEIGHTS_PARTIAL = Bool(False)
    # auto (cuda where there is one, else cpu), cuda, cuda:N or cpu.
    cfg.MODEL.DEVICE = Str("auto")
    # Whether images and the weights of convolutions lie in memory with the channels last, which convolutions in
    # half precision on GPUs are made for. The last bits of results differ.
    cfg.MODEL.CHANNELS_LAST = Bool(False)
    # torch.compile for training, with this mode; "" is off. The first update takes a minute or so, less in later
    # runs, which find what it made in torch's cache. reduce-overhead and max-autotune record CUDA graphs on a GPU.
    # The last bits of results differ, and what dropout draws; evaluation is not compiled.
    cfg.MODEL.COMPILE = OneOf("", ("", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"))
    # Whether BatchNorm takes its statistics over the images of all processes, on GPUs; else each over its own. One
    # process has all of them anyway.
    cfg.MODEL.SYNC_BN = Bool(False)
    # Modules whose activations are computed again in the backward pass instead of kept, by regexes found in their
    # names: ["^layer"]. Less memory, more time, the same bits; evaluation is as it was. [] is off.
    cfg.MODEL.ACTIVATION_CHECKPOINTING = ListOf(Str("^layer"), ())
    # How several processes share a model. ddp: each holds all of it. fsdp: each holds a part of its weights, of
    # their gradients and moments, for models beyond one device; checkpoints are written in parts too. One process
    # holds all of it in any case.
    cfg.MODEL.PARALLEL = OneOf("ddp", ("ddp", "fsdp"))
    cfg.MODEL.FSDP = CfgNode()
    # Classes of modules, such as ["BasicBlock"] or ["EncoderBlock"], each of which is put together from its parts
    # just before it is needed, and taken apart after. What is in none of them is there for all of a step.
    cfg.MODEL.FSDP.WRAP = ListOf(Str("BasicBlock"), ())
    # What forward and backward passes compute in: float32, or bf16; weights, sums of gradients and moments stay
    # float32.
    cfg.MODEL.FSDP.PRECISION = OneOf("float32", ("float32", "bf16"))
    # Whether a module of WRAP is taken apart between its forward and its backward pass too: less memory, more to
    # send.
    cfg.MODEL.FSDP.RESHARD_AFTER_FORWARD = Bool(True)
    # Whether parts lie in the host's memory, and the optimizer computes there.
    cfg.MODEL.FSDP.CPU_OFFLOAD = Bool(False)

    # ---------------------------------------------------------------- data sets
    cfg.DATASETS = CfgNode()
    # Registered names, imagefolder:PATH, npz:PATH, or webdataset:PATTERN for shards, tar archives of images and
    # labels: "webdataset:train-{000..146}.tar". With options of a kind: [{imagefolder: {path: photos/train}}].
    # {ROOT} in a path is DATASETS.ROOT. Several training sets are joined end to end.
    cfg.DATASETS.TRAIN = DatasetList("digits_train")
    # The same; each data set is evaluated by itself, and its scores are recorded as NAME/accuracy, NAME/loss ...
    # NAME is the one given, as in val=imagefolder:photos/val or [{imagefolder: {path: photos/val, name: val}}];
    # else a registered name, or the last part of the path (val), and of as many parts as tell two paths apart
    # (a/val and b/val: a_val and b_val).
    cfg.DATASETS.TEST = DatasetList("digits_test")
    # Folder that holds the data sets that do not ship with the package.
    cfg.DATASETS.ROOT = FilePath("datasets")
    # Whether torchvision may download a data set that ROOT does not hold, and shards at URLs may be copied into
    # CACHE.
    cfg.DATASETS.DOWNLOAD = Bool(False)
    # Folder for what later runs use again: what DATALOADER.BACKEND resident has made of imagefolder:PATH, where
    # the images of shards begin, copies of shards at URLs. What lies there may be deleted whenever no run uses it.
    # "": warmstart in $XDG_CACHE_HOME or ~/.cache.
    cfg.DATASETS.CACHE = FilePath("")

    # ---------------------------------------------------------------- input
    cfg.INPUT = CfgNode()
    # Transforms of torchvision.transforms.v2, or registered ones, in order; they get and give uint8
    # images (C, H, W). [RandomHorizontalFlip, {RandomCrop: {size: 28, padding: 2}}]
    # MixUp and CutMix, which mix whole batches, stand at the end of TRANSFORMS_TRAIN: {MixUp: {alpha: 0.2}}
    cfg.INPUT.TRANSFORMS_TRAIN = Entries()
    cfg.INPUT.TRANSFORMS_TEST = Entries()
    # After the transforms a uint8 image becomes float in [0, 1], then (image - MEAN) / STD, one value a
    # channel or one for all; null: the training set's own where it is registered with them, else 0 and 1.
    cfg.INPUT.MEAN = OrNull(ListOf(Float(0.5), ()))
    cfg.INPUT.STD = OrNull(ListOf(Float(0.25, above=0), ()))
    # What decodes the JPEG files of imagefolder:PATH and of shards; PIL reads all others. torchvision:
    # torchvision.io. pil: the same pixels, more slowly. nvjpeg: the GPU, for the training process; pixels may
    # differ a little.
    cfg.INPUT.DECODER = OneOf("torchvision", ("torchvision", "pil", "nvjpeg"))

    # ---------------------------------------------------------------- loading
    cfg.DATALOADER = CfgNode()
    # worker: torch's DataLoader, for anything on disk. resident: the whole data set on MODEL.DEVICE, its batches
    # cut out and transformed by tensor code, many times faster for small images; for data sets of one array
    # (digits, MNIST and its kin, CIFAR, npz:), for imagefolder:PATH where all images have one size, or get one by
    # the first transforms, and for the transforms that docs/DATA.md lists, RandomCrop, flips and ColorJitter among
    # them. auto: resident where data sets of one array and the transforms allow it and a quarter of the device's
    # memory is enough; the run says which, and why.
    cfg.DATALOADER.BACKEND = OneOf("auto", ("auto", "worker", "resident"))
    # Processes of the worker loader; 0 loads in the training process. null: one for each core that the run may
    # use, at most 8, but 0 for data sets of one array where the model computes on the CPU. The samples are the
    # same for any number. At most 1,024.
    cfg.DATALOADER.NUM_WORKERS = OrNull(Int(0, maximum=1024))
    # An image that is missing or damaged ends the run (raise), or is skipped: in training the next sample that can
    # be read takes its place, in evaluation it is left out. Either says which file it was.
    cfg.DATALOADER.UNREADABLE = OneOf("raise", ("raise", "skip"))
    # The order of training samples. TrainingSampler: all, shuffled anew in each pass.
    # RepeatFactorTrainingSampler: so too, images of rare classes more than once in a pass.
    # WeightedTrainingSampler: each class, or each sample, as often as its weight says. The last two ask the data
    # set for its labels: an attribute `targets` or `labels`. An epoch is the data set's size with all of them.
    cfg.DATALOADER.SAMPLER_TRAIN = OneOf(
        "TrainingSampler", ("TrainingSampler", "RepeatFactorTrainingSampler", "WeightedTrainingSampler")
    )
    # RepeatFactorTrainingSampler: an image of a class that is a share f of all images comes
    # max(1, sqrt(REPEAT_THRESHOLD / f)) times in a pass, on average; with REPEAT_SQRT false without the root.
    cfg.DATALOADER.REPEAT_THRESHOLD = Float(0.0, minimum=0, maximum=1)
    cfg.DATALOADER.REPEAT_SQRT = Bool(True)
    # WeightedTrainingSampler: one number a class, how often it comes beside the others, however many images it
    # has: with [1, 1, 2] half of all images are of class 2. () is each class as often as any other.
    cfg.DATALOADER.CLASS_WEIGHTS = ListOf(Float(1.0, minimum=0), ())
    # WeightedTrainingSampler, in place of CLASS_WEIGHTS: a .npy or text file with one number a sample.
    cfg.DATALOADER.SAMPLE_WEIGHTS = FilePath("")
    # Whether images at least as wide as high and higher ones never share a batch, also in evaluation: for
    # transforms that leave a long side long. Sizes stand in the heads of image files; other data sets need an
    # attribute `sizes`, (height, width) of each image.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = Bool(False)

    # ---------------------------------------------------------------- solver
    cfg.SOLVER = CfgNode()
    # A class of torch.optim by name, or a registered one. Muon trains the matrices inside the model, with AdamW
    # for all else, at rates that suit AdamW; its author uses MOMENTUM 0.95 and NESTEROV true.
    cfg.SOLVER.OPTIMIZER = Str("SGD")
    # Further arguments of that class, checked against its signature: {betas: [0.9, 0.95]}.
    cfg.SOLVER.OPTIMIZER_ARGS = Open(owner="OPTIMIZER")
    # For optimizers that have them.
    cfg.SOLVER.MOMENTUM = Float(0.9, minimum=0)
    cfg.SOLVER.NESTEROV = Bool(False)

    # Images of one update, over all devices and accumulated steps together. More than the training set has is a
    # warning: a batch then holds images more than once.
    cfg.SOLVER.IMS_PER_BATCH = Int(16, minimum=1)
    # Number of processes that the batch size, learning rates and durations are meant for. With n times as many,
    # IMS_PER_BATCH and each learning rate (BASE_LR, BASE_LR_END, LR in PARAM_GROUPS) are multiplied by n, and each
    # duration in iterations (of the run, of schedules, every period) is divided by n. The learning rate curve
    # keeps its shape, n times as high and 1/n as long. Durations with a unit or in epochs need no change.
    # Schedules with absolute learning rates, such as eta_min, or a factor per iteration (ExponentialLR) are
    # refused. Each change is printed. A resumed run keeps its values with any number of processes. 0: nothing is
    # scaled.
    cfg.SOLVER.REFERENCE_WORLD_SIZE = Int(0, maximum=10**6)
    # Micro-batches that one update is computed in, one after the other, for batches that do not fit into
    # memory: each has IMS_PER_BATCH / GRAD_ACCUM_STEPS images, shared by the processes, and so BatchNorm its
    # statistics. 1 is off.
    cfg.SOLVER.GRAD_ACCUM_STEPS = Int(1, minimum=1)
    # The run's length: updates, or "90ep".
    cfg.SOLVER.MAX_ITER = Duration(40000, minimum=1, percent=False)

    # Learning rate after warm-up, before any decay.
    cfg.SOLVER.BASE_LR = Float(0.001, above=0)
    # Rate at MAX_ITER, for schedules that end on a given rate (WarmupCosineLR, WarmupStableDecayLR).
    cfg.SOLVER.BASE_LR_END = Float(0.0, minimum=0)
    # WarmupMultiStepLR, WarmupCosineLR, WarmupStepWithFixedGammaLR, WarmupPolyLR, WarmupStableDecayLR; any
    # scheduler of torch.optim.lr_scheduler by its name; or a registered one. docs/SCHEDULES.md shows them.
    cfg.SOLVER.LR_SCHEDULER_NAME = Str("WarmupMultiStepLR")
    # Arguments of the schedules named as torch's, checked against torch's signature: {step_size: "30ep"}.
    cfg.SOLVER.LR_SCHEDULER_ARGS = Open(owner="LR_SCHEDULER_NAME")
    # SequentialLR: schedules one after the other, each counting from its own start. UNTIL, like every count of
    # torch's names, is counted from the end of warm-up; the last phase needs none.
    cfg.SOLVER.LR_PHASES = Records(
        {"NAME": Str("StepLR"), "ARGS": Arguments(), "UNTIL": Duration("30ep", minimum=1)}, required=["NAME"]
    )
    # ChainedScheduler: schedules whose factors are multiplied.
    cfg.SOLVER.LR_FACTORS = Records({"NAME": Str("StepLR"), "ARGS": Arguments()}, required=["NAME"])
    # epoch: the rate changes only where an epoch begins. torch's names then count epochs, so that step_size 30
    # is 30 epochs; Warmup* names keep iterations. Warm-up itself always moves with each iteration.
    cfg.SOLVER.LR_STEP_UNIT = OneOf("iter", ("iter", "epoch"))
    # What ReduceLROnPlateau watches: a name in metrics.json; "": of the first test set the task's first score that
    # is better when lower (with mode max: when higher), the loss for classification.
    cfg.SOLVER.LR_METRIC = Str("")
    # WarmupMultiStepLR multiplies the rate by GAMMA at each of STEPS (increasing).
    cfg.SOLVER.STEPS = ListOf(Duration(30000, minimum=1), ("75%",))
    cfg.SOLVER.GAMMA = Float(0.1, above=0)
    # WarmupStepWithFixedGammaLR: number of drops by GAMMA, evenly spread over the run.
    cfg.SOLVER.NUM_DECAYS = Int(3)
    # WarmupPolyLR: (1 - t / MAX_ITER) ^ POLY_LR_POWER, but not below POLY_LR_CONSTANT_ENDING times BASE_LR.
    cfg.SOLVER.POLY_LR_POWER = Float(0.9, minimum=0)
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = Float(0.0, minimum=0, maximum=1)
    # WarmupStableDecayLR: the rate stays, then goes down to BASE_LR_END over the last DECAY_ITERS; sqrt is
    # 1 - sqrt(share of them done).
    cfg.SOLVER.DECAY_ITERS = Duration("20%")
    cfg.SOLVER.DECAY_METHOD = OneOf("linear", ("linear", "cosine", "sqrt"))

    # Warm-up: the rate starts at WARMUP_FACTOR times its value and is whole from WARMUP_ITERS on; 0 is off.
    cfg.SOLVER.WARMUP_ITERS = Duration("2.5%")
    cfg.SOLVER.WARMUP_FACTOR = Float(0.001, minimum=0, maximum=1)
    # constant: WARMUP_FACTOR throughout. linear (also written gradual): a straight ramp. cosine: half a wave.
    # exponential: WARMUP_FACTOR ^ (1 - t / WARMUP_ITERS), for a factor above 0.
    cfg.SOLVER.WARMUP_METHOD = OneOf("linear", (*WARMUP_METHODS, "gradual"))
    # How warm-up meets a Warmup* schedule. product: both factors multiplied. interpolate: a ramp that
    # ends on the schedule's value at WARMUP_ITERS, as detectron2 builds it.
    cfg.SOLVER.WARMUP_BLEND = OneOf("product", ("product", "interpolate"))
    # Fit the whole of a Warmup* schedule into what is left after warm-up, instead of hiding its start.
    cfg.SOLVER.RESCALE_INTERVAL = Bool(False)
    # Warm-up also ends, before WARMUP_ITERS, when a name of metrics.json crosses a value; looked at whenever
    # a record is written: {METRIC: train/error, BELOW: 0.8}. "" is off.
    cfg.SOLVER.WARMUP_UNTIL = CfgNode()
    cfg.SOLVER.WARMUP_UNTIL.METRIC = Str("")
    cfg.SOLVER.WARMUP_UNTIL.BELOW = OrNull(Float(0.8))
    cfg.SOLVER.WARMUP_UNTIL.ABOVE = OrNull(Float(0.2))

    # L2 penalty of weights; of norm layers' parameters; of biases (null: as WEIGHT_DECAY).
    cfg.SOLVER.WEIGHT_DECAY = Float(0.0001, minimum=0)
    cfg.SOLVER.WEIGHT_DECAY_NORM = Float(0.0, minimum=0)
    cfg.SOLVER.WEIGHT_DECAY_BIAS = OrNull(Float(0.0, minimum=0))
    # Rate of biases, as a multiple of BASE_LR.
    cfg.SOLVER.BIAS_LR_FACTOR = Float(1.0, minimum=0)
    # Layer-wise decay, for torchvision's ResNet, VisionTransformer, SwinTransformer and ConvNeXt: from the head,
    # which has BASE_LR, to the stem each layer's rate is this times the next one's; a layer is a block. 1 is off.
    cfg.SOLVER.LAYER_DECAY = Float(1.0, above=0, maximum=1)
    # Rates and decays of parameters by their names, on top of all that: [{MATCH: "^fc", LR_FACTOR: 10}]. MATCH is
    # a regex, found anywhere in the full name; the first rule that matches wins, and what it does not name stays.
    # LR is a rate, LR_FACTOR a multiple of the one it would have been; 0 keeps the values and freezes nothing
    # else: gradients, moments and BatchNorm's statistics go on (docs/OPTIMIZERS.md). NAME is MATCH by default, and
    # is recorded as lr/NAME.
    cfg.SOLVER.PARAM_GROUPS = Records(
        {
            "MATCH": Str("^fc"),
            "LR": Float(0.1, minimum=0),
            "LR_FACTOR": Float(10.0, minimum=0),
            "WEIGHT_DECAY": Float(0.0, minimum=0),
            "NAME": Str("head"),
        },
        required=["MATCH"],
    )

    # Layers compute in half precision where that is safe (torch.autocast), in training and evaluation; weights,
    # losses, averages and statistics stay in float32. bf16 needs a device that has it. fp16 has a smaller range:
    # losses are scaled, and an update whose gradients overflow is skipped while iterations, rate and data move on;
    # more than NAN_LIMIT in a row end the run.
    cfg.SOLVER.AMP = CfgNode()
    cfg.SOLVER.AMP.ENABLED = Bool(False)
    cfg.SOLVER.AMP.PRECISION = OneOf("bf16", ("bf16", "fp16"))

    # Clipping of an update's gradients; their norm before it is recorded as grad_norm.
    cfg.SOLVER.CLIP_GRADIENTS = CfgNode()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = Bool(False)
    # value: each number into [-CLIP_VALUE, CLIP_VALUE]. norm: the gradient of each parameter alone, scaled to a
    # norm of at most CLIP_VALUE. full_model: all gradients together, which is what most papers mean.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = OneOf("value", ("value", "norm", "full_model"))
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = Float(1.0, above=0, maximum=3e38)  # float32 ends there
    # The p of the norm: 2 is the Euclidean length.
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = Float(2.0, above=0)

    # A second model whose weights and buffers are a moving average of the trained one's. It is evaluated
    # beside it, recorded as digits_test/ema/accuracy, and saved under "ema" in checkpoints.
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = Bool(False)
    # The average becomes DECAY * average + (1 - DECAY) * model, and so covers about the last 1 / (1 - DECAY)
    # averagings; at least 0 and below 1. The first averaging copies the model.
    cfg.SOLVER.EMA.DECAY = Float(0.999, minimum=0, below=1)
    # Updates between two averagings.
    cfg.SOLVER.EMA.PERIOD = Duration(1, minimum=1)

    # What a loss that is infinite or NaN does. raise: ends the run, when the losses are next read: at a record, an
    # evaluation or a checkpoint. skip: its update is left out, as it is where clipping finds that the gradients'
    # norm is not finite; iterations, rate and data move on. Each step then waits for the device.
    cfg.SOLVER.NAN_POLICY = OneOf("raise", ("raise", "skip"))
    # skip, or fp16's overflows: updates in a row that may be left out; one more ends the run.
    cfg.SOLVER.NAN_LIMIT = Int(10, minimum=1)

    # Updates between two checkpoints; 0: only at the end.
    cfg.SOLVER.CHECKPOINT_PERIOD = Duration(5000)
    # Numbered checkpoints that stay, the newest; 0: all. model_best.pth and model_final.pth always stay, and so
    # does every file that this run did not write.
    cfg.SOLVER.CHECKPOINT_KEEP = Int(0)

    # ---------------------------------------------------------------- evaluation
    cfg.TEST = CfgNode()
    # Updates between two evaluations; 0: only at the end.
    cfg.TEST.EVAL_PERIOD = Duration(0)
    # Images of one evaluation step.
    cfg.TEST.IMS_PER_BATCH = Int(256, minimum=1)
    # The checkpoint of the best evaluation so far is kept as model_best.pth. METRIC is a score by its name in
    # metrics.json: digits_test/accuracy, digits_test/ema/loss; "" is off. MODE: whether a higher (max) or a lower
    # (min) one is better; auto: as the task's score says, and max for a score of a hook of your own. The first
    # evaluation counts, an equal score is no better, and one that is not finite never is.
    cfg.TEST.BEST = CfgNode()
    cfg.TEST.BEST.METRIC = Str("")
    cfg.TEST.BEST.MODE = OneOf("auto", ("auto", "max", "min"))
    # The run ends, with one more update, after PATIENCE evaluations in a row (0 is off) in which TEST.BEST.METRIC
    # was not better than ever before by more than MIN_DELTA, in its own unit: 0.001 is 0.1 % of accuracy.
    cfg.TEST.EARLY_STOPPING = CfgNode()
    cfg.TEST.EARLY_STOPPING.PATIENCE = Int(0)
    cfg.TEST.EARLY_STOPPING.MIN_DELTA = Float(0.0, minimum=0)
    # Before each evaluation, BatchNorm's running statistics are replaced by those of the present weights,
    # over NUM_ITER training batches; training itself is not changed by it.
    cfg.TEST.PRECISE_BN = CfgNode()
    cfg.TEST.PRECISE_BN.ENABLED = Bool(False)
    cfg.TEST.PRECISE_BN.NUM_ITER = Duration(200, minimum=1)

    # ---------------------------------------------------------------- several processes
    # --num-gpus N starts N of them on a machine; docs/DISTRIBUTED.md says how else they come. Each computes its
    # part of every batch, on a GPU of its own or on some of the cores.
    cfg.DISTRIBUTED = CfgNode()
    # Seconds that a process or a machine waits for another one before it ends with an error, from 1 to a year; an
    # evaluation or a save keeps the others waiting as long as it lasts.
    cfg.DISTRIBUTED.TIMEOUT = Int(1800, minimum=1, maximum=365 * 24 * 3600)
    # Seconds that --num-gpus leaves the processes to save and end after a signal, before it kills them.
    cfg.DISTRIBUTED.GRACE = Int(300, minimum=1, maximum=10**9)
    # How often --num-gpus starts all processes anew after one has failed; they resume from the newest checkpoint.
    # After exit codes 2, 3 and 4 it does not: they would come again.
    cfg.DISTRIBUTED.MAX_RESTARTS = Int(0)
    # The numbers that gradients are sent and averaged in: as they are (float32), or bf16, which is half as much to
    # send, and rounds.
    cfg.DISTRIBUTED.GRADIENTS = OneOf("float32", ("float32", "bf16"))
    # Whether parameters may get no gradient in an update, as those of a branch that is not always taken; else that
    # is an error on several processes. Each update then takes a little longer: they are looked for.
    cfg.DISTRIBUTED.UNUSED_PARAMETERS = Bool(False)
    # Whether the same parameters get a gradient in each update: it saves a little time, and lets the others get
    # none at all, as UNUSED_PARAMETERS does. Not with accumulation.
    cfg.DISTRIBUTED.STATIC_GRAPH = Bool(False)

    # ---------------------------------------------------------------- run
    # Where checkpoints, metrics.json, logs and TensorBoard files go.
    cfg.OUTPUT_DIR = FilePath("./output")
    # Updates between two records in the console, metrics.json and TensorBoard.
    cfg.LOG_PERIOD = Duration(20, minimum=1)
    # Whether records hold the peak memory so far, in MiB: memory/host_mb and, on CUDA, memory/allocated_mb
    # (by tensors) and memory/reserved_mb (by torch).
    cfg.MEMORY_STATS = Bool(False)
    # A trace of ITERS iterations, those after the first START updates, into OUTPUT_DIR/profile, for TensorBoard
    # or chrome://tracing; ITERS 0 is off. Of several processes it is rank 0's.
    cfg.PROFILER = CfgNode()
    cfg.PROFILER.START = Duration(0)
    cfg.PROFILER.ITERS = Duration(0)
    # Initial weights, order of samples and augmentation follow from it.
    cfg.SEED = Int(0, maximum=2**63 - 1)
    # auto: what is safe and fast on the device, as the log says: TF32 on a GPU that has it, and CUDNN_BENCHMARK;
    # on a CPU nothing that changes a bit. exact: deterministic kernels only and no TF32, so that a run on a GPU
    # repeats to the last bit; slower, and an operation that has no such kernel is an error. A CPU repeats also
    # with auto.
    cfg.PROFILE = OneOf("auto", ("auto", "exact"))
    # Let cuDNN try its algorithms and keep the fastest; faster on fixed image sizes, bits may differ. null: with
    # PROFILE auto where images have one size (ASPECT_RATIO_GROUPING is off).
    cfg.CUDNN_BENCHMARK = OrNull(Bool(True))

    return cfg.seal()
