"""Every config key with its default, meaning, unit and range: the manual.

"Off" is 0 or "", or null if 0 has a meaning of its own. A duration is a number of iterations (one iteration = one
optimizer update) or a string with a unit: "90ep" is 90 epochs, "5%" is a share of SOLVER.MAX_ITER.
"""

from __future__ import annotations

from .compound_fields import Arguments, Entries, ListOf, Open, Records
from .dataset_list import DatasetList
from .fields import Bool, Duration, FilePath, Float, Int, OneOf, OrNull, Str
from .node import CfgNode

WARMUP_METHODS = ("constant", "linear", "cosine", "exponential")


def get_cfg() -> CfgNode:
    """Return a new config with all defaults, to be merged with files and overrides.

    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", "0.1"])
    >>> cfg.SOLVER.BASE_LR
    0.1
    """
    cfg = CfgNode()

    # ---------------------------------------------------------------- model
    cfg.MODEL = CfgNode()
    # The task, which decides the losses and the scores: classification (one class per image),
    # multilabel_classification (K classes, each 0 or 1), regression (K numbers), or a user-defined task that
    # --import registers. docs/TASKS.md describes the targets, losses and scores of each task.
    cfg.MODEL.TASK = Str("classification")
    # Arguments of the task, checked against its signature.
    # classification: {label_smoothing: 0.1}, the share of each target that is spread over all classes, at least 0
    # and below 1; {loss: cross_entropy}, bce, or focal with {gamma: 2.0, alpha: 0.25}; {class_weights: balanced},
    # or a list of one number for each class. The evaluation loss is the cross-entropy without all of this.
    # multilabel_classification: {loss: bce}, or focal with {gamma: 2.0, alpha: 0.25}; {threshold: 0.5}, the
    # probability above which a class is predicted, for the scores f1 and exact_match.
    # Both: {flip: true} averages the logits of each image and its mirror image in evaluation, at twice the cost.
    # regression: {loss: l1}, l2, or huber with {delta: 1.0} in standard deviations; {mean: [4.5], std: [2.9]}, K
    # numbers each, which standardise the targets; null: computed from the training set and stored in the run's
    # config.
    cfg.MODEL.TASK_ARGS = Open(owner="TASK")
    # A torchvision model (resnet18, mobilenet_v3_small, ...); a model of timm, with its tag or without
    # (timm:resnet50, timm:resnet50.a1_in1k), if the extra timm is installed; or a registered one: small_cnn,
    # speed_net, small_rcnn.
    cfg.MODEL.NAME = Str("small_cnn")
    # Arguments of the model, checked against its signature: {norm: group}.
    cfg.MODEL.ARGS = Open(owner="NAME")
    # Changes to the model's classifier: {dropout: 0.2}.
    cfg.MODEL.HEAD = CfgNode()
    # Probability with which, in training, each input value of the classifier's last layer is set to 0. It replaces
    # the probability of a dropout layer that the model has directly in front of that layer. null: the model's own.
    cfg.MODEL.HEAD.dropout = OrNull(Float(0.2, minimum=0, below=1))
    # Number of model outputs; 0: the number of classes in the training set, or of numbers in a regression target.
    # Without class names the classes are counted from the labels, which start at 0.
    cfg.MODEL.NUM_CLASSES = Int(0)
    # Number of input channels; 0: as in the training set.
    cfg.MODEL.IN_CHANNELS = Int(0)
    # First layers of the model. standard: as published for 224x224 images. small: keeps the resolution, for images
    # up to 32x32. auto: small if training images have at most 32 pixels a side, else standard.
    cfg.MODEL.STEM = OneOf("auto", ("auto", "standard", "small"))
    # Initial weights. Parameters that do not match are skipped and counted in the log. One of:
    # - a file: a checkpoint, a state dict or a .safetensors file;
    # - the folder of a run: its model_best.pth, else model_final.pth, else the newest numbered checkpoint;
    # - published weights by their name in torchvision: IMAGENET1K_V1, IMAGENET1K_V2, or DEFAULT for the best ones;
    #   for a detector COCO_V1; for a model of timm DEFAULT. Those of classification models determine the defaults
    #   of INPUT.MEAN and INPUT.STD;
    # - backbone:WEIGHTS, for the backbone of a detector of torchvision: any of the others, for the classifier that
    #   the backbone is, such as backbone:IMAGENET1K_V1;
    # - hf:OWNER/REPO/FILE on Hugging Face's hub, with a revision hf:OWNER/REPO@REVISION/FILE;
    # - an https:// URL of a file.
    # Published weights and the last two are downloaded once, when a run needs them, into the folder checkpoints of
    # torch's hub folder ($TORCH_HOME/hub). A file with the name of published weights is written ./DEFAULT. "":
    # random weights.
    cfg.MODEL.WEIGHTS = FilePath("")
    # Which weights of a checkpoint to load: model, or ema for the moving average. auto: ema for a model_best.pth,
    # or a copy of it, that was selected by a score of the average, and for a file that contains nothing else;
    # otherwise model. The log says which.
    cfg.MODEL.WEIGHTS_ENTRY = OneOf("auto", ("auto", "model", "ema"))
    # Whether to accept a file of which no parameter matches the model, or which covers less than half of the
    # model's values (the classifier not counted). By default this is an error, because it is most often a mistake.
    cfg.MODEL.WEIGHTS_PARTIAL = Bool(False)
    # Parameters that are frozen: a list of regexes, each searched for in the full parameter name as in
    # SOLVER.PARAM_GROUPS, such as ["^(?!fc)"] for all but the head of a ResNet. {MATCH: "^layer4", UNTIL: "5ep"}
    # freezes them for the first updates only; of several entries that match, the first one applies. Frozen
    # parameters get no gradient, optimizer state or weight decay. A module that has parameters, all of them
    # frozen, is in evaluation mode with everything below it: BatchNorm keeps its statistics. [] is off.
    cfg.MODEL.FREEZE = Records(
        {"MATCH": Str("^layer4"), "UNTIL": Duration("5ep", minimum=1)}, required=["MATCH"], text_key="MATCH"
    )
    # The backbone of a detector: one of torchvision, or small_rcnn.
    cfg.MODEL.BACKBONE = CfgNode()
    # Number of its stages that are frozen, from the images on: 1 is the stem, 2 the first stage as well, ... They
    # get no gradient, and their BatchNorm keeps its statistics. 0: none. null: if MODEL.WEIGHTS is set, as
    # torchvision fine-tunes the detector (ResNet-50 2, MobileNet V3 with a pyramid 3, VGG 1, SSDLite 0), else 0.
    cfg.MODEL.BACKBONE.FREEZE_AT = OrNull(Int(2))
    # Norm of its layers. FrozenBN: BatchNorm with the statistics and parameters of MODEL.WEIGHTS, which do not
    # change; for the few images per GPU that detectors are trained with. BN: BatchNorm. null: if MODEL.WEIGHTS is
    # set, as torchvision fine-tunes the detector (FrozenBN, but BN in models named _v2 and in SSDLite), else BN.
    cfg.MODEL.BACKBONE.NORM = OrNull(OneOf("FrozenBN", ("FrozenBN", "BN")))
    # auto (the accelerator that torch finds, else cpu), cpu, cuda or cuda:N. mps, xpu, xpu:N and other
    # accelerators of torch work through its generic interface; they have not been tested.
    cfg.MODEL.DEVICE = Str("auto")
    # Whether images and convolution weights use the channels_last memory format, for which half-precision
    # convolutions on GPUs are optimized. Results differ in the last bits.
    cfg.MODEL.CHANNELS_LAST = Bool(False)
    # Mode of torch.compile for training; "" is off. The first update takes about a minute, less in later runs,
    # which use torch's compile cache. reduce-overhead and max-autotune record CUDA graphs on a GPU. Results differ
    # in the last bits, and so do dropout's random numbers; evaluation is not compiled.
    cfg.MODEL.COMPILE = OneOf("", ("", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"))
    # Whether BatchNorm computes its statistics over the images of all processes, on GPUs; otherwise each process
    # uses its own images. No effect with one process.
    cfg.MODEL.SYNC_BN = Bool(False)
    # Modules whose activations are recomputed in the backward pass instead of stored: a list of regexes, each
    # searched for in the module's name, such as ["^layer"]. Less memory, more time, identical bits; evaluation
    # does not change. [] is off.
    cfg.MODEL.ACTIVATION_CHECKPOINTING = ListOf(Str("^layer"), ())
    # How several processes train one model. ddp: each process holds a full replica. fsdp: weights, gradients and
    # optimizer state are sharded over the processes, for models that do not fit on one device; checkpoints are
    # sharded too. One process always holds the full model.
    cfg.MODEL.PARALLEL = OneOf("ddp", ("ddp", "fsdp"))
    cfg.MODEL.FSDP = CfgNode()
    # Classes of modules to shard separately, such as ["BasicBlock"] or ["EncoderBlock"]: each module is
    # all-gathered just before it is used and resharded afterwards. Parameters outside these modules stay gathered
    # for a full step.
    cfg.MODEL.FSDP.WRAP = ListOf(Str("BasicBlock"), ())
    # Precision of the forward and backward passes: float32 or bf16. Weights, gradient reduction and optimizer
    # state stay in float32.
    cfg.MODEL.FSDP.PRECISION = OneOf("float32", ("float32", "bf16"))
    # Whether a module in WRAP is also resharded between its forward and backward passes: less memory, more
    # communication.
    cfg.MODEL.FSDP.RESHARD_AFTER_FORWARD = Bool(True)
    # Whether shards are kept in host memory and the optimizer runs there.
    cfg.MODEL.FSDP.CPU_OFFLOAD = Bool(False)

    # ---------------------------------------------------------------- data sets
    cfg.DATASETS = CfgNode()
    # Training sets: registered names, imagefolder:PATH, npz:PATH, or webdataset:PATTERN for shards (tar archives
    # of images and labels), such as "webdataset:train-{000..146}.tar". A data set with options is a mapping:
    # [{csv: {path: labels.csv, images: photos, file: COLUMN, label: COLUMN}}]. With holdout a share of the samples
    # is held out for testing, chosen by a hash of their names: [{imagefolder: {path: photos, holdout: 0.2, part:
    # train}}] here, and part: test below. {ROOT} in a path is replaced by DATASETS.ROOT. Several training sets are
    # concatenated.
    cfg.DATASETS.TRAIN = DatasetList("digits_train")
    # Test sets, written in the same way. Each one is evaluated separately, and its scores are recorded as
    # NAME/accuracy, NAME/loss ... NAME is the given name, as in val=imagefolder:photos/val or
    # [{imagefolder: {path: photos/val, name: val}}]; else the registered name, or the last component of the path
    # (val), preceded by as many components as it takes to tell two paths apart (a/val and b/val: a_val and b_val).
    cfg.DATASETS.TEST = DatasetList("digits_test")
    # Folder of the data sets that do not ship with the package.
    cfg.DATASETS.ROOT = FilePath("datasets")
    # Whether torchvision may download a data set that is not in ROOT, and shards at URLs may be copied to CACHE.
    cfg.DATASETS.DOWNLOAD = Bool(False)
    # Folder for files that later runs reuse: decoded images of imagefolder:PATH (DATALOADER.BACKEND resident), the
    # image offsets of shards, copies of shards from URLs. Its content may be deleted while no run uses it. "": the
    # folder warmstart in $XDG_CACHE_HOME or ~/.cache.
    cfg.DATASETS.CACHE = FilePath("")

    # ---------------------------------------------------------------- input
    cfg.INPUT = CfgNode()
    # Transforms of torchvision.transforms.v2 or registered ones, applied in order; each takes and returns uint8
    # images (C, H, W). [RandomHorizontalFlip, {RandomCrop: {size: 28, padding: 2}}]
    # Not set: none; but for a model of timm the size, crop and interpolation of its data config, as
    # RandomResizedCrop in training and as Resize and CenterCrop in tests. [] is none for these models too.
    # MixUp and CutMix mix the images of a batch and come last in TRANSFORMS_TRAIN: {MixUp: {alpha: 0.2}}. Their
    # arguments p, the probability that a batch is mixed (1.0), and until, the iteration from which none is, as in
    # {CutMix: {p: 0.5, until: "80%"}}, are ours.
    cfg.INPUT.TRANSFORMS_TRAIN = Entries()
    cfg.INPUT.TRANSFORMS_TEST = Entries()
    # Normalization after the transforms: a uint8 image is converted to float in [0, 1], then to (image - MEAN) /
    # STD. One value per channel, or one for all; null: the values of the run whose checkpoint MODEL.WEIGHTS names;
    # else, for images of three channels, the values of published weights (MODEL.WEIGHTS IMAGENET1K_V1, ...) and of
    # timm's models; else the values that the training set is registered with, else 0 and 1.
    cfg.INPUT.MEAN = OrNull(ListOf(Float(0.5), ()))
    cfg.INPUT.STD = OrNull(ListOf(Float(0.25, above=0), ()))
    # Channels of images from files (imagefolder, csv, webdataset): RGB, in which grey images become three equal
    # channels, or L, in which coloured ones become grey, one channel.
    cfg.INPUT.FORMAT = OneOf("RGB", ("RGB", "L"))
    # JPEG decoder of images from files; PIL reads all other formats. torchvision: torchvision's operator. pil:
    # the same pixels, slower. nvjpeg: decodes on the GPU, in the training process; pixels may differ slightly.
    cfg.INPUT.DECODER = OneOf("torchvision", ("torchvision", "pil", "nvjpeg"))

    # ---------------------------------------------------------------- loading
    cfg.DATALOADER = CfgNode()
    # worker: torch's DataLoader, for any data set. resident: the full data set in the memory of MODEL.DEVICE, with
    # batches indexed and transformed as tensors, many times faster for small images; for data sets of one array
    # (digits, MNIST and its variants, CIFAR, npz:), for imagefolder:PATH if all images have the same size or the
    # first transforms give them one, and for the transforms listed in docs/DATA.md, such as RandomCrop, flips and
    # ColorJitter. auto: resident if the data sets are arrays, the transforms allow it and a quarter of the
    # device's memory is enough; the log names the backend and the reason.
    cfg.DATALOADER.BACKEND = OneOf("auto", ("auto", "worker", "resident"))
    # Number of processes of the worker loader, up to 1,024; 0 loads in the training process. null: one per
    # available core, at most 8, but 0 for data sets of one array if the model runs on the CPU. The samples do not
    # depend on it.
    cfg.DATALOADER.NUM_WORKERS = OrNull(Int(0, maximum=1024))
    # What to do if an image is missing or damaged. raise: the run ends. skip: in training the next readable sample
    # takes its place, in evaluation it is left out. Both name the file.
    cfg.DATALOADER.UNREADABLE = OneOf("raise", ("raise", "skip"))
    # Order of the training samples. TrainingSampler: all samples, reshuffled in each epoch.
    # RepeatFactorTrainingSampler: the same, with images of rare classes repeated within an epoch.
    # WeightedTrainingSampler: each class, or each sample, is drawn in proportion to its weight. The last two need
    # the labels of the data set: an attribute `targets` or `labels`. An epoch always has the size of the data set.
    cfg.DATALOADER.SAMPLER_TRAIN = OneOf(
        "TrainingSampler", ("TrainingSampler", "RepeatFactorTrainingSampler", "WeightedTrainingSampler")
    )
    # RepeatFactorTrainingSampler: an image of a class with frequency f (share of all images) appears
    # max(1, sqrt(REPEAT_THRESHOLD / f)) times in a pass on average; REPEAT_SQRT false omits the square root.
    cfg.DATALOADER.REPEAT_THRESHOLD = Float(0.0, minimum=0, maximum=1)
    cfg.DATALOADER.REPEAT_SQRT = Bool(True)
    # WeightedTrainingSampler: one weight per class, for the class as a group, however many images it has: with
    # [1, 1, 2] half of the drawn images are of class 2. (): all classes are equally frequent.
    cfg.DATALOADER.CLASS_WEIGHTS = ListOf(Float(1.0, minimum=0), ())
    # WeightedTrainingSampler, instead of CLASS_WEIGHTS: a .npy or text file with one weight per sample.
    cfg.DATALOADER.SAMPLE_WEIGHTS = FilePath("")
    # Whether batches contain either only landscape (or square) or only portrait images, in evaluation too: for
    # transforms that keep the aspect ratio. Sizes are read from the headers of image files; other data sets need
    # an attribute `sizes` with the (height, width) of each image.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = Bool(False)
    # Whether images without objects are left out of training; crowd regions do not count as objects. They teach a
    # detector what is background, so they are kept by default (detectron2: true). An epoch always has the size of
    # the data set.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = Bool(False)

    # ---------------------------------------------------------------- solver
    cfg.SOLVER = CfgNode()
    # A class of torch.optim or a registered optimizer. Muon trains the weight matrices of hidden layers, and AdamW
    # trains all other parameters, at learning rates that suit AdamW; Muon's author uses MOMENTUM 0.95 and
    # NESTEROV true.
    cfg.SOLVER.OPTIMIZER = Str("SGD")
    # Further arguments of the optimizer, checked against its signature: {betas: [0.9, 0.95]}.
    cfg.SOLVER.OPTIMIZER_ARGS = Open(owner="OPTIMIZER")
    # Momentum, at least 0, and whether it is Nesterov momentum, for optimizers that have them.
    cfg.SOLVER.MOMENTUM = Float(0.9, minimum=0)
    cfg.SOLVER.NESTEROV = Bool(False)

    # Images per optimizer update, over all devices and accumulated micro-batches. A number above the size of the
    # training set gives a warning: a batch then contains images more than once.
    cfg.SOLVER.IMS_PER_BATCH = Int(16, minimum=1)
    # Number of processes that the batch size, learning rates and durations are meant for. With n times as many,
    # IMS_PER_BATCH and each learning rate (BASE_LR, BASE_LR_END, LR in PARAM_GROUPS) are multiplied by n, and each
    # duration in iterations (of the run, of schedules, every period) is divided by n. The learning rate curve
    # keeps its shape, n times as high and 1/n as long. Durations with a unit or in epochs need no change.
    # Schedules with absolute learning rates, such as eta_min, or a factor per iteration (ExponentialLR) are
    # refused. Each change is printed. A resumed run keeps its values with any number of processes. 0: nothing is
    # scaled.
    cfg.SOLVER.REFERENCE_WORLD_SIZE = Int(0, maximum=10**6)
    # Gradient accumulation: micro-batches per optimizer update, for batches that do not fit into memory. Each
    # micro-batch has IMS_PER_BATCH / GRAD_ACCUM_STEPS images, divided among the processes; BatchNorm computes its
    # statistics over a micro-batch. 1 is off.
    cfg.SOLVER.GRAD_ACCUM_STEPS = Int(1, minimum=1)
    # Length of the run: a number of iterations, or "90ep".
    cfg.SOLVER.MAX_ITER = Duration(40000, minimum=1, percent=False)

    # Base learning rate: the value after warm-up and before any decay.
    cfg.SOLVER.BASE_LR = Float(0.001, above=0)
    # Learning rate at MAX_ITER, for schedules that end at a given value (WarmupCosineLR, WarmupStableDecayLR).
    cfg.SOLVER.BASE_LR_END = Float(0.0, minimum=0)
    # Learning rate schedule: WarmupMultiStepLR, WarmupCosineLR, WarmupStepWithFixedGammaLR, WarmupPolyLR,
    # WarmupStableDecayLR, any scheduler of torch.optim.lr_scheduler, or a registered one. See docs/SCHEDULES.md.
    cfg.SOLVER.LR_SCHEDULER_NAME = Str("WarmupMultiStepLR")
    # Arguments of torch's schedulers, checked against torch's signature: {step_size: "30ep"}.
    cfg.SOLVER.LR_SCHEDULER_ARGS = Open(owner="LR_SCHEDULER_NAME")
    # SequentialLR: schedules one after the other, each counting from its own start. UNTIL, like all counts of
    # torch's schedulers, is counted from the end of warm-up; the last phase needs no UNTIL.
    cfg.SOLVER.LR_PHASES = Records(
        {"NAME": Str("StepLR"), "ARGS": Arguments(), "UNTIL": Duration("30ep", minimum=1)}, required=["NAME"]
    )
    # ChainedScheduler: schedules whose factors are multiplied.
    cfg.SOLVER.LR_FACTORS = Records({"NAME": Str("StepLR"), "ARGS": Arguments()}, required=["NAME"])
    # epoch: the learning rate changes only at the start of an epoch. torch's schedulers then count epochs, so that
    # step_size 30 means 30 epochs; the Warmup* schedules still count iterations. Warm-up itself always changes the
    # learning rate every iteration.
    cfg.SOLVER.LR_STEP_UNIT = OneOf("iter", ("iter", "epoch"))
    # Metric that ReduceLROnPlateau watches: a name in metrics.json. "": the task's first score on the first test
    # set that is better when lower (with mode max: when higher), which is the loss for classification.
    cfg.SOLVER.LR_METRIC = Str("")
    # WarmupMultiStepLR multiplies the learning rate by GAMMA at each of STEPS (increasing).
    cfg.SOLVER.STEPS = ListOf(Duration(30000, minimum=1), ("75%",))
    cfg.SOLVER.GAMMA = Float(0.1, above=0)
    # WarmupStepWithFixedGammaLR: number of drops by GAMMA, evenly spread over the run.
    cfg.SOLVER.NUM_DECAYS = Int(3)
    # WarmupPolyLR: (1 - t / MAX_ITER) ^ POLY_LR_POWER, but at least POLY_LR_CONSTANT_ENDING, times BASE_LR.
    cfg.SOLVER.POLY_LR_POWER = Float(0.9, minimum=0)
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = Float(0.0, minimum=0, maximum=1)
    # WarmupStableDecayLR: the learning rate is constant, then decays to BASE_LR_END over the last DECAY_ITERS.
    # linear, cosine (half a period), or sqrt: 1 - sqrt(completed share of DECAY_ITERS).
    cfg.SOLVER.DECAY_ITERS = Duration("20%")
    cfg.SOLVER.DECAY_METHOD = OneOf("linear", ("linear", "cosine", "sqrt"))

    # Warm-up: the learning rate starts at WARMUP_FACTOR times its value and reaches it at iteration WARMUP_ITERS;
    # 0 is off.
    cfg.SOLVER.WARMUP_ITERS = Duration("2.5%")
    cfg.SOLVER.WARMUP_FACTOR = Float(0.001, minimum=0, maximum=1)
    # constant: WARMUP_FACTOR throughout. linear (also written gradual): a straight ramp. cosine: half a cosine
    # period.
    # exponential: WARMUP_FACTOR ^ (1 - t / WARMUP_ITERS), for a factor above 0.
    cfg.SOLVER.WARMUP_METHOD = OneOf("linear", (*WARMUP_METHODS, "gradual"))
    # How warm-up is combined with a Warmup* schedule. product: both factors are multiplied. interpolate: a ramp
    # that ends at the schedule's value at WARMUP_ITERS, as in detectron2.
    cfg.SOLVER.WARMUP_BLEND = OneOf("product", ("product", "interpolate"))
    # Whether a Warmup* schedule is rescaled to the iterations after warm-up; otherwise it starts at iteration 0,
    # and warm-up covers its beginning.
    cfg.SOLVER.RESCALE_INTERVAL = Bool(False)
    # Ends warm-up before WARMUP_ITERS when a metric in metrics.json is below or above a value; checked at each
    # record: {METRIC: train/error, BELOW: 0.8}. "" is off.
    cfg.SOLVER.WARMUP_UNTIL = CfgNode()
    cfg.SOLVER.WARMUP_UNTIL.METRIC = Str("")
    cfg.SOLVER.WARMUP_UNTIL.BELOW = OrNull(Float(0.8))
    cfg.SOLVER.WARMUP_UNTIL.ABOVE = OrNull(Float(0.2))

    # Weight decay of weights, of the parameters of norm layers, and of biases (null: as WEIGHT_DECAY).
    cfg.SOLVER.WEIGHT_DECAY = Float(0.0001, minimum=0)
    cfg.SOLVER.WEIGHT_DECAY_NORM = Float(0.0, minimum=0)
    cfg.SOLVER.WEIGHT_DECAY_BIAS = OrNull(Float(0.0, minimum=0))
    # Learning rate of biases, as a multiple of BASE_LR.
    cfg.SOLVER.BIAS_LR_FACTOR = Float(1.0, minimum=0)
    # Layer-wise learning rate decay, for torchvision's ResNet, VisionTransformer, SwinTransformer and ConvNeXt,
    # and for timm's models: the head has BASE_LR, and each layer (block) below has the learning rate of the next
    # higher one times this factor. 1 is off.
    cfg.SOLVER.LAYER_DECAY = Float(1.0, above=0, maximum=1)
    # Learning rate and weight decay by parameter name, applied after the keys above:
    # [{MATCH: "^fc", LR_FACTOR: 10}]. MATCH is a regex, searched for in the full parameter name; the first rule
    # that matches applies, and settings that it does not mention stay. LR is a learning rate, LR_FACTOR a multiple
    # of the learning rate without the rule; 0 keeps the values but freezes nothing else: gradients, optimizer
    # state and BatchNorm statistics are still updated (docs/OPTIMIZERS.md). NAME (default: MATCH) is used in
    # records: lr/NAME.
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

    # Automatic mixed precision (torch.autocast) in training and evaluation; weights, losses, averages and
    # statistics stay in float32. bf16 needs hardware support. fp16 has a smaller range: losses are scaled, and an
    # update whose gradients overflow is skipped, while iteration, learning rate and data advance; more than
    # NAN_LIMIT skipped updates in a row end the run.
    cfg.SOLVER.AMP = CfgNode()
    cfg.SOLVER.AMP.ENABLED = Bool(False)
    cfg.SOLVER.AMP.PRECISION = OneOf("bf16", ("bf16", "fp16"))

    # Gradient clipping in each update; the norm before clipping is recorded as grad_norm.
    cfg.SOLVER.CLIP_GRADIENTS = CfgNode()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = Bool(False)
    # value: clamps each gradient element to [-CLIP_VALUE, CLIP_VALUE]. norm: scales the gradient of each parameter
    # separately to a norm of at most CLIP_VALUE. full_model: scales all gradients together, by their total norm,
    # which is what most papers mean.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = OneOf("value", ("value", "norm", "full_model"))
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = Float(1.0, above=0, maximum=3e38)  # float32 ends there
    # The p of the p-norm: 2 is the Euclidean norm.
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = Float(2.0, above=0)

    # Exponential moving average (EMA) of the model's weights and buffers. It is evaluated in addition to the
    # model, recorded as digits_test/ema/accuracy, and saved under "ema" in checkpoints.
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = Bool(False)
    # average = DECAY * average + (1 - DECAY) * model, which covers about the last 1 / (1 - DECAY) averaging steps;
    # at least 0 and below 1. The first averaging step copies the model.
    cfg.SOLVER.EMA.DECAY = Float(0.999, minimum=0, below=1)
    # Updates between two averaging steps.
    cfg.SOLVER.EMA.PERIOD = Duration(1, minimum=1)

    # What to do when a loss is infinite or NaN. raise: the run ends, when the losses are next read (at a record,
    # an evaluation or a checkpoint). skip: the update is skipped, also if clipping finds that the norm of the
    # gradients is not finite; iteration, learning rate and data advance. With skip each step waits for the device.
    cfg.SOLVER.NAN_POLICY = OneOf("raise", ("raise", "skip"))
    # Maximum number of skipped updates in a row (NAN_POLICY skip, or overflows in fp16); one more ends the run.
    cfg.SOLVER.NAN_LIMIT = Int(10, minimum=1)

    # Updates between two checkpoints; 0: only at the end.
    cfg.SOLVER.CHECKPOINT_PERIOD = Duration(5000)
    # How many of the newest numbered checkpoints to keep; 0: all. Always kept are model_best.pth, model_final.pth,
    # the newest checkpoint before each of STEPS (WarmupMultiStepLR) and before the decay of WarmupStableDecayLR,
    # from which a run with another decay can continue, and every file that this run did not write. A resumed run
    # keeps as many as it did before unless the key is set.
    cfg.SOLVER.CHECKPOINT_KEEP = Int(3)

    # ---------------------------------------------------------------- evaluation
    cfg.TEST = CfgNode()
    # Updates between two evaluations; 0: only at the end.
    cfg.TEST.EVAL_PERIOD = Duration(0)
    # Images per evaluation step.
    cfg.TEST.IMS_PER_BATCH = Int(256, minimum=1)
    # The checkpoint of the best evaluation so far is kept as model_best.pth. METRIC is the name of a score in
    # metrics.json: digits_test/accuracy, digits_test/ema/loss; "" is off. MODE: whether a higher (max) or a lower
    # (min) score is better; auto: as the task defines it, and max for scores of user-defined hooks. The first
    # evaluation counts; an equal score is not better, and a score that is not finite is never better.
    cfg.TEST.BEST = CfgNode()
    cfg.TEST.BEST.METRIC = Str("")
    cfg.TEST.BEST.MODE = OneOf("auto", ("auto", "max", "min"))
    # The run ends, after one more update, when PATIENCE evaluations in a row (0 is off) have not improved on the
    # best TEST.BEST.METRIC so far by more than MIN_DELTA, in the unit of the metric: 0.001 is 0.1 % of accuracy.
    cfg.TEST.EARLY_STOPPING = CfgNode()
    cfg.TEST.EARLY_STOPPING.PATIENCE = Int(0)
    cfg.TEST.EARLY_STOPPING.MIN_DELTA = Float(0.0, minimum=0)
    # Whether to write OUTPUT_DIR/report: the details behind the scores on each test set, such as the accuracy of
    # each class and the most confident mistakes, as JSON, CSV and PNG (docs/TRAINING.md); of the best evaluation
    # if BEST.METRIC is set, else of the last one. --eval-only writes them too.
    cfg.TEST.REPORT = Bool(True)
    # Whether each evaluation also computes the losses of training on the test sets: NAME/total_loss, which
    # TEST.BEST.METRIC and early stopping can watch, and its parts. Layers compute as in evaluation. The model is
    # called a second time for each batch. Not with MODEL.PARALLEL fsdp.
    cfg.TEST.LOSSES = Bool(False)
    # Before each evaluation, BatchNorm's running statistics are recomputed with the current weights over NUM_ITER
    # training batches; training itself is not affected.
    cfg.TEST.PRECISE_BN = CfgNode()
    cfg.TEST.PRECISE_BN.ENABLED = Bool(False)
    cfg.TEST.PRECISE_BN.NUM_ITER = Duration(200, minimum=1)

    # ---------------------------------------------------------------- several processes
    # --num-gpus N starts N processes on a machine; docs/DISTRIBUTED.md describes other ways to start them. Each
    # process computes its share of every batch, on its own GPU or on some of the cores.
    cfg.DISTRIBUTED = CfgNode()
    # Seconds that a process or a machine waits for another one before it ends with an error, from 1 to a year.
    # Processes also wait while another one evaluates or saves, so it must be longer than these take.
    cfg.DISTRIBUTED.TIMEOUT = Int(1800, minimum=1, maximum=365 * 24 * 3600)
    # Seconds that --num-gpus gives the processes to save and exit after a signal before it kills them.
    cfg.DISTRIBUTED.GRACE = Int(300, minimum=1, maximum=10**9)
    # How often --num-gpus restarts all processes after one has failed; they resume from the newest checkpoint.
    # Exit codes 2, 3 and 4 cause no restart: the same error would occur again.
    cfg.DISTRIBUTED.MAX_RESTARTS = Int(0)
    # Data type in which gradients are sent and averaged: float32, or bf16, which halves the communication and
    # rounds.
    cfg.DISTRIBUTED.GRADIENTS = OneOf("float32", ("float32", "bf16"))
    # Whether parameters may receive no gradient in an update, as in a branch that is not always taken;
    # otherwise this is an error with several processes. Each update then takes slightly longer, to find them.
    cfg.DISTRIBUTED.UNUSED_PARAMETERS = Bool(False)
    # Whether the same parameters receive a gradient in each update: this saves a little time, and the other
    # parameters may receive none, as with UNUSED_PARAMETERS. Not with gradient accumulation.
    cfg.DISTRIBUTED.STATIC_GRAPH = Bool(False)

    # ---------------------------------------------------------------- run
    # Folder for checkpoints, metrics.json, logs and TensorBoard files.
    cfg.OUTPUT_DIR = FilePath("./output")
    # Updates between two records in the console, metrics.json and TensorBoard.
    cfg.LOG_PERIOD = Duration(20, minimum=1)
    # Whether records include the peak memory so far, in MiB: memory/host_mb and, on CUDA, memory/allocated_mb (by
    # tensors) and memory/reserved_mb (by torch).
    cfg.MEMORY_STATS = Bool(False)
    # Traces ITERS iterations, after the first START updates, into OUTPUT_DIR/profile, for TensorBoard or
    # chrome://tracing; ITERS 0 is off. With several processes rank 0 is traced.
    cfg.PROFILER = CfgNode()
    cfg.PROFILER.START = Duration(0)
    cfg.PROFILER.ITERS = Duration(0)
    # Seed of the initial weights, the order of the samples and the augmentation.
    cfg.SEED = Int(0, maximum=2**63 - 1)
    # auto: safe and fast settings for the device, which the log lists: TF32 on GPUs that support it, and
    # CUDNN_BENCHMARK; on a CPU nothing that changes a bit. exact: deterministic kernels only and no TF32, so that
    # a run on a GPU is reproducible bit for bit; slower, and an operation without a deterministic kernel is an
    # error. A CPU run is reproducible with auto too.
    cfg.PROFILE = OneOf("auto", ("auto", "exact"))
    # Whether cuDNN benchmarks its algorithms and uses the fastest: faster for fixed image sizes, bits may differ.
    # null: on with PROFILE auto if images have one size (ASPECT_RATIO_GROUPING is off).
    cfg.CUDNN_BENCHMARK = OrNull(Bool(True))

    return cfg.seal()
