"""The table of the published weights: names, addresses and figures."""

from collections import Counter
from pathlib import Path

import pytest
import timm

from tests.helpers.models import raises_user_error
from xcit_dense import VARIANTS, list_weights
from xcit_dense.weights import zoo

ROOT = Path(__file__).parents[2]


def test_names_addresses_and_figures_are_the_published_ones(reference):
    of = reference("zoo")
    families = {
        "": ("imagenet", {"top1": "top-1"}),
        "dino/": ("dino", {"linear_top1": "linear top-1"}),
        "coco/": ("coco_mask_rcnn", {"box_ap": "box AP", "mask_ap": "mask AP"}),
        "ade20k/sem_fpn/": ("ade20k_sem_fpn", {"miou": "mIoU"}),
        "ade20k/upernet/": ("ade20k_upernet", {"miou": "mIoU"}),
    }
    expected = {
        prefix + name: (entry["url"], {label: entry[key] for key, label in labels.items()}, entry.get("schedule"))
        for prefix, (family, labels) in families.items()
        for name, entry in of[family].items()
    }
    assert len(expected) == 70
    assert {name: (w.url, w.metrics, w.schedule) for name, w in of_class("XCiT").items()} == expected


def of_class(backbone):
    return {name: weights for name, weights in zoo.ZOO.items() if weights.backbone == backbone}


def figures(entry, **names):
    """The figures of an entry of the reference, by the names that the zoo gives them."""
    return {label: entry[key] for key, label in names.items() if key in entry}


def test_the_weights_of_beit_and_cait_are_the_published_ones(reference):
    beit, cait = reference("seeds/beit_ade20k"), reference("seeds/cait_weights")
    expected = {
        name: (entry["url"], figures(entry, top1="top-1", top5="top-5"))
        for name, entry in beit["imagenet_weights"].items()
    }
    for entry in cait["weights"]:
        expected[entry["arch"]] = entry["url"], figures(entry, top1="top-1")
    for entry in beit["segmentation_weights"]:
        version, size = entry["name"].lower().split("-")
        data = "_1k" if entry["init"].endswith("pt1k") else ""
        expected[f"ade20k/upernet/{version}_{size}{data}"] = (
            entry["url"],
            figures(entry, miou="mIoU", miou_ms_flip="mIoU of six sizes"),
        )
    assert len(expected) == 20 + 10 + 6
    assert {name: (w.url, w.metrics) for name, w in of_class("TokenPyramid").items()} == expected


def test_the_weights_of_coat_are_the_published_ones(reference):
    published = reference("seeds/coat_coco")
    expected = {}
    for entry in published["imagenet"]:
        name = entry["arch"] if entry["input_size"] == 224 else f"{entry['arch']}_{entry['input_size']}"
        expected[name] = entry["url"], figures(entry, top1="top-1", top5="top-5"), None, entry["sha256_prefix"]
    for entry in published["detection"].values():
        weights = entry["weights"]
        name = f"coco/{entry['head']}/{entry['arch']}" + ("_1x" if entry["schedule"] == "1x" else "")
        metrics = figures(weights, box_ap="box AP", mask_ap="mask AP")
        expected[name] = weights["url"], metrics, entry["schedule"], weights["sha256_prefix"]
    assert len(expected) == 8 + 12
    assert {name: (w.url, w.metrics, w.schedule, w.sha256) for name, w in of_class("CoaT").items()} == expected


def test_each_entry_knows_its_name_and_variant():
    for name, weights in zoo.ZOO.items():
        assert weights.name == name
        assert (weights.variant in VARIANTS) == (weights.backbone == "XCiT")
        last = name.rpartition("/")[2]
        assert weights.variant in last or weights.variant.removesuffix("_patch16_224") in last


def test_a_variant_of_a_token_pyramid_is_a_name_of_timm():
    variants = {weights.variant for weights in of_class("TokenPyramid").values()}
    assert len(variants) == 17
    assert variants <= set(timm.list_models())


def test_the_architecture_of_weights_is_known():
    count = Counter(weights.architecture for weights in zoo.ZOO.values())
    assert count == {"XCiT": 70, "BEiT": 14, "BEiTv2": 12, "CaiT": 10, "CoaT": 20}


def test_every_config_has_the_backbone_of_the_weights_that_name_it():
    pytest.importorskip("mmengine", reason="MMEngine is not installed")
    from mmengine.config import Config

    for weights in zoo.ZOO.values():
        if weights.config:
            backbone = Config.fromfile(ROOT / weights.config).model.backbone
            assert (backbone.type, backbone.variant) == (weights.backbone, weights.variant), weights.name


def test_no_two_weights_have_the_same_file_name():
    assert len({weights.url.rsplit("/", 1)[-1] for weights in zoo.ZOO.values()}) == len(zoo.ZOO)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("small_12_p16_384_dist", None),
        ("dino/small_12_p8", None),
        ("coco/small_12_p16", "configs/detection/mask_rcnn_xcit_s12.py"),
        ("coco/small_12_p8", "configs/detection/mask_rcnn_xcit_s12_p8.py"),
        ("ade20k/sem_fpn/tiny_12_p8", "configs/segmentation/sem_fpn_xcit_t12_p8.py"),
        ("ade20k/upernet/medium_24_p16", "configs/segmentation/upernet_xcit_m24.py"),
        ("ade20k/upernet/beit_large", "configs/segmentation/upernet_beit_l.py"),
        ("ade20k/upernet/beitv2_base_1k", "configs/segmentation/upernet_beitv2_b_1k.py"),
        ("coco/mask_rcnn/coat_small", "configs/detection/mask_rcnn_coat_small.py"),
        ("coco/cascade_mask_rcnn/coat_lite_small_1x", "configs/detection/cascade_mask_rcnn_coat_lite_small_1x.py"),
        ("cait_s24_384", None),
    ],
)
def test_the_weights_of_a_detector_or_segmentor_name_its_config(name, config):
    assert zoo.ZOO[name].config == config


def test_every_named_config_exists():
    configs = {weights.config for weights in zoo.ZOO.values()} - {None}
    assert len(configs) == 24 + 6 + 12
    assert not [config for config in configs if not (ROOT / config).is_file()]


# Listing


def test_all_names_are_listed():
    assert list_weights() == list(zoo.ZOO)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"pattern": "*_384_dist"}, 14),
        ({"pattern": "coco/*"}, 8 + 12),
        ({"pattern": "COCO/*"}, 0),
        ({"pattern": "coco"}, 0),
        ({"variant": "small_12_p16"}, 7),
        ({"variant": "xcit_nano_12_p8"}, 3),
        ({"variant": "beit_base_patch16_224"}, 5 + 1),
        ({"variant": "coat_small"}, 1 + 4),
        ({"backbone": "XCiT", "task": "classification"}, 42),
        ({"task": "classification"}, 42 + 15 + 10 + 8),
        ({"task": "self-supervision"}, 4 + 5),
        ({"task": "detection"}, 8 + 12),
        ({"task": "segmentation"}, 16 + 6),
        ({"backbone": "TokenPyramid"}, 36),
        ({"pattern": "*upernet*", "variant": "medium_24_p8", "task": "segmentation"}, 1),
    ],
    ids=str,
)
def test_names_are_listed_by_pattern_variant_and_task(options, number):
    names = list_weights(**options)
    assert len(names) == number
    assert all(zoo.ZOO[name].task == options.get("task", zoo.ZOO[name].task) for name in names)
    if "variant" in options:
        assert {zoo.ZOO[name].variant for name in names} == {options["variant"].removeprefix("xcit_")}


def test_an_unknown_variant_task_or_backbone_is_refused():
    with raises_user_error("No backbone is called 'Coat'", "XCiT, TokenPyramid, CoaT"):
        list_weights(backbone="Coat")
    with raises_user_error("'small_12'", "small_12_p16"):
        list_weights(variant="small_12")
    with raises_user_error("'segment'", "segmentation", "classification"):
        list_weights(task="segment")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["xcit://coco/small_12_p16"], ["coco/small_12_p16"]),
        (["UPerNet", "medium", "p8"], ["ade20k/upernet/medium_24_p8"]),
        (["dino", "small_12"], ["dino/small_12_p16", "dino/small_12_p8"]),
        (["small", "24", "p16", "mask"], ["coco/small_24_p16"]),
        (["384_dist", "large*", "p8"], ["large_24_p8_384_dist"]),
        (["ADE20K", "tiny", "p8"], ["ade20k/sem_fpn/tiny_12_p8", "ade20k/upernet/tiny_12_p8"]),
        (["upernet", "BEiT", "large"], ["ade20k/upernet/beit_large"]),
        (["cascade", "coat_small", "3x"], ["coco/cascade_mask_rcnn/coat_small"]),
        (["cait", "s24"], ["cait_s24_224", "cait_s24_384"]),
    ],
)
def test_weights_are_found_by_complete_words(words, names):
    assert [weights.name for weights in zoo.search_weights(words)] == names


def test_without_words_all_weights_are_found():
    assert zoo.search_weights([]) == list(zoo.ZOO.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [(["p8", "smal"], ["'smal'", "'small'"]), (["2"], ["'2'"]), (["coco", "dino"], ["all of coco, dino"])],
)
def test_words_without_a_match_are_refused(words, said):
    with raises_user_error(*said):
        zoo.search_weights(words)
