"""The table of the published weights: names, addresses and figures."""

from pathlib import Path

import pytest

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
    assert {name: (w.url, w.metrics, w.schedule) for name, w in zoo.ZOO.items()} == expected


def test_each_entry_knows_its_name_and_variant():
    for name, weights in zoo.ZOO.items():
        assert weights.name == name
        assert weights.variant in VARIANTS
        assert weights.variant in name


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
    ],
)
def test_the_weights_of_a_detector_or_segmentor_name_its_config(name, config):
    assert zoo.ZOO[name].config == config


def test_every_named_config_exists():
    configs = {weights.config for weights in zoo.ZOO.values()} - {None}
    assert len(configs) == 24
    assert not [config for config in configs if not (ROOT / config).is_file()]


# Listing


def test_all_names_are_listed():
    assert list_weights() == list(zoo.ZOO)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"pattern": "*_384_dist"}, 14),
        ({"pattern": "coco/*"}, 8),
        ({"pattern": "COCO/*"}, 0),
        ({"pattern": "coco"}, 0),
        ({"variant": "small_12_p16"}, 7),
        ({"variant": "xcit_nano_12_p8"}, 3),
        ({"task": "classification"}, 42),
        ({"task": "self-supervision"}, 4),
        ({"task": "detection"}, 8),
        ({"task": "segmentation"}, 16),
        ({"pattern": "*upernet*", "variant": "medium_24_p8", "task": "segmentation"}, 1),
    ],
    ids=str,
)
def test_names_are_listed_by_pattern_variant_and_task(options, number):
    names = list_weights(**options)
    assert len(names) == number
    assert all(zoo.ZOO[name].task == options.get("task", zoo.ZOO[name].task) for name in names)
    assert all(zoo.ZOO[name].variant in options.get("variant", name) for name in names)


def test_an_unknown_variant_or_task_is_refused():
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
