"""Names of models and their arguments."""

import pytest
import torchvision.models
from torch import nn

from warmstart.config import ConfigError
from warmstart.modeling import catalog, model_names, register_model
from warmstart.modeling.catalog import build_torchvision, check_model_arguments, check_name, torchvision_class

DETECTORS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))


def mine(num_classes: int, in_channels: int, depth: int, scale: float = 1.0) -> nn.Module:
    return nn.Linear(in_channels, num_classes)


def test_model_names_are_torchvisions_classifiers_and_detectors_and_ours() -> None:
    register_model("mine", mine)
    names = model_names()
    assert {"mine", "small_cnn", "resnet18", "vit_b_16", "small_rcnn", *DETECTORS} < set(names)
    assert names == sorted(names)
    assert not {"fcn_resnet50", "quantized_resnet18", "r3d_18", "raft_small"} & set(names)
    assert len(names) == len(torchvision.models.list_models(module=torchvision.models)) + 12 + 4


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        (
            "resnet18",
            "detection",
            "resnet18 is a classification model; set MODEL.TASK to classification, or choose a detector such as"
            " fasterrcnn_resnet50_fpn",
        ),
        (
            "small_cnn",
            "instance_segmentation",
            "small_cnn is a classification model; set MODEL.TASK to classification, or choose a detector with"
            " masks such as maskrcnn_resnet50_fpn",
        ),
        (
            "maskrcnn_resnet50_fpn",
            "detection",
            "maskrcnn_resnet50_fpn is a detector with masks; set MODEL.TASK to instance_segmentation, or choose a"
            " detector such as fasterrcnn_resnet50_fpn",
        ),
        (
            "ssd300_vgg16",
            "keypoint_detection",
            "ssd300_vgg16 is a detector; set MODEL.TASK to detection, or",
        ),
        (
            "keypointrcnn_resnet50_fpn",
            "classification",
            "a detector with keypoints; set MODEL.TASK to key",
        ),
        (
            "small_rcnn",
            "classification",
            "small_rcnn is a detector; set MODEL.TASK to detection, or choose a c",
        ),
        (
            "small_rcnn",
            "depth",
            "set MODEL.TASK to detection, or choose a model for depth",
        ),
        (
            "fcn_resnet50",
            "",
            "fcn_resnet50 is a model for semantic segmentation, and none of the tasks that MODE",
        ),
    ],
)
def test_check_name_refuses_a_model_of_another_family(name: str, family: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_name(name, "MODEL.NAME", family)


def test_check_name_accepts_the_family_any_family_and_registered_models() -> None:
    register_model("mine", mine)
    families = dict.fromkeys(DETECTORS, "detection")
    families |= {name: "instance_segmentation" for name in DETECTORS if name.startswith("mask")}
    families |= {"keypointrcnn_resnet50_fpn": "keypoint_detection", "resnet18": "classification"}
    for name, family in families.items():
        check_name(name, "MODEL.NAME", family)
        check_name(name, "MODEL.NAME")
    for family in ("classification", "detection", "depth"):
        check_name("mine", "MODEL.NAME", family)
    for family in ("detection", "instance_segmentation", "keypoint_detection"):
        check_name("small_rcnn", "MODEL.NAME", family)


def test_register_model_refuses_a_name_that_is_taken() -> None:
    register_model("mine", mine)
    with pytest.raises(ConfigError, match="^a model called 'mine' is registered already; choose another name$"):
        register_model("mine", mine)


@pytest.mark.parametrize("builder", [lambda num_classes: None, nn.Identity.forward])
def test_register_model_refuses_a_builder_without_classes_and_channels(builder) -> None:
    with pytest.raises(
        ConfigError, match="^the builder of model 'm' must take the keywords num_classes and in_channels$"
    ):
        register_model("m", builder)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet19", "'resnet18'? Known: resnet101, resnet152, resnet18, resnet50, small_cnn, small_rcnn, s"),
        ("ResNet18", "did you mean 'resnet18'?"),
        ("smal_cnn", "did you mean 'small_cnn'?"),
        (
            "zebra",
            'Known: small_cnn, small_rcnn, speed_net, and the others that `python -c "import warmstart.mo',
        ),
    ],
)
def test_check_name_suggests_similar_names(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_name(name, "MODEL.NAME (x.yaml:1)")
    message = str(error.value)
    assert message.startswith(f"MODEL.NAME (x.yaml:1): no model is called {name!r}")
    assert hint in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("resnet50", {"zero_init_residual": True, "width_per_group": 32}),
        ("efficientnet_b0", {"dropout": 0.5, "stochastic_depth_prob": 0.1}),
        ("vit_b_32", {"image_size": 64, "attention_dropout": 0.1}),
        ("maxvit_t", {"input_size": [448, 448]}),
        ("googlenet", {"aux_logits": False, "dropout_aux": 0.5}),
        ("small_cnn", {"norm": "group", "dropout": 0.5, "width": 4}),
        ("mine", {"depth": 3, "scale": 2}),
        ("fasterrcnn_resnet50_fpn", {"min_size": [640, 800], "max_size": 1000, "box_detections_per_img": 50}),
        ("fasterrcnn_mobilenet_v3_large_fpn", {"rpn_post_nms_top_n_train": 500, "size_divisible": 64}),
        ("keypointrcnn_resnet50_fpn", {"num_keypoints": 4, "box_score_thresh": 0.2}),
        ("fcos_resnet50_fpn", {"min_size": [640], "center_sampling_radius": 2}),
        ("ssdlite320_mobilenet_v3_large", {"topk_candidates": 100, "image_mean": [0.5, 0.5, 0.5]}),
    ],
)
def test_check_model_arguments_accepts_valid_ones(name: str, arguments: dict[str, object]) -> None:
    register_model("mine", mine)
    check_model_arguments(name, arguments, "MODEL.ARGS")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "resnet18",
            {"zebra": True},
            "It takes: zero_init_residual, groups, width_per_group, replace_stride_with_dilation",
        ),
        (
            "vit_b_32",
            {"img_size": 64},
            "did you mean 'image_size'? It takes: image_size, dropout, attention_dropout",
        ),
        ("resnet18", {"layers": [1, 1, 1, 1]}, "resnet18 takes no argument 'layers'"),
        ("resnet18", {"norm_layer": "GroupNorm"}, "resnet18 takes no argument 'norm_layer'"),
        ("mobilenet_v2", {"dropout": "no"}, "MODEL.ARGS.dropout: mobilenet_v2 expects a number; got 'no'"),
        ("resnet18", {"groups": 1.5}, "MODEL.ARGS.groups: resnet18 expects a whole number; got 1.5"),
        ("resnet18", {"num_classes": 3}, "MODEL.ARGS.num_classes: set MODEL.NUM_CLASSES instead"),
        ("resnet18", {"weights": "DEFAULT"}, "MODEL.ARGS.weights: set MODEL.WEIGHTS instead"),
        ("resnet18", {"progress": False}, "MODEL.ARGS.progress: set MODEL.WEIGHTS instead"),
        (
            "googlenet",
            {"transform_input": True},
            "MODEL.ARGS.transform_input: set INPUT.MEAN and INPUT.STD instead",
        ),
        ("small_cnn", {"num_classes": 3}, "small_cnn takes no argument 'num_classes'"),
        ("small_cnn", {"width": "wide"}, "MODEL.ARGS.width: small_cnn expects a whole number; got 'wide'"),
        ("mine", {}, "MODEL.ARGS.depth: mine needs it; give it a value"),
        (
            "retinanet_resnet50_fpn",
            {"nms_tresh": 0.4},
            "no argument 'nms_tresh'; did you mean 'nms_thresh'?",
        ),
        ("maskrcnn_resnet50_fpn", {"box_head": "x"}, "maskrcnn_resnet50_fpn takes no argument 'box_head'"),
        ("ssd300_vgg16", {"size": 512}, "ssd300_vgg16 takes no argument 'size'"),
        (
            "fasterrcnn_resnet50_fpn",
            {"rpn_nms_thresh": "a"},
            "rpn_nms_thresh: fasterrcnn_resnet50_fpn expects",
        ),
        ("fcos_resnet50_fpn", {"weights_backbone": "X"}, "set MODEL.WEIGHTS to backbone:IMAGENET1K_V1 instead"),
        (
            "ssd300_vgg16",
            {"trainable_backbone_layers": 3},
            "set MODEL.BACKBONE.FREEZE_AT, which counts the",
        ),
    ],
)
def test_check_model_arguments_refuses_invalid_ones(name: str, arguments: dict[str, object], message: str) -> None:
    register_model("mine", mine)
    with pytest.raises(ConfigError) as error:
        check_model_arguments(name, arguments, "MODEL.ARGS")
    assert message in str(error.value)


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_torchvision_class_knows_every_model(name: str) -> None:
    assert issubclass(torchvision_class(name), nn.Module)
    check_model_arguments(name, {}, "MODEL.ARGS")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet18", {"groups": 2}, "BasicBlock only supports groups=1"),
        ("resnet18", {"replace_stride_with_dilation": [False, False, True]}, "Dilation > 1 not supported"),
        ("vit_b_32", {"image_size": 33}, "Input shape indivisible by patch size"),
        ("mobilenet_v2", {"inverted_residual_setting": 3}, "object of type 'int' has no len"),
        ("resnet50", {"width_per_group": -64}, "negative dimension"),
        ("squeezenet1_1", {"version": "1_0"}, "multiple values"),
    ],
)
def test_build_torchvision_reports_values_that_torchvision_refuses(
    name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build_torchvision(name, 10, arguments)


def test_googlenet_causes_no_warning_and_takes_init_weights() -> None:
    assert build_torchvision("googlenet", 3, {"aux_logits": False}).fc.out_features == 3
    assert build_torchvision("googlenet", 3, {"init_weights": False}).aux1.fc2.out_features == 3
