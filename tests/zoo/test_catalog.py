from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusiform.errors import UsageError, WeightsError
from fusiform.zoo.catalog import ALIASES, BUNDLED_FOLDER, CATALOG, Weights, find_weights, imagenet_labels


def test_every_torchvision_file_is_listed_as_torchvision_has_it() -> None:
    models = pytest.importorskip("torchvision.models")
    members = {}
    for module in (models, models.quantization):
        for owner in vars(module).values():
            if isinstance(owner, type) and re.match(r"(MobileNet_V2|ShuffleNet_V2)_", owner.__name__):
                members |= {f"{owner.__name__}.{member.name}": member for member in owner}
    ours = {weights.enum: weights for weights in CATALOG.values() if weights.enum}
    assert ours.keys() == members.keys()
    for enum, weights in ours.items():
        member = members[enum]
        metrics = member.meta["_metrics"]["ImageNet-1K"]
        transforms = member.transforms()
        assert weights.url == member.url
        assert weights.size_mb == member.meta["_file_size"]
        shares = 100 * weights.accuracy[0].top1, 100 * weights.accuracy[0].top5
        assert shares == pytest.approx((metrics["acc@1"], metrics["acc@5"]))
        assert [weights.preprocess.resize] == transforms.resize_size
        assert [weights.preprocess.crop] == transforms.crop_size
        assert weights.preprocess.interpolation == transforms.interpolation.value
        assert list(weights.preprocess.mean) == transforms.mean
        assert list(weights.preprocess.std) == transforms.std
        assert (weights.kind == "int8") == ("backend" in member.meta)


def test_the_labels_are_torchvisions() -> None:
    meta = pytest.importorskip("torchvision.models._meta")
    assert list(imagenet_labels()[0]) == meta._IMAGENET_CATEGORIES


@pytest.mark.parametrize("weights", CATALOG.values(), ids=CATALOG.keys())
def test_every_record_is_whole(weights: Weights) -> None:
    assert CATALOG[weights.name] is weights
    assert weights.license
    assert weights.source
    assert weights.size_mb > 1
    assert weights.spec().name == weights.network
    if weights.bundled:
        assert weights.file.endswith(".tflite")
    else:
        # The file name's digits are a witness of the field; nothing reads hashes from names, whose patterns differ.
        assert re.fullmatch(r"[0-9a-f]{8,64}", weights.sha256_prefix)
        assert weights.file.endswith(f"{weights.sha256_prefix}.pth")
        assert weights.sha256.startswith(weights.sha256_prefix) or not weights.sha256


def test_no_two_records_share_a_file() -> None:
    assert len({weights.file for weights in CATALOG.values()}) == len(CATALOG)


@pytest.mark.parametrize("name", [name for name, weights in CATALOG.items() if weights.bundled])
def test_a_bundled_file_has_the_size_that_is_stated(name: str) -> None:
    path = BUNDLED_FOLDER / CATALOG[name].file
    if not path.is_file():
        pytest.skip(f"{path.name} has not been built yet")
    assert path.stat().st_size / 2**20 == pytest.approx(CATALOG[name].size_mb, abs=0.3)


def test_int8_pickles_cannot_be_loaded_and_say_why() -> None:
    unloadable = [weights for weights in CATALOG.values() if weights.unloadable]
    assert {weights.name for weights in unloadable} == {
        weights.name for weights in CATALOG.values() if weights.kind == "int8" and not weights.bundled
    }
    assert find_weights("mobilenet_v2", "IMAGENET1K_QNNPACK_V1") in unloadable
    for weights in unloadable:
        with pytest.raises(WeightsError, match=f"{weights.name} cannot be loaded: .*float weights"):
            weights.check_loadable()
    for weights in set(CATALOG.values()) - set(unloadable):
        weights.check_loadable()


@pytest.mark.parametrize(
    ("name", "weights", "found"),
    [
        ("mobilenet_v2", None, "mobilenet_v2_x1_0.bundled"),
        ("mobilenet_v2_x1_0", None, "mobilenet_v2_x1_0.bundled"),
        ("shufflenet_v2_x1_0", None, "shufflenet_v2_x1_0.bundled"),
        ("shufflenet_v2_x0_5", None, "shufflenet_v2_x0_5.torchvision_v1"),
        ("shufflenet_v2_x2_0", None, "shufflenet_v2_x2_0.torchvision_v1"),
        ("mobilenet_v2_x1_0.torchvision_v2", None, "mobilenet_v2_x1_0.torchvision_v2"),
        ("MobileNet_V2_Weights.IMAGENET1K_V2", None, "mobilenet_v2_x1_0.torchvision_v2"),
        ("MobileNet_V2_Weights.DEFAULT", None, "mobilenet_v2_x1_0.torchvision_v2"),
        ("mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2_x1_0.torchvision_v1"),
        ("mobilenet_v2", "IMAGENET1K_V2", "mobilenet_v2_x1_0.torchvision_v2"),
        ("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V1", "mobilenet_v2_x1_0.torchvision_v1"),
        ("mobilenet_v2", "torchvision_v1", "mobilenet_v2_x1_0.torchvision_v1"),
        ("mobilenet_v2", "bundled", "mobilenet_v2_x1_0.bundled"),
        ("mobilenet_v2", "DEFAULT", "mobilenet_v2_x1_0.torchvision_v2"),
        ("shufflenet_v2_x1_0", "DEFAULT", "shufflenet_v2_x1_0.torchvision_v1"),
        ("shufflenet_v2_x1_5", "IMAGENET1K_V1", "shufflenet_v2_x1_5.torchvision_v1"),
    ],
)
def test_names_and_aliases(name: str, weights: str | None, found: str) -> None:
    assert find_weights(name, weights).name == found


def test_every_alias_leads_into_the_catalogue() -> None:
    for alias, name in ALIASES.items():
        assert find_weights(alias) is CATALOG[name]
        assert CATALOG[name].network == alias or alias == "mobilenet_v2"


def test_default_is_torchvisions_default() -> None:
    models = pytest.importorskip("torchvision.models")
    for network in ("mobilenet_v2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"):
        assert find_weights(network, "DEFAULT").url == models.get_model_weights(network).DEFAULT.url


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("mobilnet_v2", None, "'mobilnet_v2'; did you mean mobilenet_v2"),
        ("MobileNetV2", None, "did you mean mobilenet_v2"),
        ("shufflenet_v2_x1", None, "did you mean shufflenet_v2_x1"),
        ("zzz", None, r"no weights are called 'zzz'\. fusiform models lists"),
        ("", None, "no weights are called ''"),
        ("IMAGENET1K_V1", None, "no weights are called"),
        ("DEFAULT", None, "no weights are called"),
        ("mobilenet_v2", "IMAGENET1K_V3", "mobilenet_v2_x1_0 has no weights 'IMAGENET1K_V3'; it has .*IMAGENET1K_V2"),
        ("mobilenet_v2", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1", "mobilenet_v2_x1_0 has no weights"),
        ("mobilenet_v2", "", "has no weights ''"),
        (
            "mobilenet_v3",
            "IMAGENET1K_V1",
            "for a network 'mobilenet_v3'; did you mean mobilenet_v2",
        ),
    ],
)
def test_an_unknown_name_says_what_there_is(name: str, weights: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        find_weights(name, weights)
    assert "fusiform models lists" in str(error.value)


def test_imagenet_labels() -> None:
    names, wnids = imagenet_labels()
    assert (len(names), len(wnids)) == (1000, 1000)
    assert len(set(names)) == 1000
    assert list(wnids) == sorted(set(wnids))  # ImageNet's order is the ids' own
    assert (names[258], wnids[258]) == ("Samoyed", "n02111889")


@pytest.mark.slow
def test_imagenet_labels_against_the_hubs_list(shared_data: Path) -> None:
    lines = (shared_data / "imagenet_classes.tsv").read_text(encoding="utf-8").splitlines()[1:]
    names, wnids = imagenet_labels()
    differ = {}
    for line, name, wnid in zip(lines, names, wnids, strict=True):
        _, hub_wnid, hub_name = line.split("\t")
        assert wnid == hub_wnid
        if name != hub_name:
            differ[name] = hub_name
    # The hub's list has "crane" and "maillot" twice.
    assert differ == {"crane bird": "crane", "maillot tank suit": "maillot"}
