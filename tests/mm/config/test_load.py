"""Configs for a run: read, pointed at data, and checked before anything is written."""

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense import XCiT
from xcit_dense.errors import UserError
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.load import OptionAction, load_config, scale_rate

CONFIGS = Path(__file__).parents[3] / "configs"
S12 = CONFIGS / "detection/mask_rcnn_xcit_s12.py"
SHAPES = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
SEM_FPN = CONFIGS / "segmentation/sem_fpn_xcit_n12.py"
UPERNET = CONFIGS / "segmentation/upernet_xcit_n12.py"
SEGMENTATION_SHAPES = [CONFIGS / f"segmentation/{head}_xcit_n12_p8_shapes.py" for head in ("sem_fpn", "upernet")]
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
EVALUATORS = ("val_evaluator", "test_evaluator")


@pytest.fixture
def written(tmp_path):
    """Writes a config file made of assignments and returns its path."""

    def write(**values):
        path = tmp_path / "config.py"
        path.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()))
        return path

    return write


@pytest.fixture
def checked(shapes, tmp_path):
    """Makes a data set of shapes whose files may be changed, and checks the config that uses it."""
    root = tmp_path / "shapes"
    for part in ("annotations", "train2017", "val2017"):
        (root / part).mkdir(parents=True)
    for split in ("train", "val"):
        name = f"annotations/instances_{split}2017.json"
        (root / name).write_text((shapes / name).read_text())

    def check(change=lambda root: None, loaders=LOADERS, **options):
        change(root)
        config = load_config(SHAPES, options, str(root))
        check_config(config, loaders)

    return check


def annotations(content):
    """Replaces the annotation file of the held-out images."""
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda root: (root / "annotations/instances_val2017.json").write_text(text)


# --data-root


@pytest.mark.parametrize("end", ["", "/"])
def test_every_data_set_and_evaluator_gets_the_new_root(shared, end):
    root = shared / "data" / "coco128"
    config = load_config(S12, {"model.backbone.init_cfg": None}, data_root=f"{root}{end}")
    for loader, split in zip(LOADERS, ("train", "val", "val")):
        dataset = config[loader].dataset
        assert Path(dataset.data_root) == root
        assert (root / dataset.ann_file).samefile(root / f"annotations/instances_{split}2017.json")
        assert any((root / dataset.data_prefix.img).iterdir())
    for evaluator in EVALUATORS:
        assert Path(config[evaluator].ann_file) == root / "annotations/instances_val2017.json"
    check_config(config)


@pytest.mark.parametrize("path", [SEM_FPN, UPERNET], ids=lambda path: path.stem)
@pytest.mark.parametrize("end", ["", "/"])
def test_every_data_set_of_a_segmentation_config_gets_the_new_root(shared, path, end):
    root = shared / "data" / "ADEChallengeData2016"
    config = load_config(path, {"model.backbone.init_cfg": None}, data_root=f"{root}{end}")
    for loader, split in zip(LOADERS, ("training", "validation", "validation")):
        dataset = config[loader].dataset
        assert Path(dataset.data_root) == root
        assert (root / dataset.data_prefix.img_path).samefile(root / "images" / split)
        assert (root / dataset.data_prefix.seg_map_path).samefile(root / "annotations" / split)
    check_config(config)


@pytest.mark.parametrize("path", SEGMENTATION_SHAPES, ids=lambda path: path.stem)
def test_the_segmentation_shapes_configs_pass_and_refuse_another_root(path, shapes, tmp_path):
    check_config(load_config(path, data_root=str(shapes)))
    refused([f"No data directory at {tmp_path / 'gone'}"], check_config, load_config(path, None, f"{tmp_path}/gone"))
    refused([f"No directory at {tmp_path / 'images'}"], check_config, load_config(path, None, str(tmp_path)))


def test_a_relative_root_stays_relative(shapes, monkeypatch):
    monkeypatch.chdir(shapes.parent)
    config = load_config(SHAPES, data_root="shapes")
    assert config.val_dataloader.dataset.data_root == "shapes"
    assert config.val_evaluator.ann_file == "shapes/annotations/instances_val2017.json"
    check_config(config)


def test_without_a_root_the_configs_own_stays():
    config = load_config(S12)
    assert config.train_dataloader.dataset.data_root == "data/coco/"
    assert config.val_evaluator.ann_file == "data/coco/annotations/instances_val2017.json"


def test_options_win_over_the_root():
    options = {"val_dataloader.dataset.data_root": "mine/", "val_evaluator.ann_file": "mine/a.json"}
    config = load_config(S12, options, "theirs")
    assert config.train_dataloader.dataset.data_root == "theirs"
    assert config.val_dataloader.dataset.data_root == "mine/"
    assert config.val_evaluator.ann_file == "mine/a.json"
    assert config.test_evaluator.ann_file == "theirs/annotations/instances_val2017.json"


@pytest.mark.parametrize("old", ["data/coco", "data/coco/"])
def test_wrapped_and_joined_data_sets_get_the_new_root(written, old):
    leaf = {"type": "CocoDataset", "data_root": old, "ann_file": "a.json"}
    other = {"type": "CocoDataset", "data_root": "data/other", "data_prefix": {"img": "train/"}}
    joined = {"type": "ConcatDataset", "datasets": [leaf, {"type": "RepeatDataset", "times": 2, "dataset": other}]}
    evaluators = [
        {"type": "CocoMetric", "ann_file": "data/coco/a.json"},
        {"type": "DumpDetResults", "out_file_path": "data/coco/out.pkl"},
        {"type": "CocoMetric", "ann_file": "data/other/b.json"},
        {"type": "CocoMetric", "ann_file": "data/coco_minival/a.json"},
    ]
    path = written(
        train_dataloader={"dataset": {"type": "RepeatDataset", "times": 3, "dataset": joined}},
        val_dataloader={"dataset": leaf},
        test_dataloader=[{"dataset": leaf}, {"dataset": other}],
        val_evaluator=evaluators,
    )
    config = load_config(path, data_root="/new")
    first, second = config.train_dataloader.dataset.dataset.datasets
    roots = [first, second.dataset, config.val_dataloader.dataset, *(each.dataset for each in config.test_dataloader)]
    assert [dataset.data_root for dataset in roots] == ["/new"] * 5
    assert [evaluator.get("ann_file") for evaluator in config.val_evaluator] == [
        "/new/a.json",
        None,
        "/new/b.json",
        "data/coco_minival/a.json",
    ]
    assert config.val_evaluator[1].out_file_path == "data/coco/out.pkl"


def test_a_config_without_data_loaders_takes_a_root(written):
    assert load_config(written(default_scope="mmdet"), data_root="/new").default_scope == "mmdet"


def test_options_reach_into_lists():
    config = load_config(SHAPES, {"param_scheduler.0.end": 7, "model.backbone.drop_path_rate": 0.25})
    assert config.param_scheduler[0].end == 7
    assert config.model.backbone.drop_path_rate == 0.25
    assert config.model.backbone.type == "XCiT"


# Checks


@pytest.mark.parametrize("kind", ["LoadAnnotations", "mmseg.LoadAnnotations"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_pipeline_that_ignores_zero_unlike_its_data_set_is_refused(shapes, kind, part):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    config = load_config(SEGMENTATION_SHAPES[0], data_root=str(shapes))
    steps = config[f"{part}_dataloader"].dataset.pipeline
    (step,) = (step for step in steps if step.type == "LoadAnnotations")
    step.update(type=kind, reduce_zero_label=False)
    refused([kind, "reduce_zero_label=False", "data set has reduce_zero_label=True"], check_config, config)
    config[f"{part}_dataloader"].dataset.reduce_zero_label = False
    check_config(config)


def test_the_data_is_checked_before_the_weights(tmp_path):
    start = {"type": "Pretrained", "checkpoint": str(tmp_path / "gone.pth")}
    config = load_config(SHAPES, {"model.backbone.init_cfg": start}, str(tmp_path / "no_data"))
    refused([f"No data directory at {tmp_path / 'no_data'}"], check_config, config)


def test_the_shapes_config_passes(shapes):
    check_config(load_config(SHAPES, data_root=str(shapes)))


def test_only_the_loaders_in_use_are_checked(checked):
    def remove(root):
        (root / "annotations/instances_train2017.json").unlink()

    checked(remove, loaders=("test_dataloader",))
    with raises_user_error("instances_train2017.json"):
        checked()


def test_an_absent_config_is_refused():
    with raises_user_error("No config at gone.py", "No shipped config is called 'gone'"):
        load_config("gone.py")
    with raises_user_error("Did you mean 'mask_rcnn_xcit_s12'"):
        load_config("mask_rcnn_xcit_s12x")


@pytest.mark.parametrize("name", ["mask_rcnn_xcit_s12", "mask_rcnn_xcit_s12.py", "detection/mask_rcnn_xcit_s12"])
def test_a_shipped_config_is_read_by_its_name(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).model.backbone.variant == "small_12_p16"


def refused(words, check, *arguments, **options):
    """The check fails with one sentence that contains the words and what to write."""
    with pytest.raises(UserError) as caught:
        check(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("notes.txt", "", ("Only py",)),
        ("config.py", "_base_ = 'gone.py'", ("gone.py",)),
        ("config.py", "lr = rate", ("NameError", "rate")),
        ("config.py", "lr = (", ("config.py",)),
        ("config.py", "custom_imports = dict(imports=['gone_module'])", ("gone_module", "install")),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with raises_user_error(name, "cannot be read", *words):
        load_config(tmp_path / name)


def test_a_damaged_checkpoint_in_the_place_of_a_config_is_refused(tmp_path):
    (tmp_path / "epoch_12.pth").write_text("")
    with raises_user_error(tmp_path / "epoch_12.pth", "is not a checkpoint"):
        load_config(tmp_path / "epoch_12.pth")


@pytest.mark.parametrize("option", ["param_scheduler.9.end", "model.type.x", "train_dataloader.batch_size.x"])
def test_an_option_whose_parent_does_not_exist_is_refused(option):
    with raises_user_error("--cfg-options", option, "xcit_dense config"):
        load_config(SHAPES, {option: 3})


def test_an_option_within_a_misspelt_part_is_refused_and_a_new_part_is_made():
    with raises_user_error("model.bakbone.with_cp", "'backbone'"):
        load_config(SHAPES, {"model.bakbone.with_cp": True})
    assert load_config(SHAPES, {"strategy.type": "XCiTFSDPStrategy"}).strategy.type == "XCiTFSDPStrategy"


def test_a_work_directory_in_place_of_a_config_is_refused_with_the_config_in_it(tmp_path):
    (tmp_path / "trained.py").touch()
    with raises_user_error("No config", tmp_path / "trained.py"):
        load_config(tmp_path)


def test_an_option_without_a_value_is_refused():
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionAction)
    assert parser.parse_args(["--cfg-options", "a.b=1", "c=x"]).cfg_options == {"a.b": 1, "c": "x"}
    with raises_user_error("--cfg-options", "weights.pth", "KEY=VALUE"):
        parser.parse_args(["--cfg-options", "a.b=1", "weights.pth"])


def test_an_absent_data_directory_is_refused(tmp_path):
    config = load_config(SHAPES, data_root=str(tmp_path / "gone"))
    refused([f"No data directory at {tmp_path / 'gone'}", "--data-root"], check_config, config)


def test_an_absent_image_directory_is_refused(checked, tmp_path):
    words = [f"No directory at {tmp_path / 'shapes' / 'val2017'}", "'img'"]
    refused(words, checked, lambda root: (root / "val2017").rmdir())


def test_an_absent_annotation_file_is_refused(checked, tmp_path):
    path = tmp_path / "shapes" / "annotations" / "instances_val2017.json"
    refused([f"No annotation file at {path}", "--data-root"], checked, lambda root: path.unlink())


@pytest.mark.parametrize(
    "content",
    ["", "{}", {"images": []}, {"categories": []}, {"categories": [{"id": 1}]}, {"categories": ["circle"]}],
    ids=["empty file", "empty object", "no key", "empty list", "no names", "not entries"],
)
def test_an_annotation_file_without_categories_is_refused(checked, content):
    refused(["instances_val2017.json has no categories", "'categories'"], checked, annotations(content))


def test_categories_foreign_to_the_classes_are_refused_by_name(checked):
    content = {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    refused(["instances_val2017.json", "cat, dog", "circle, square", "metainfo"], checked, annotations(content))


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2, 3]], ids=["one missing", "another order"])
def test_categories_that_mmdetection_would_number_differently_are_refused(checked, order):
    names = [("circle", "square", "triangle", "star")[index] for index in order]
    content = {"categories": [{"id": number, "name": name} for number, name in enumerate(names)]}
    refused(
        [", ".join(names), "circle, square, triangle, star", "in the order of the file"], checked, annotations(content)
    )


def test_categories_beyond_the_classes_are_accepted(checked):
    names = ("cat", "circle", "square", "dog", "triangle", "star")
    checked(annotations({"categories": [{"id": number, "name": name} for number, name in enumerate(names)]}))


@pytest.mark.parametrize("neck", [[{"type": "FPN", "in_channels": [64] * 4}, {"type": "BFP"}]], ids=["FPN and BFP"])
def test_the_first_of_several_necks_is_held_to_the_width(checked, neck):
    refused(["neck.in_channels is [64, 64, 64, 64]", "[128, 128, 128, 128]"], checked, **{"model.neck": neck})


def test_a_fault_in_the_backbone_is_found_before_the_run(checked):
    refused(["out_indices=(1, 2)"], checked, **{"model.backbone.out_indices": [1, 2]})


def test_weights_that_do_not_fit_are_found_before_the_run(checked, tmp_path):
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / "weights.pth")
    start = {"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pth")}
    refused(["no XCiT weights among the 1 entries"], checked, **{"model.backbone.init_cfg": start})


def test_weights_that_fit_are_compared_and_not_loaded(checked, tmp_path, recwarn):
    weights = XCiT("nano_12_p8").state_dict()
    torch.save({"model": {k: v for k, v in weights.items() if not k.startswith("fpn")}}, tmp_path / "weights.pth")
    checked(**{"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pth")}})
    assert not [warning for warning in recwarn if "meta parameter" in str(warning.message)]


@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_one_process_of_a_machine_checks_the_weights(checked, tmp_path, monkeypatch, rank):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    start = {"type": "Pretrained", "checkpoint": str(tmp_path / "gone.pth")}
    if rank == "1":
        checked(**{"model.backbone.init_cfg": start})
    else:
        refused(["No checkpoint at", "gone.pth"], checked, **{"model.backbone.init_cfg": start})


@pytest.mark.parametrize("rest", ['{"id": 1,, "name": "circle"}]}', '{"id": 1, "name": "cir'], ids=["wrong", "cut"])
def test_broken_annotations_are_refused(checked, rest):
    content = '{"images": [], "categories": [' + rest
    refused(["instances_val2017.json is not valid JSON"], checked, annotations(content))


def test_an_unregistered_backbone_is_refused(checked):
    refused(["'XCit'", "'XCiT'", "custom_imports"], checked, **{"model.backbone.type": "XCit"})


@pytest.mark.parametrize("scope", [None, "mmpretrain"])
def test_an_unknown_default_scope_is_refused(checked, scope):
    refused([repr(scope), "default_scope = 'mmdet'"], checked, default_scope=scope)


def test_a_config_without_a_default_scope_is_refused(written):
    refused(["default_scope", "'mmdet' or 'mmseg'"], check_config, load_config(written(model={})))


def test_a_config_without_a_model_is_refused(written):
    refused(["no model", "configs/_base_"], check_config, load_config(written(default_scope="mmdet")))


def test_an_unknown_variant_is_refused_with_the_nearest(checked):
    refused(["'nano_12_p9'", "nano_12_p8"], checked, **{"model.backbone.variant": "nano_12_p9"})


def test_a_neck_of_another_width_is_refused(checked):
    words = ["model.neck.in_channels is [128, 128, 128, 128]", "[192, 192, 192, 192]"]
    refused(words, checked, **{"model.backbone.variant": "tiny_12_p8"})


@pytest.fixture
def widths(written):
    """Checks the widths of a segmentor with XCiT-N12, 128 channels wide, without data."""

    def check(**parts):
        model = {"type": "EncoderDecoder", "backbone": {"type": "XCiT", "variant": "nano_12_p16"}, **parts}
        imports = {"imports": ["xcit_dense.mm"]}
        check_config(load_config(written(default_scope="mmseg", custom_imports=imports, model=model)))

    return check


@pytest.mark.parametrize("part", ["decode_head", "auxiliary_head"])
@pytest.mark.parametrize(("given", "needed"), [(192, 128), ([128, 128, 128, 192], [128] * 4), ([64], [128])])
def test_a_head_of_another_width_than_the_levels_that_it_reads_is_refused(widths, part, given, needed):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    right = {"decode_head": {"in_channels": [128] * 4}, "auxiliary_head": {"in_channels": 128}}
    widths(**right)
    words = [f"model.{part}.in_channels is {given}", "128 channels", f"model.{part}.in_channels={needed}"]
    refused(words, widths, **{**right, part: {"in_channels": given}})


def test_each_of_several_auxiliary_heads_is_held_to_the_width(widths):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    right = {"decode_head": {"in_channels": [128] * 4}}
    widths(**right, auxiliary_head=[{"in_channels": 128}, {"in_channels": 128}])
    for heads in ([192, 128], [128, 192]):
        parts = {**right, "auxiliary_head": [{"in_channels": width} for width in heads]}
        refused(["auxiliary_head", "in_channels is 192", "128 channels"], widths, **parts)


def test_heads_behind_a_neck_may_have_any_width(widths):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    neck = {"type": "FPN", "in_channels": [128] * 4, "out_channels": 64}
    widths(neck=neck, decode_head={"in_channels": [64] * 4}, auxiliary_head={"in_channels": 64})
    wrong = {**neck, "in_channels": [64] * 4}
    refused(["model.neck.in_channels is [64, 64, 64, 64]"], widths, neck=wrong, decode_head={"in_channels": [64] * 4})


@pytest.mark.parametrize("head", ["decode_head", "auxiliary_head"])
def test_the_upernet_config_with_another_variant_is_refused_for_each_head(shared, head):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    options = {"model.backbone.init_cfg": None, "model.backbone.variant": "tiny_12_p16"}
    if head == "auxiliary_head":
        options["model.decode_head.in_channels"] = [192] * 4
    config = load_config(UPERNET, options, str(shared / "data" / "ADEChallengeData2016"))
    refused([f"model.{head}.in_channels is", "192 channels"], check_config, config)


def test_a_backbone_of_the_libraries_passes(checked):
    checked(**{"model.backbone": {"_delete_": True, "type": "ResNet", "depth": 50}})


def test_a_backbone_inside_another_model_passes(checked):
    checked(**{"model": {"_delete_": True, "type": "SoftTeacher", "detector": {"type": "MaskRCNN"}}})


@pytest.mark.parametrize("batch", [None, 1, 6])
def test_the_rate_follows_the_batch(batch):
    config = load_config(S12)
    scale_rate(config, batch)
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 16}
    assert config.train_dataloader.batch_size == (batch or 2)


@pytest.mark.parametrize(
    ("path", "batch", "options", "words"),
    [
        (S12, 0, {}, ["--batch 0"]),
        (UPERNET, 1, {}, ["--batch 1", "UPerHead", "--batch 2"]),
        (S12, 4, {"auto_scale_lr": {"_delete_": True, "enable": False}}, ["base_batch_size"]),
    ],
)
def test_a_batch_that_cannot_train_is_refused(path, batch, options, words):
    refused(words, scale_rate, load_config(path, options), batch)


def test_one_image_a_process_is_accepted_with_several_processes_or_without_pooling():
    scale_rate(load_config(SEM_FPN), 1)
    scale_rate(load_config(UPERNET, {"launcher": "pytorch"}), 1)
