"""Test-time augmentation of detectors: objects of several views are merged, with their masks."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.inference.tta import InstanceTTAModel

SHAPES = Path(__file__).parents[3] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
HEIGHT, WIDTH = 40, 60


class Unused(nn.Module):
    """A model whose predictions the test makes."""

    def test_step(self, data):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def model():
    return InstanceTTAModel(module=Unused(), iou_threshold=0.5, max_per_img=3)


def sample(objects, flip=None, masks=True, size=(HEIGHT, WIDTH)):
    """A view with objects: each (box, score, label). The mask of an object fills its box."""
    boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float).reshape(-1, 4)
    found = InstanceData(
        bboxes=boxes,
        scores=torch.tensor([score for _, score, _ in objects]),
        labels=torch.tensor([label for _, _, label in objects], dtype=torch.long),
    )
    if masks:
        found.masks = torch.stack([filled(box, size) for box in boxes]) if len(boxes) else torch.zeros(0, *size) > 0
    view = DetDataSample(metainfo={"ori_shape": size, "flip": flip is not None, "flip_direction": flip})
    view.pred_instances = found
    return view


def filled(box, size=(HEIGHT, WIDTH)):
    mask = torch.zeros(size, dtype=torch.bool)
    x1, y1, x2, y2 = box.int().tolist()
    mask[y1:y2, x1:x2] = True
    return mask


def mirrored(box, flip):
    x1, y1, x2, y2 = box
    if flip in ("horizontal", "diagonal"):
        x1, x2 = WIDTH - x2, WIDTH - x1
    if flip in ("vertical", "diagonal"):
        y1, y2 = HEIGHT - y2, HEIGHT - y1
    return [x1, y1, x2, y2]


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "diagonal"])
def test_the_objects_of_a_flipped_view_are_flipped_back(model, flip):
    box = [5, 10, 25, 30]
    (merged,) = model.merge_preds([[sample([]), sample([(mirrored(box, flip), 0.9, 1)], flip)]])
    found = merged.pred_instances
    assert found.bboxes.tolist() == [box]
    assert torch.equal(found.masks, filled(torch.tensor(box))[None])
    assert (found.scores.tolist(), found.labels.tolist()) == (pytest.approx([0.9]), [1])


def test_an_object_that_two_views_find_is_kept_once_with_the_higher_score(model):
    box, shifted = [5, 10, 25, 30], mirrored([6, 10, 26, 30], "horizontal")
    views = [sample([(box, 0.6, 0)]), sample([(shifted, 0.9, 0)], "horizontal")]
    found = model.merge_preds([views])[0].pred_instances
    assert found.bboxes.tolist() == [[6, 10, 26, 30]]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_objects_of_other_classes_and_other_places_are_all_kept_up_to_the_maximum(model):
    box = [5, 10, 25, 30]
    objects = [(box, 0.9, 0), (box, 0.8, 1), ([40, 10, 60, 30], 0.7, 0), ([0, 0, 4, 4], 0.6, 0)]
    found = model.merge_preds([[sample(objects)]])[0].pred_instances
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert found.labels.tolist() == [0, 1, 0]
    assert [int(mask.sum()) for mask in found.masks] == [400, 400, 400]


def test_a_pixel_of_a_mask_has_half_of_the_votes_by_score(model):
    boxes, scores = ([0, 0, 20, 20], [0, 0, 22, 20], [0, 0, 24, 20]), (0.9, 0.5, 0.3)
    views = [sample([(box, score, 0)]) for box, score in zip(boxes, scores, strict=True)]
    (mask,) = model.merge_preds([views])[0].pred_instances.masks
    columns = mask[0].nonzero().ravel().tolist()
    # Columns 20 and 21 have 0.8 of 1.7 votes, and columns 22 and 23 have 0.3.
    assert columns == list(range(20))
    views = [sample([(box, 0.5, 0)]) for box in boxes]
    (mask,) = model.merge_preds([views])[0].pred_instances.masks
    assert mask[0].nonzero().ravel().tolist() == list(range(22))
    assert mask.dtype is torch.bool


def test_an_object_does_not_vote_for_the_mask_of_another_class(model):
    objects = [([0, 0, 20, 20], 0.5, 0), ([0, 0, 30, 20], 0.9, 1)]
    found = model.merge_preds([[sample(objects)]])[0].pred_instances
    assert sorted(int(mask.sum()) for mask in found.masks) == [400, 600]


def test_detectors_without_masks_and_images_without_objects_are_merged(model):
    views = [sample([([0, 0, 20, 20], 0.5, 0)], masks=False), sample([], "horizontal", masks=False)]
    found = model.merge_preds([views])[0].pred_instances
    assert found.bboxes.tolist() == [[0, 0, 20, 20]]
    assert "masks" not in found
    empty = model.merge_preds([[sample([]), sample([], "horizontal")]])[0].pred_instances
    assert len(empty) == 0
    assert empty.masks.shape == (0, HEIGHT, WIDTH)


def test_predictions_that_are_not_objects_are_refused(model):
    view = sample([])
    view.pred_panoptic_seg = PixelData(sem_seg=torch.zeros(1, HEIGHT, WIDTH))
    with raises_user_error("pred_panoptic_seg", "test without --tta"):
        model.merge_preds([[view]])


def test_a_pipeline_that_does_not_pass_on_the_flip_is_refused(model):
    view = sample([])
    del view.flip
    with raises_user_error("which views are flipped", "meta_keys"):
        model.test_step({"inputs": [[None]], "data_samples": [[view]]})


def test_a_mirrored_image_gives_mirrored_views_and_the_labels_stay(shapes):
    """The views of the pipeline are images of three sizes, and merging their ground truth gives the ground truth."""
    config = load_config(SHAPES, data_root=str(shapes))
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    data = DATASETS.build(config.test_dataloader.dataset)[0]
    views = data["data_samples"]
    assert [view.flip for view in views] == [False, True] * 3
    assert [image.shape[-1] for image in data["inputs"]] == [96, 96, 128, 128, 160, 160]
    for plain, flipped in zip(data["inputs"][::2], data["inputs"][1::2]):
        assert torch.equal(plain, flipped.flip(2))
    truth = views[0].gt_instances
    assert all(torch.equal(view.gt_instances.bboxes.tensor, truth.bboxes.tensor) for view in views)
    for view in views:
        mask = torch.from_numpy(truth.masks.to_ndarray()).bool()
        boxes = truth.bboxes.tensor
        if view.flip:
            mask = mask.flip(-1)
            width = view.ori_shape[1]
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
        view.pred_instances = InstanceData(
            bboxes=boxes, scores=torch.full([len(boxes)], 0.9), labels=truth.labels, masks=mask
        )
    found = InstanceTTAModel(module=Unused(), iou_threshold=0.7).merge_preds([views])[0].pred_instances
    order, expected = found.bboxes[:, 0].argsort(), truth.bboxes.tensor[:, 0].argsort()
    assert torch.allclose(found.bboxes[order], truth.bboxes.tensor[expected])
    assert np.array_equal(found.masks[order].numpy(), truth.masks.to_ndarray()[expected].astype(bool))


def test_flipped_views_are_predicted_as_plain_images_and_flipped_back():
    """The test's model finds the brightest pixel, so both views must agree on the place."""

    class Finder(Unused):
        def test_step(self, data):
            assert not any(each.flip for each in data["data_samples"])
            for image, each in zip(data["inputs"], data["data_samples"], strict=True):
                y, x = divmod(int(image[0].argmax()), WIDTH)
                each.pred_instances = sample([([x, y, x + 1, y + 1], 0.9, 0)]).pred_instances
            return data["data_samples"]

    image = torch.zeros(3, HEIGHT, WIDTH)
    image[:, 7, 11] = 1
    views = [[sample([])], [sample([], "horizontal")]]
    model = InstanceTTAModel(module=Finder())
    (merged,) = model.test_step({"inputs": [[image], [image.flip(2)]], "data_samples": views})
    assert merged.pred_instances.bboxes.tolist() == [[11, 7, 12, 8]]
    assert merged.pred_instances.masks[0].nonzero().tolist() == [[7, 11]]


@pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn", "dino"])
def test_a_model_with_tta_predicts_objects_in_the_coordinates_of_the_image(head, shapes):
    config = load_config(SHAPES.with_stem(f"{head}_xcit_n12_p8_shapes"), data_root=str(shapes))
    if "roi_head" in config.model:
        config.model.test_cfg.rcnn.score_thr = 0.0
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    torch.manual_seed(0)
    model = MODELS.build({**config.tta_model, "module": config.model}).eval()
    model.module.init_weights()
    dataset = DATASETS.build(config.test_dataloader.dataset)
    with torch.no_grad():
        (merged,) = model.test_step(pseudo_collate([dataset[0]]))
    found = merged.pred_instances
    assert 0 < len(found) <= 100
    if head != "dino":
        assert merged.ori_shape == found.masks.shape[1:]
    assert found.bboxes.min() >= 0
    assert found.bboxes.max() <= max(merged.ori_shape)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
