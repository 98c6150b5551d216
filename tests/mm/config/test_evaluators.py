"""Evaluators: their annotation files and the names of their metrics."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from mmengine.config import Config

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.evaluators import check_evaluators, check_named_metrics, names_of_metrics
from xcit_dense.mm.config.load import load_config

CONFIGS = Path(__file__).parents[3] / "configs"
MASK_RCNN = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
SEM_FPN = CONFIGS / "segmentation/sem_fpn_xcit_n12_p8_shapes.py"
TEST = ("test_dataloader",)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("side", ["evaluator", "data set"])
def test_an_evaluator_of_another_file_than_the_data_sets_is_refused(shapes, part, side):
    other = shapes / "annotations/instances_train2017.json"
    option = f"{part}_evaluator.ann_file" if side == "evaluator" else f"{part}_dataloader.dataset.ann_file"
    config = load_config(MASK_RCNN, {option: str(other)}, str(shapes))
    with raises_user_error(f"{part}_evaluator reads", f"the data set of {part}_dataloader reads", str(other)):
        check_evaluators(config, (f"{part}_dataloader",))
    other_part = "test" if part == "val" else "val"
    check_evaluators(config, (f"{other_part}_dataloader",))


def test_an_evaluator_of_a_missing_file_is_refused(shapes):
    config = load_config(MASK_RCNN, {"test_evaluator.ann_file": "gone.json"}, str(shapes))
    with raises_user_error("test_evaluator reads gone.json", "instances_val2017.json"):
        check_evaluators(config, TEST)


def test_a_copy_of_the_data_sets_file_is_accepted_and_a_changed_copy_is_not(shapes, tmp_path):
    copied = Path(shutil.copy(shapes / "annotations/instances_val2017.json", tmp_path / "copy.json"))
    config = load_config(MASK_RCNN, {"test_evaluator.ann_file": str(copied)}, str(shapes))
    check_evaluators(config, TEST)
    content = json.loads(copied.read_text())
    for part in ("annotations", "categories", "images"):
        copied.write_text(json.dumps({**content, part: content[part][1:]}))
        with raises_user_error("copy.json", "with other content"):
            check_evaluators(config, TEST)


def test_one_file_may_evaluate_several_data_sets_if_it_contains_all_of_them(shapes, tmp_path):
    content = json.loads((shapes / "annotations/instances_val2017.json").read_text())
    parts = []
    for number, image in enumerate(content["images"]):
        own = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({**content, "images": [image], "annotations": own}))
        parts.append({"type": "CocoDataset", "ann_file": str(path)})
    config = load_config(MASK_RCNN, data_root=str(shapes))
    config.test_dataloader.dataset = {"type": "ConcatDataset", "datasets": parts}
    check_evaluators(config, TEST)
    config.test_evaluator.ann_file = parts[1]["ann_file"]
    with raises_user_error("test_evaluator reads", "1.json"):
        check_evaluators(config, TEST)
    metric = config.test_evaluator
    config.test_evaluator = {"type": "MultiDatasetsEvaluator", "metrics": [metric], "dataset_prefixes": ["a"]}
    check_evaluators(config, TEST)
    config.test_evaluator = {**metric, "ann_file": str(shapes / "annotations/instances_val2017.json")}
    config.test_dataloader.dataset = {"type": "ConcatDataset", "datasets": parts[1:]}
    with raises_user_error("test_evaluator reads", "1.json"):
        check_evaluators(config, TEST)


def test_an_evaluator_of_all_images_for_a_data_set_of_some_images_is_a_warning(shapes, capsys):
    config = load_config(MASK_RCNN, {"val_dataloader.dataset.indices": 2}, str(shapes))
    check_evaluators(config, TEST)
    assert capsys.readouterr().err == ""
    check_evaluators(config, ("val_dataloader",))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: The data set of val_dataloader has indices")
    assert "instances_val2017.json as missed: the AP is too low" in line


def test_names_of_metrics_begin_with_the_main_metric_of_the_task():
    assert names_of_metrics(load_config(MASK_RCNN))[0] == "coco/bbox_mAP"
    masks_first = load_config(MASK_RCNN, {"val_evaluator.metric": ["segm", "bbox"], "val_evaluator.classwise": True})
    assert names_of_metrics(masks_first)[0] == "coco/bbox_mAP"
    assert "coco/circle_precision" in names_of_metrics(masks_first)
    assert names_of_metrics(load_config(MASK_RCNN, {"val_evaluator.metric": "segm"}))[0] == "coco/segm_mAP"
    assert names_of_metrics(load_config(MASK_RCNN, {"val_evaluator.metric": "proposal_fast"}))[0] == "coco/AR@100"
    assert names_of_metrics(load_config(SEM_FPN)) == ["mIoU", "mAcc", "aAcc"]


def test_names_of_unknown_metrics_are_unknown():
    evaluators = [{"type": "IoUMetric"}, {"type": "CityscapesMetric"}]
    assert names_of_metrics(Config({"default_scope": "mmseg", "val_evaluator": evaluators})) is None
    assert names_of_metrics(Config({"default_scope": "mmseg", "val_evaluator": None})) is None


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        (MASK_RCNN, {"default_hooks.checkpoint.save_best": "bbox_mAP"}, ["save_best", "Did you mean 'coco/bbox_mAP'"]),
        (MASK_RCNN, {"default_hooks.checkpoint.save_best": ["coco/bbox_mAP", "mIoU"]}, ["'mIoU'", "coco/segm_mAP"]),
        (SEM_FPN, {"default_hooks.checkpoint.save_best": "mDice"}, ["'mDice'", "mIoU, mAcc, aAcc"]),
        (SEM_FPN, {"default_hooks.stop": {"type": "EarlyStoppingHook", "monitor": "mIou"}}, ["stop.monitor", "'mIoU'"]),
        (
            SEM_FPN,
            {"param_scheduler.0": {"type": "ReduceOnPlateauLR", "monitor": "loss_val"}},
            ["param_scheduler.0.monitor", "'loss_val'"],
        ),
        (
            SEM_FPN,
            {"default_hooks.checkpoint.save_best": "mIoU", "val_dataloader": None},
            ["save_best", "no validation"],
        ),
    ],
)
def test_a_metric_that_no_validation_computes_is_refused_with_the_names_that_exist(path, options, words):
    with raises_user_error(*words):
        check_named_metrics(load_config(path, options))


@pytest.mark.parametrize("name", ["auto", "coco/bbox_mAP", "coco/segm_mAP_50"])
def test_a_metric_that_a_validation_computes_is_accepted(name):
    check_named_metrics(load_config(MASK_RCNN, {"default_hooks.checkpoint.save_best": name}))
