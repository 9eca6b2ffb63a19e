"""Programs written for torchvision's builders run with ours: what its own model tests check, to the last bit."""

from __future__ import annotations

import copy
import enum
import io

import pytest

torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision.models")

from torch import nn
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, ShuffleNet_V2_X1_0_Weights
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, backbone_utils
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import FrozenBatchNorm2d

from fusiform import nets
from fusiform.errors import DownloadError, UsageError, WeightsError
from fusiform.zoo.load import load

NAMES = ["mobilenet_v2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"]
each = pytest.mark.parametrize("name", NAMES)
jit_is_deprecated = pytest.mark.filterwarnings("ignore:`torch.jit")
ROWS = [[1, 16, 1, 1], [6, 24, 2, 2]]


def both(name, **options):
    """Our network and torchvision's, of the same seed."""
    torch.manual_seed(0)
    ours = getattr(nets, name)(**options)
    torch.manual_seed(0)
    return ours, getattr(models, name)(**options)


def picture(size=64):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def lively(network):
    """Other statistics than those of birth, with which a picture fades to nothing on its way."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.05, 0.3, generator=generator)
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
    return network


def same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))


# test_models.py: test_classification_model.


@each
@jit_is_deprecated
def test_answers_scripts_traces_and_gradients(name):
    ours, theirs = both(name, num_classes=50)
    assert same_state(ours, theirs)
    ours, theirs = lively(ours).eval(), lively(theirs).eval()
    x = picture()
    with torch.inference_mode():
        wanted = theirs(x)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(ours), file)
        file.seek(0)
        torch.testing.assert_close(torch.jit.load(file)(x), ours(x))
        torch.testing.assert_close(torch.fx.symbolic_trace(ours)(x), ours(x), rtol=0, atol=0)
    x = picture().requires_grad_()
    ours(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


# test_models.py: test_mobilenet_v2_residual_setting, test_mobilenet_norm_layer.


@pytest.mark.parametrize(
    "options",
    [
        {"inverted_residual_setting": ROWS},
        {"inverted_residual_setting": [[1, 16, 1, 1], [4, 24, 2, 2], [3, 40, 3, 1]], "width_mult": 0.75},
        {"inverted_residual_setting": ((2, 16, 2, 2), (6, 24, 2, 2), (6, 24, 1, 2), (6, 24, 1, 2), (1.5, 32, 1, 2))},
        {"norm_layer": lambda channels: nn.GroupNorm(1, channels)},
        {"norm_layer": FrozenBatchNorm2d},
        {"norm_layer": nn.InstanceNorm2d, "width_mult": 0.35},
        {"width_mult": 0.35, "dropout": 0.5, "num_classes": 7},
        {"width_mult": 1.4, "round_nearest": 1, "num_classes": 3},
    ],
    ids=["rows", "narrow rows", "many strides", "GroupNorm", "frozen", "InstanceNorm", "narrow", "not rounded"],
)
@jit_is_deprecated
def test_the_arguments_of_mobilenet(options):
    ours, theirs = both("mobilenet_v2", **options)
    assert same_state(ours, theirs)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in ours.modules()) == sum(
        isinstance(module, nn.BatchNorm2d) for module in theirs.modules()
    )
    ours, theirs = lively(ours), lively(theirs)
    assert ours.classifier[0].p == theirs.classifier[0].p == options.get("dropout", 0.2)
    assert ours.last_channel == theirs.last_channel
    x = picture()
    with torch.inference_mode():
        wanted = theirs.eval()(x)
        torch.testing.assert_close(ours.eval()(x), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
        scripted = torch.jit.script(ours)
        torch.testing.assert_close(scripted(x), ours(x))
        maps, of_script = ours.forward_stages(x), scripted.forward_stages(x)
    assert list(maps) == list(ours.feature_channels) == list(of_script)
    assert {key: value.shape[1] for key, value in maps.items()} == ours.feature_channels
    for key, value in maps.items():
        if key.startswith("stride_"):
            assert value.shape[2] == 64 // int(key[7:])


@pytest.mark.parametrize("rows", [[], [[6, 24, 2]], [[6, 24, 0, 2]], [[6, 24, 2, 3]], [[0, 24, 2, 2]]])
def test_rows_that_are_none(rows):
    with pytest.raises(UsageError, match="inverted_residual_setting must be rows of expansion, channels, repeats"):
        nets.mobilenet_v2(inverted_residual_setting=rows)


def test_heads_need_the_maps_that_they_read():
    with pytest.raises(UsageError, match="the backbone has no feature map expansion_13"):
        nets.SSDLite(nets.mobilenet_v2(inverted_residual_setting=ROWS))
    for options in ({"norm_layer": nn.InstanceNorm2d}, {"inverted_residual_setting": [[6, 16, 1, 1]]}):
        with pytest.raises(UsageError, match=r"only the paper's own table with nn\.BatchNorm2d is computed in slices"):
            nets.mobilenet_v2(**options).split_expansion(2)


# test_backbone_utils.py: test_mobilenet_backbone, and FasterRCNN over the features.


@pytest.mark.parametrize("weights", [None, "bundled"])
@pytest.mark.parametrize("fpn", [False, True])
def test_mobilenet_backbone(monkeypatch, weights, fpn):
    monkeypatch.setitem(backbone_utils.mobilenet.__dict__, "mobilenet_v2", nets.mobilenet_v2)
    backbone = backbone_utils.mobilenet_backbone(backbone_name="mobilenet_v2", weights=weights, fpn=fpn)
    trained = [parameter.requires_grad for parameter in backbone.parameters()]
    assert any(trained)
    assert not all(trained)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    with torch.inference_mode():
        maps = backbone.eval()(picture())
    assert (list(maps) if fpn else tuple(maps.shape)) == (["0", "1", "pool"] if fpn else (1, 256, 2, 2))
    if weights is None:
        layers = [{"returned_layers": [-1, 0, 1, 2]}, {"returned_layers": [3, 4, 5, 6]}] if fpn else []
        for wrong in ({"trainable_layers": -1}, *layers):
            with pytest.raises(ValueError, match=r"(should|must) be in the range"):
                backbone_utils.mobilenet_backbone(backbone_name="mobilenet_v2", weights=None, fpn=fpn, **wrong)


def test_a_detector_of_torchvision_over_the_features():
    features = nets.mobilenet_v2(width_mult=0.35).features
    features.out_channels = 1280
    detector = FasterRCNN(
        features,
        num_classes=3,
        rpn_anchor_generator=AnchorGenerator(sizes=((32, 64),), aspect_ratios=((1.0,),)),
        box_roi_pool=__import__("torchvision").ops.MultiScaleRoIAlign(["0"], 7, 2),
        min_size=64,
        max_size=64,
    ).eval()
    with torch.inference_mode():
        (answer,) = detector([picture()[0]])
    assert set(answer) == {"boxes", "labels", "scores"}


# test_backbone_utils.py: TestFxFeatureExtraction.


def nodes_of(network):
    """The nodes of a network's graph that are tensors."""
    others = ("getitem", "floordiv", "size", "chunk", "eq", "dim", "getattr")
    nodes, _ = get_graph_node_names(network, suppress_diff_warning=True)
    return [node for node in nodes if not any(word in node for word in others)]


@each
@jit_is_deprecated
def test_feature_extractors_are_torchvisions_and_can_be_scripted(name):
    ours, theirs = (network.train() for network in both(name, num_classes=1))
    chosen = nodes_of(ours)[1::7]
    extractor = create_feature_extractor(ours, train_return_nodes=chosen, eval_return_nodes=chosen)
    scripted = torch.jit.script(extractor)
    found = scripted(picture())
    torch.testing.assert_close(list(found.values()), list(extractor(picture()).values()), rtol=1e-3, atol=1e-4)
    assert list(found) == chosen
    sum(value.mean() for value in found.values()).backward()
    assert all(p.grad is not None for p in list(scripted.parameters())[:1])
    # The names of torchvision's nodes are names of ours, and give the same maps.
    layers = [node for node in nodes_of(theirs) if "branch" in node or "features" in node or "conv" in node][1::9]
    maps = [
        create_feature_extractor(network.eval(), return_nodes=layers)(picture())
        for network in both(name, num_classes=1)
    ]
    for layer in layers:
        torch.testing.assert_close(maps[0][layer], maps[1][layer], rtol=0, atol=1e-5)


@each
def test_layers_by_name(name):
    layer = "features" if name == "mobilenet_v2" else "conv1"
    network = getattr(nets, name)().eval()
    maps = IntermediateLayerGetter(network, {layer: "map"})(picture())
    assert list(maps) == ["map"]


# The builders' arguments.


def test_pretrained_as_it_was_written_before_weights():
    bundled = load("mobilenet_v2")
    for network in (
        nets.mobilenet_v2(True),
        nets.mobilenet_v2(pretrained=True),
        nets.mobilenet_v2(True, False),
        nets.mobilenet_v2("bundled", progress=False),
        nets.mobilenet_v2(weights="bundled"),
    ):
        assert same_state(network, bundled)
        assert not network.training
    for fresh in (nets.mobilenet_v2(False), nets.mobilenet_v2(pretrained=False), nets.mobilenet_v2(None)):
        assert fresh.training
        assert not torch.equal(fresh.features[0][0].weight, bundled.features[0][0].weight)
    assert same_state(nets.shufflenet_v2_x1_0(True), load("shufflenet_v2_x1_0"))


@pytest.mark.parametrize(
    ("name", "weights", "file"),
    [
        ("mobilenet_v2", MobileNet_V2_Weights.IMAGENET1K_V1, "mobilenet_v2-b0353104.pth"),
        ("mobilenet_v2", MobileNet_V2_Weights.DEFAULT, "mobilenet_v2-7ebf99e0.pth"),
        ("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth"),
        ("mobilenet_v2", "DEFAULT", "mobilenet_v2-7ebf99e0.pth"),
        ("shufflenet_v2_x1_0", ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1, "shufflenetv2_x1-5666bf0f80.pth"),
        ("shufflenet_v2_x0_5", True, "shufflenetv2_x0.5-f707e7126e.pth"),
    ],
)
@pytest.mark.parametrize("progress", [True, False])
def test_members_of_torchvisions_enumerations(name, weights, file, progress):
    with pytest.raises(DownloadError, match=file):
        getattr(nets, name)(weights=weights, progress=progress)


class Other(enum.Enum):
    IMAGENET1K_V1 = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weights": ResNet50_Weights.IMAGENET1K_V1},
            "has no weights 'ResNet50_Weights.IMAGENET1K_V1'; it has bundled",
        ),
        ({"weights": ShuffleNet_V2_X1_0_Weights.DEFAULT}, "has no weights 'ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1'"),
        ({"weights": Other.IMAGENET1K_V1}, r"has no weights 'Other\.IMAGENET1K_V1'"),
        ({"weights": "imagenet"}, "has no weights 'imagenet'"),
        ({"weights": 1}, "weights must be None, 'bundled', .* got 1"),
        ({"weights": "bundled", "pretrained": True}, "weights='bundled' and pretrained=True say the same thing twice"),
        ({"weights": "bundled", "pretrained": False}, "say the same thing twice"),
        ({"width": 0.5, "width_mult": 0.5}, "width and width_mult are one thing"),
        ({"weights": "bundled", "width_mult": 0.35}, "no weights are known for a network 'mobilenet_v2_x0_35'"),
        ({"round_nearest": 0}, "round_nearest must be a whole number, 1 or more"),
    ],
)
def test_arguments_that_are_wrong(arguments, message):
    with pytest.raises(UsageError, match=message):
        nets.mobilenet_v2(**arguments)


def test_the_class_by_itself():
    theirs = models.MobileNetV2(num_classes=4, width_mult=0.5, dropout=0.1)
    nets.MobileNetV2(num_classes=4, width_mult=0.5, dropout=0.1).load_state_dict(theirs.state_dict())
    with pytest.raises(UsageError, match=r"width 0\.5 and width_mult 0\.75 are one thing"):
        nets.MobileNetV2(0.5, width_mult=0.75)
    with pytest.raises(UsageError, match="a number of classes is num_classes=10"):
        nets.MobileNetV2(10)  # torchvision's first argument


def test_files(tmp_path):
    trained = nets.mobilenet_v2(width_mult=0.35, num_classes=5)
    torch.save(trained.state_dict(), tmp_path / "own.pth")
    for path in (tmp_path / "own.pth", str(tmp_path / "own.pth")):
        assert same_state(nets.mobilenet_v2(path), trained)
    assert same_state(nets.mobilenet_v2(tmp_path / "own.pth", width_mult=0.35), trained)
    assert nets.mobilenet_v2(tmp_path / "own.pth", num_classes=2)(picture()).shape == (1, 2)
    with pytest.raises(UsageError, match="holds mobilenet_v2_x0_35, not mobilenet_v2_x1_0: name another file"):
        nets.mobilenet_v2(tmp_path / "own.pth", width_mult=1.0)
    with pytest.raises(UsageError, match="holds mobilenet_v2_x0_35, not shufflenet_v2_x1_0"):
        nets.shufflenet_v2_x1_0(tmp_path / "own.pth")
    with pytest.raises(UsageError, match="is for classification, not for detection: name another file"):
        nets.ssdlite_mobilenet_v2(tmp_path / "own.pth")
    with pytest.raises(UsageError, match="weights of a network for detection are a model file, got True"):
        nets.ssdlite_mobilenet_v2(True)
    with pytest.raises(WeightsError, match="no such model file"):
        nets.mobilenet_v2(tmp_path / "gone.pth")
    frozen = nets.mobilenet_v2("bundled", norm_layer=FrozenBatchNorm2d)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(picture()), load("mobilenet_v2")(picture()), rtol=1e-4, atol=1e-4)
    for options in ({"norm_layer": lambda c: nn.GroupNorm(1, c)}, {"inverted_residual_setting": ROWS}):
        with pytest.raises(WeightsError, match="does not fit the network"):
            nets.mobilenet_v2("bundled", **options)


# What timm's own model tests ask of every network.


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
@jit_is_deprecated
def test_timms_conventions(name):
    network = getattr(nets, name)(weights="bundled")
    x = picture()
    with torch.inference_mode():
        logits, features = network(x), network.forward_features(x)
        assert network.num_classes == 1000
        assert features.shape == (1, network.num_features, 2, 2)
        assert torch.equal(network.forward_head(features), logits)
        pooled = network.forward_head(features, pre_logits=True)
        assert torch.equal(network.get_classifier()(pooled), logits)
        assert isinstance(network.get_classifier(), nn.Linear)

        bare = getattr(nets, name)(weights="bundled", num_classes=0)
        assert torch.equal(bare(x), pooled)
        assert bare.num_classes == 0
        assert isinstance(bare.get_classifier(), nn.Identity)
        missing, unexpected = bare.load_state_dict(network.state_dict(), strict=False)
        assert not missing
        assert len(unexpected) == 2

        names = list(network.state_dict())
        network.reset_classifier(7)
        assert network(x).shape == (1, 7)
        assert network.num_classes == 7
        assert list(network.state_dict()) == names
        assert torch.equal(torch.jit.script(network)(x), network(x))
        network.reset_classifier(0)
        assert torch.equal(network(x), pooled)
        assert torch.equal(torch.jit.script(network)(x), pooled)
        network.double().reset_classifier(3)
        assert network(x.double()).dtype == torch.float64
    with pytest.raises(UsageError, match="num_classes must be a whole number, 0 or more, got -1"):
        network.reset_classifier(-1)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_a_fresh_classifier_is_born_like_the_networks_own(name):
    torch.manual_seed(0)
    network = getattr(nets, name)()
    born = network.get_classifier().weight.std()
    network.reset_classifier(1000)
    torch.testing.assert_close(network.get_classifier().weight.std(), born, rtol=0.01, atol=0)
    assert network.training
    assert network.get_classifier().bias.abs().max() <= 1 / network.num_features**0.5


def test_the_ways_in_which_tutorials_replace_the_classifier(tmp_path):
    x = picture()
    network = nets.mobilenet_v2(width_mult=0.35)
    assert network.classifier.in_features == network.classifier[1].in_features == network.last_channel == 1280
    assert network.classifier.out_features == 1000
    network.classifier = nn.Linear(network.classifier.in_features, 6)
    assert network(x.repeat(2, 1, 1, 1)).shape == (2, 6)
    assert network.get_classifier() is network.classifier
    network.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(network.last_channel, 3))
    assert network.eval()(x).shape == (1, 3)
    network.classifier = nn.Identity()
    assert network(x).shape == (1, 1280)
    network.reset_classifier(2)
    network.classifier[1] = nn.Linear(1280, 9)
    assert network(x).shape == (1, 9)
    torch.save(network, tmp_path / "whole.pt")
    assert torch.equal(torch.load(tmp_path / "whole.pt", weights_only=False)(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))
