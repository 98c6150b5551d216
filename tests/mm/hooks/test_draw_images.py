"""Drawings of a test: the ground truth next to the prediction, under the path of the image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.registry import HOOKS, DefaultScope
from mmengine.structures import InstanceData, PixelData

import xcit_dense.mm  # noqa: F401

SIZE = 600  # pixels a side, so large that drawings are not enlarged
META = {"classes": ("cat", "dog"), "palette": [(255, 0, 0), (0, 0, 255)]}


class Dataset:
    """Grey images with the given file names."""

    metainfo = META

    def __init__(self, root, names):
        self.paths = [root / "images" / name for name in names]
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIZE, SIZE), (128, 128, 128)).save(path)

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        """The information about an image that data sets of the libraries return."""
        return {"img_path": str(self.paths[index])}


@pytest.fixture
def draw(tmp_path):
    """Draws samples of some images. Returns the drawn files by name."""

    def run(scope, names, make_sample, **options):
        dataset = Dataset(tmp_path, names)
        out = tmp_path / "out"
        with DefaultScope.overwrite_default_scope(scope):
            hook = HOOKS.build({"type": "DrawImagesHook", "directory": str(out), **options})
            hook.before_test(SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset)))
        hook.after_test_iter(None, 0, outputs=[make_sample(str(path)) for path in dataset.paths])
        return {str(path.relative_to(out)): np.asarray(Image.open(path), int) for path in out.rglob("*.*")}

    return run


def segmentation(path, truth=True):
    """The ground truth is a cat everywhere. The model predicts a dog in the right half."""
    structures = pytest.importorskip("mmseg.structures", reason="MMSegmentation is not installed")
    sample = structures.SegDataSample(metainfo={"img_path": path})
    found = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    if truth:
        sample.gt_sem_seg = PixelData(data=found.clone())
    found[..., SIZE // 2 :] = 1
    sample.pred_sem_seg = PixelData(data=found)
    return sample


def detection(path):
    """The ground truth is a cat at the top. The model predicts a cat and a dog at the bottom."""
    mmdet = pytest.importorskip("mmdet.structures", reason="MMDetection is not installed")
    masks = pytest.importorskip("mmdet.structures.mask", reason="MMDetection is not installed")
    sample = mmdet.DetDataSample(metainfo={"img_path": path})
    above = np.zeros((1, SIZE, SIZE), np.uint8)
    above[:, 50:250, 50:550] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[50.0, 50, 550, 250]]),
        labels=torch.tensor([0]),
        masks=masks.BitmapMasks(above, SIZE, SIZE),
    )
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[50.0, 350, 250, 550], [350, 350, 550, 550]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.2]),
    )
    return sample


def changed(pixels):
    """Where something is drawn over the grey."""
    return abs(pixels - 128).max(axis=-1) > 20


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (["a/1.png", "a/deep/1.png", "b/1.png"], {"a/1.jpg", "a/deep/1.jpg", "b/1.jpg"}),
        (["val/1.png", "val/2.png"], {"1.jpg", "2.jpg"}),
        (["1.png"], {"1.jpg"}),
    ],
)
def test_images_of_one_name_in_several_directories_are_all_drawn(draw, names, drawn):
    assert draw("mmseg", names, segmentation).keys() == drawn


def test_the_truth_of_a_segmentation_is_left_of_the_prediction_with_a_legend_each(draw):
    (both,) = draw("mmseg", ["1.png"], segmentation).values()
    height, width, _ = both.shape
    assert height == SIZE
    assert width % 2 == 0
    truth, found = both[:, : width // 2], both[:, width // 2 :]
    assert truth.shape[1] > SIZE
    left, right = (slice(100, 200), slice(50, 250)), (slice(100, 200), slice(350, 550))
    for side, part, channel in ((truth, left, 0), (truth, right, 0), (found, left, 0), (found, right, 2)):
        assert side[part].mean(axis=(0, 1)).argmax() == channel


def test_a_prediction_without_ground_truth_is_the_only_drawing(draw):
    (single,) = draw("mmseg", ["1.png"], lambda path: segmentation(path, truth=False)).values()
    (both,) = draw("mmseg", ["1.png"], segmentation).values()
    assert 2 * single.shape[1] == both.shape[1]


def test_the_truth_of_a_detection_is_left_of_what_is_found_with_some_score(draw):
    (both,) = draw("mmdet", ["1.png"], detection).values()
    assert both.shape == (SIZE, 2 * SIZE, 3)
    truth, found = changed(both[:, :SIZE]), changed(both[:, SIZE:])
    assert truth[60:240, 60:540].all()
    assert not truth[300:].any()
    assert not found[:300].any()
    assert found[345:355, 100:240].any()
    assert not found[:, 320:].any(), "of a score below 0.3"
    (both,) = draw("mmdet", ["1.png"], detection, score_thr=0.1).values()
    assert changed(both[:, SIZE:])[:, 320:].any()
